// Several task instances: one line each, and their sum.

import { instanceTab } from "./address.js";
import * as airflow from "./airflow-api.js";
import { failuresCard } from "./asked-view.js";
import { progressBar } from "./bars.js";
import { show } from "./content.js";
import { airflowLink, card, element, facts, sentence } from "./elements.js";
import { count, percent, plural, rate, seconds } from "./format.js";
import { instanceName, stateBadge } from "./heading.js";
import { LINK_NAME, failedRows, isFailure, isFinal, isManifest, isOurOperator, isProgress, isSummary, total } from "./manifest.js";
import { errorsCard, rowsCard } from "./rows-view.js";
import { table } from "./tables.js";

// Numbers that are read without being asked for: each is a request. As many running tasks are read before these.
const READ_AT_ONCE = 100;
const MOST_PROBED = 200;

const SUMMARY = "MullamaSummaryOperator";
// States of those that did something, and should have said what.
const ENDED = ["success", "failed"];
const tableMemory = {};
const accounts = new Map(); // by instance and attempt: what ended does not change
const heard = new Map(); // by instance: the last progress; a further attempt goes on from there, and says so later
const MOST_FAILURES = 20;
let readUpTo = READ_AT_ONCE;
let subclasses; // task ids of ours that cannot be told by their operator's name
let unprobed = 0; // tasks that were not asked

// Returns { instances, ours, read, left }: of all instances ours, of those the ones whose numbers were read, and what was
// there, as a Map from an instance to { manifest }, { progress }, { failure } or several of these.
export async function lookAtInstances(ids) {
  const instances = await airflow.taskInstances(ids);
  const mine = await ourTasks(ids, instances);
  // The summary adds up what the others say: it would count twice.
  let ours = instances.filter((one) => mine.has(one.task_id) && one.operator_name !== SUMMARY);
  ours.sort(
    (one, other) => one.task_id.localeCompare(other.task_id) || one.map_index - other.map_index,
  );
  const left = new Map();
  const running = ours.filter((one) => one.state === "running").slice(0, READ_AT_ONCE);
  const others = ours.filter((one) => one.state !== "running").slice(0, readUpTo);
  let read = [...running, ...others];
  await airflow.inTurns(read, async (one) => {
    const found = await accountOf(ids, one);
    if (found !== undefined) left.set(one, found);
  });
  const isSum = (one) => left.get(one)?.summary === true; // a subclass of that operator
  [ours, read] = [ours, read].map((some) => some.filter((one) => !isSum(one)));
  return { instances, ours, read, left };
}

// Shows them, or `foreign` where none is ours; `lookAgain` is called when more is to be read. Returns whether one goes on.
export async function showInstances(ids, seen, foreign, lookAgain) {
  await show(newsOf(seen), () => (seen.ours.length ? instancesView(ids, seen, lookAgain) : [sentence(foreign)]));
  return seen.ours.some((one) => !isFinal(one.state));
}

// What can be seen of them, as a text.
function newsOf({ ours, read, left }) {
  return JSON.stringify([
    ours.map((one) => [one.id, one.state, one.try_number, one.end_date]),
    read.length,
    [...left.values()].map((one) => [one.progress, one.failure]),
  ]);
}

async function ourTasks(ids, instances) {
  const mine = new Set();
  const unknown = new Map();
  for (const one of instances) {
    if (isOurOperator(one.operator_name) || isOurOperator(one.operator)) mine.add(one.task_id);
    else if (!unknown.has(one.task_id)) unknown.set(one.task_id, one);
  }
  if (subclasses === undefined) {
    // A subclass has another name, and inherits the link to this tab.
    const probed = [...unknown.values()].slice(0, MOST_PROBED);
    unprobed = unknown.size - probed.length;
    const found = await airflow.inTurns(probed, async (one) => {
      const names = await airflow.extraLinks(idsOf(ids, one));
      return names.includes(LINK_NAME) ? one.task_id : undefined;
    });
    subclasses = new Set(found.filter(Boolean));
  }
  for (const taskId of subclasses) mine.add(taskId);
  return mine;
}

function idsOf(ids, instance) {
  return { ...ids, task: instance.task_id, mapIndex: instance.map_index };
}

// States in which an attempt is at work, or was and another one follows.
const UNDER_WAY = ["running", "up_for_retry", "queued", "scheduled", "restarting", "up_for_reschedule", "deferred"];

async function accountOf(ids, instance) {
  const own = idsOf(ids, instance);
  const name = `${instance.task_id}/${instance.map_index}`;
  if (UNDER_WAY.includes(instance.state) && instance.start_date) {
    const { progress } = await airflow.said(own, instance);
    if (isProgress(progress)) heard.set(name, progress);
    return heard.has(name) ? { progress: heard.get(name) } : undefined;
  }
  if (!ENDED.includes(instance.state)) return undefined;
  const key = `${name}/${instance.try_number}/${instance.end_date}`;
  if (!accounts.has(key)) accounts.set(key, await finalAccount(own, instance));
  return accounts.get(key);
}

async function finalAccount(ids, instance) {
  const { manifest, progress, failure } = instance.start_date ? await airflow.said(ids, instance) : {};
  const account = isSummary(manifest) || isManifest(manifest) ? manifest : await accountInXcom(ids);
  if (isSummary(account)) return { summary: true };
  return {
    manifest: account,
    progress: account === undefined && isProgress(progress) ? progress : undefined,
    failure: instance.state === "failed" && isFailure(failure) ? failure : undefined,
  };
}

// A task over its error budget left its manifest under another key, and one that failed otherwise none.
async function accountInXcom(ids) {
  const keys = await airflow.xcomKeys(ids);
  for (const key of ["return_value", "manifest"].filter((one) => keys.has(one))) {
    const value = await airflow.xcom(ids, key);
    if (isManifest(value) || isSummary(value)) return value;
  }
  return undefined;
}

async function instancesView(ids, { ours, read, left }, lookAgain) {
  const contract = await airflow.rowContract();
  const manifests = [...left.values()].map((one) => one.manifest).filter(Boolean);
  const without = read.filter((one) => ENDED.includes(one.state) && !left.get(one)?.manifest).length;
  const sum = total(manifests);
  return [
    element("header", {}, element("h1", {}, plural(ours.length, "task instance")), tally(ours)),
    read.length < ours.length && readMore(read.length, ours.length, lookAgain),
    unprobed > 0 && sentence(`${plural(unprobed, "further task")} of this run may be ours under another operator’s name.`),
    manifests.length > 0 && rowsCard(sum, contract, `Rows of ${plural(manifests.length, "finished task instance")}`),
    runCard(ours, read, left),
    failuresCard(failuresOf(ids, read, left)),
    without > 0 &&
      sentence(`${plural(without, "task instance")} ended without a manifest, so no rows of ${without === 1 ? "it" : "them"} are counted.`),
    errorsCard(sum, contract),
    card("Task instances", instancesTable(ids, ours, left)),
  ];
}

function tally(instances) {
  const states = new Map();
  for (const one of instances) states.set(one.state, (states.get(one.state) ?? 0) + 1);
  return [...states].map(([state, number]) => element("span", { class: "tally" }, stateBadge(state), ` ${count(number)}`));
}

function readMore(read, all, lookAgain) {
  const more = () => {
    readUpTo += READ_AT_ONCE;
    lookAgain();
  };
  return element(
    "p",
    { class: "sentence" },
    `Numbers of ${count(read)} of ${count(all)}. `,
    element("button", { type: "button", "data-key": "more", onclick: more }, `Read ${count(READ_AT_ONCE)} more`),
  );
}

function failuresOf(ids, read, left) {
  return read
    .filter((one) => left.get(one)?.failure)
    .slice(0, MOST_FAILURES)
    .map((one) => ({ name: instanceName(one), address: instanceTab(idsOf(ids, one)), failure: left.get(one).failure }));
}

// How far the run is: the rows of all instances, those that have ended too, so that a task that ends takes nothing away.
export function farOf(states) {
  const far = { done: 0, total: 0, rate: 0, running: 0, waiting: 0 };
  let known = 0;
  for (const { state, manifest, progress } of states) {
    const done = manifest?.rows ?? progress?.done;
    if (state === "running") far.running += 1;
    if (done === undefined) {
      if (!isFinal(state)) far.waiting += 1;
      continue;
    }
    known += 1;
    far.done += done;
    far.total += isFinal(state) ? done : Math.max(done, progress.total);
    if (state === "running") far.rate += progress.rows_per_second ?? 0;
  }
  // Of those that have said nothing yet the rows are not known: as many as the others have, for the time left.
  far.about = far.waiting > 0 && known > 0;
  if (far.about) far.total += Math.round((far.total / known) * far.waiting);
  far.eta = far.rate > 0 ? (far.total - far.done) / far.rate : undefined;
  return far;
}

function runCard(ours, read, left) {
  const known = new Set(read);
  const far = farOf(ours.filter((one) => known.has(one) || !isFinal(one.state)).map((one) => ({ state: one.state, ...left.get(one) })));
  const isOver = ours.every((one) => isFinal(one.state));
  if (isOver || far.total === 0) return undefined;
  return card(
    `${plural(far.running, "task instance")} running`,
    element(
      "p",
      { class: "headline" },
      element("strong", { id: "run-done" }, count(far.done)),
      ` of ${far.about ? "about " : ""}${count(far.total)} rows`,
      element("span", { class: "verdict" }, percent(far.done, far.total)),
    ),
    progressBar(far.done, far.total, "Rows done by this run"),
    facts([
      ["Rows", rate(far.rate, "rows/s")],
      ["Time left", far.eta === undefined ? "not known yet" : `about ${seconds(far.eta)}`],
      ["No numbers yet", far.waiting ? plural(far.waiting, "task instance") : undefined],
    ]),
  );
}

function instancesTable(ids, ours, left) {
  const manifestOf = (one) => left.get(one)?.manifest;
  const progressOf = (one) => left.get(one)?.progress;
  const rows = (one) => manifestOf(one)?.rows ?? progressOf(one)?.done;
  const failed = (one) => (manifestOf(one) ? failedRows(manifestOf(one)) : progressOf(one)?.errors);
  const speed = (one) => manifestOf(one)?.rows_per_second ?? progressOf(one)?.rows_per_second;
  return table(
    "Task instances",
    [
      {
        title: "Task",
        cell: (one) => {
          const tab = instanceTab(idsOf(ids, one));
          if (tab === undefined) return instanceName(one);
          return airflowLink(tab, instanceName(one), `${one.task_id}/${one.map_index}`);
        },
        value: (one) => instanceName(one),
        wide: true,
      },
      { title: "State", cell: (one) => stateBadge(one.state), value: (one) => one.state },
      {
        title: "Rows",
        cell: (one) =>
          progressOf(one)
            ? element(
                "span",
                {},
                `${count(progressOf(one).done)} of ${count(progressOf(one).total)}`,
                progressBar(progressOf(one).done, progressOf(one).total, `Rows done by ${instanceName(one)}`),
              )
            : count(rows(one)),
        value: (one) => rows(one) ?? -1,
        number: true,
      },
      {
        title: "Failed",
        cell: (one) => element("span", { class: failed(one) ? "bad" : "" }, count(failed(one))),
        value: (one) => failed(one) ?? -1,
        number: true,
      },
      {
        title: "Rows/s",
        cell: (one) => (manifestOf(one)?.skipped === "up_to_date" ? "up to date" : (rate(speed(one), "") ?? "–")),
        value: (one) => speed(one) ?? -1,
        number: true,
      },
    ],
    ours,
    tableMemory,
  );
}
