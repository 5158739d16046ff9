// The tab of a task instance.

import { idsFromQuery } from "./address.js";
import * as airflow from "./airflow-api.js";
import { announce, replaceContent, sentence } from "./elements.js";
import { instanceHeading } from "./heading.js";
import { instancesView, lookAtInstances } from "./instances-view.js";
import { emptySummaryView, manifestView } from "./manifest-view.js";
import { LINK_NAME, isFinal, isManifest, isOurOperator, isProgress, isSummary } from "./manifest.js";
import { poll } from "./polling.js";
import { progressView } from "./progress-view.js";
import { explain, mayPass } from "./refusals.js";
import { followTheme } from "./theme.js";

const EVERY_MS = 3000;
const FOREIGN = "This task does not use Mullama, so there is nothing to show here.";

const ids = idsFromQuery(window.location.search);
let ours; // whether the task is one of ours; not known at first
let shown; // what the content was made of

// What the task left when it ended, whatever became of it.
async function account() {
  const keys = await airflow.xcomKeys(ids);
  for (const key of ["return_value", "manifest", "summary"].filter((one) => keys.has(one))) {
    const value = await airflow.xcom(ids, key);
    if (isManifest(value) || isSummary(value)) return value;
  }
  return undefined;
}

async function isOurs(instance) {
  if (isOurOperator(instance.operator_name) || isOurOperator(instance.operator)) return true;
  return (await airflow.extraLinks(ids)).includes(LINK_NAME);
}

async function look() {
  const instance = await foundInstance();
  if (instance === undefined) return lookAtMapped();
  const left = instance.state === "running" ? undefined : await account();
  if (left === undefined) ours ??= await isOurs(instance);
  if (left === undefined && !ours) {
    replaceContent([sentence(FOREIGN)]);
    return false;
  }
  const progress = left === undefined && instance.start_date ? await airflow.progress(ids, instance) : undefined;
  // What is read is not torn away while nothing new is known.
  const news = JSON.stringify([instance.state, instance.try_number, left, progress]);
  if (news !== shown) replaceContent([instanceHeading(instance), ...(await body(instance, left, progress))]);
  shown = news;
  return !isFinal(instance.state);
}

async function body(instance, left, progress) {
  if (isManifest(left)) return manifestView(left, await airflow.rowContract());
  if (left !== undefined) return emptySummaryView(left);
  const heard = isProgress(progress);
  if (instance.state === "running") {
    return heard
      ? [progressView(progress)]
      : [sentence("Running: it reads its input and loads the model; numbers follow with the first rows.")];
  }
  if (instance.state === "up_for_retry") {
    const waits = sentence("Its last attempt failed; the next one goes on from what is finished.");
    return heard ? [waits, progressView(progress, "Last heard of it")] : [waits];
  }
  if (!isFinal(instance.state)) return [sentence("Not started yet; its numbers appear here while it runs.")];
  if (instance.state === "skipped") return [sentence("Skipped: nothing was done.")];
  if (instance.state === "success") {
    return [sentence("Its manifest is not in Airflow’s database: it pushes none, or an XCom backend keeps it elsewhere.")];
  }
  if (instance.state === "upstream_failed") return [sentence("Not started, because a task before it failed.")];
  const why = sentence("It left no manifest: its log says why. What it finished is kept for the next attempt.");
  return heard ? [why, progressView(progress, "Last heard of it")] : [why];
}

async function foundInstance() {
  try {
    return await airflow.taskInstance(ids);
  } catch (error) {
    // Airflow answers so for a mapped task that is named without an index.
    if (error instanceof airflow.Refused && error.status === 404 && ids.mapIndex < 0) return undefined;
    throw error;
  }
}

async function lookAtMapped() {
  const seen = await lookAtInstances(ids);
  if (seen.instances.length === 0) {
    replaceContent([sentence("Airflow does not know this task instance any more.", "refused")]);
    return false;
  }
  replaceContent(seen.ours.length ? await instancesView(ids, seen) : [sentence(FOREIGN)]);
  return seen.ours.some((one) => !isFinal(one.state));
}

function failed(error) {
  const passing = mayPass(error);
  if (passing && shown !== undefined) announce(explain(error, "this task"));
  else replaceContent([sentence(explain(error, "this task"), "refused")]);
  shown &&= "an older state";
  return passing;
}

followTheme();
poll(look, EVERY_MS, failed);
