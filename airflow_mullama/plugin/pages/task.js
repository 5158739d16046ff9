// The tab of a task instance.

import { idsFromQuery } from "./address.js";
import * as airflow from "./airflow-api.js";
import { askedCard, failureCard } from "./asked-view.js";
import { show, showFailure } from "./content.js";
import { sentence } from "./elements.js";
import { instanceHeading } from "./heading.js";
import { lookAtInstances, showInstances } from "./instances-view.js";
import { emptySummaryView, manifestView } from "./manifest-view.js";
import { LINK_NAME, isFinal, isManifest, isOurOperator, isProgress, isSummary } from "./manifest.js";
import { SELDOM_MS, poll } from "./polling.js";
import { progressView } from "./progress-view.js";
import { followTheme } from "./theme.js";

const EVERY_MS = 3000;
const IDLE_MS = 10_000; // not scheduled yet, and perhaps never
const FOREIGN = "This task does not use Mullama, so there is nothing to show here.";

const ids = idsFromQuery(window.location.search);
let ours; // whether the task is one of ours; not known at first
let settled; // the attempt whose end is shown

// Anything else may wait for its next attempt, with what an earlier one left still there.
const ENDED_BY_ITSELF = ["success", "failed", "up_for_retry"];

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
  const attempt = JSON.stringify([instance.state, instance.try_number, instance.start_date, instance.end_date]);
  if (attempt === settled) return SELDOM_MS;
  const ended = ENDED_BY_ITSELF.includes(instance.state);
  let left = ended ? await account() : undefined;
  // What is also there whatever keeps the XComs.
  const said = instance.start_date && (instance.state !== "success" || left === undefined) ? await airflow.said(ids, instance) : {};
  if (ended && left === undefined && (isManifest(said.manifest) || isSummary(said.manifest))) left = said.manifest;
  if (left === undefined) ours ??= await isOurs(instance);
  if (left === undefined && !ours) {
    await show(FOREIGN, () => [sentence(FOREIGN)]);
    return SELDOM_MS;
  }
  const { progress, failure } = said;
  const news = JSON.stringify([instance.state, instance.try_number, left, progress, failure]);
  await show(news, async () => [
    instanceHeading(instance),
    ended && failureCard(failure),
    ...(await body(instance, left, progress)),
    askedCard(instance, left),
  ]);
  if (!isFinal(instance.state)) return instance.state === null ? IDLE_MS : EVERY_MS;
  settled = attempt;
  return SELDOM_MS;
}

async function body(instance, left, progress) {
  if (isManifest(left)) return manifestView(left, await airflow.rowContract(), ids);
  if (left !== undefined) return emptySummaryView(left, ids);
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
  if (seen.instances.length === 0) throw new airflow.Refused(404, "");
  return (await showInstances(ids, seen, FOREIGN, lookAgain)) ? EVERY_MS : SELDOM_MS;
}

function failed(error) {
  settled = undefined;
  return showFailure(error, "this task");
}

followTheme();
const lookAgain = poll(look, EVERY_MS, failed);
