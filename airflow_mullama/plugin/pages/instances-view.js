// Several task instances: one line each, and their sum.

import { instanceTab } from "./address.js";
import * as airflow from "./airflow-api.js";
import { progressBar } from "./bars.js";
import { show } from "./content.js";
import { airflowLink, card, element, sentence } from "./elements.js";
import { count, plural, rate } from "./format.js";
import { instanceName, stateBadge } from "./heading.js";
import { LINK_NAME, failedRows, isFinal, isManifest, isOurOperator, isProgress, isSummary, total } from "./manifest.js";
import { errorsCard, rowsCard } from "./rows-view.js";
import { table } from "./tables.js";

// Numbers that are read without being asked for: each is a request. Those that run come first, and besides.
const READ_AT_ONCE = 100;
const MOST_PROBED = 200;

const SUMMARY = "MullamaSummaryOperator";
// States of those that did something, and should have said what.
const ENDED = ["success", "failed"];
const tableMemory = {};
const accounts = new Map(); // by instance and attempt: what ended does not change
let readUpTo = READ_AT_ONCE;
let subclasses; // task ids of ours that their operator's name does not tell
let unprobed = 0; // tasks that were not asked

// Returns { instances, ours, read, left }: of all instances ours, of those the ones whose numbers were read, and what was
// there, as a Map from an instance to { manifest } or { progress }.
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
  // A task over its error budget left its manifest under another key, and one that failed otherwise none.
  const anyFailed = read.some((one) => one.state === "failed");
  const overBudget = anyFailed ? await airflow.instancesWithXcom(ids, "manifest") : new Set();
  await airflow.inTurns(read, async (one) => {
    const key = overBudget.has(`${one.task_id}/${one.map_index}`) ? "manifest" : "return_value";
    const found = await accountOf(ids, one, key);
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
    [...left.values()].map((one) => one.progress),
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

async function accountOf(ids, instance, xcomKey) {
  const own = idsOf(ids, instance);
  if (instance.state === "running") {
    const progress = await airflow.progress(own, instance);
    return isProgress(progress) ? { progress } : undefined;
  }
  const ended = instance.state === "success" || (instance.state === "failed" && xcomKey === "manifest");
  if (!ended) return undefined;
  const key = `${instance.task_id}/${instance.map_index}/${instance.try_number}/${instance.end_date}`;
  if (!accounts.has(key)) {
    const manifest = await airflow.xcom(own, xcomKey);
    accounts.set(key, isSummary(manifest) ? { summary: true } : isManifest(manifest) ? { manifest } : undefined);
  }
  return accounts.get(key);
}

async function instancesView(ids, { ours, read, left }, lookAgain) {
  const contract = await airflow.rowContract();
  const manifests = [...left.values()].map((one) => one.manifest).filter(Boolean);
  const running = [...left.values()].map((one) => one.progress).filter(Boolean);
  const without = read.filter((one) => ENDED.includes(one.state) && !left.get(one)?.manifest).length;
  const sum = total(manifests);
  return [
    element("header", {}, element("h1", {}, plural(ours.length, "task instance")), tally(ours)),
    read.length < ours.length && readMore(read.length, ours.length, lookAgain),
    unprobed > 0 && sentence(`${plural(unprobed, "further task")} of this run may be ours under another operator’s name.`),
    manifests.length > 0 && rowsCard(sum, contract, `Rows of ${plural(manifests.length, "finished task instance")}`),
    running.length > 0 && runningCard(running),
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

function runningCard(running) {
  const sum = (name) => running.reduce((all, one) => all + (one[name] ?? 0), 0);
  return card(
    `${plural(running.length, "task instance")} running`,
    element(
      "p",
      { class: "headline" },
      element("strong", {}, count(sum("done"))),
      ` of ${count(sum("total"))} rows`,
      element("span", { class: "verdict" }, rate(sum("rows_per_second"), "rows/s") ?? ""),
    ),
    progressBar(sum("done"), sum("total"), "Rows done by those that run"),
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
          const own = idsOf(ids, one);
          return airflowLink(instanceTab(own), instanceName(one), `${one.task_id}/${one.map_index}`);
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
