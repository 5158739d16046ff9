// A finished task: everything its manifest says.

import { instanceTab } from "./address.js";
import { airflowLink, card, copyButton, element, facts } from "./elements.js";
import { bytes, count, percent, plural, rate, seconds, time } from "./format.js";
import { failedRows, isSummary, partitionCount } from "./manifest.js";
import { errorsCard, queryCard, rowsCard } from "./rows-view.js";
import { table } from "./tables.js";

export function manifestView(manifest, contract, ids) {
  if (manifest.skipped === "input_missing") {
    return [
      card("Rows", element("p", {}, "There was no input, so nothing was done and nothing was written.")),
      whatCard(manifest),
      rawCard(manifest),
    ];
  }
  return [
    isSummary(manifest) && summaryCard(manifest, ids),
    rowsCard(manifest, contract),
    errorsCard(manifest, contract),
    queryCard(manifest),
    element("div", { class: "columns" }, speedCard(manifest), timeCard(manifest), originCard(manifest)),
    whatCard(manifest),
    partitionsCard(manifest),
    rawCard(manifest),
  ];
}

export function emptySummaryView(summary, ids) {
  return [summaryCard(summary, ids), rawCard(summary)];
}

// A missing task, named `task_id` or `task_id[map_index]`: a link to its tab.
function missingTask(name, ids) {
  const [, task, index] = /^(.*?)(?:\[(\d+)\])?$/.exec(name);
  return airflowLink(instanceTab({ ...ids, task, mapIndex: index === undefined ? -1 : Number(index) }), name, `missing ${name}`);
}

function summaryCard(summary, ids) {
  const missing = summary.missing ?? [];
  const more = summary.missing_count - missing.length;
  return card(
    "Tasks before this one",
    facts([
      ["Partitions", count(summary.partition_count)],
      ["Tasks missing", element("span", { class: summary.missing_count ? "bad" : "" }, count(summary.missing_count))],
      ["Tasks skipped", summary.skipped_count === undefined ? undefined : count(summary.skipped_count)],
    ]),
    missing.length > 0 &&
      element(
        "p",
        { class: "note" },
        "Did not end well, or left no manifest: ",
        missing.map((name, index) => [index ? ", " : "", missingTask(name, ids)]),
        more > 0 ? ` and ${count(more)} more` : "",
        ".",
      ),
  );
}

function speedCard(manifest) {
  const done = (manifest.computed_rows ?? 0) + (manifest.deduplicated_rows ?? 0);
  const pairs = [
    ["Rows", done ? rate(manifest.rows_per_second, "rows/s") : undefined],
    ["Tokens", done ? rate(manifest.tokens_per_second, "tok/s") : undefined],
    ["Prompt tokens", count(manifest.prompt_tokens)],
    ["… evaluated before", manifest.cached_prompt_tokens ? count(manifest.cached_prompt_tokens) : undefined],
    ["Answer tokens", manifest.completion_tokens ? count(manifest.completion_tokens) : undefined],
    ["Read", bytes(manifest.bytes_in)],
    ["Written", bytes(manifest.bytes_out)],
  ];
  return card("Speed", facts(pairs));
}

const TIMES = [
  ["model_load", "Loading the model"],
  ["waiting_for_gpu", "Waiting for a GPU"],
  ["waiting_for_input", "Waiting for input"],
  ["engine", "Engine at work"],
  ["writing", "Writing"],
];

// Reading, computing and writing overlap: each is shown against the whole, and they need not add up to it.
function timeCard(manifest) {
  const spent = manifest.seconds ?? {};
  const whole = spent.total ?? 0;
  if (!(whole > 0)) return undefined;
  return card(
    "Where the time went",
    element(
      "ul",
      { class: "times" },
      TIMES.filter(([key]) => spent[key] > 0).map(([key, word]) =>
        element(
          "li",
          {},
          element("span", {}, word),
          element("strong", {}, seconds(spent[key])),
          element(
            "span",
            { class: "bar thin", "aria-hidden": "true" },
            element("span", { class: `part ${key === "engine" ? "running" : "other"}`, width: `${Math.min(100, (spent[key] / whole) * 100)}%` }),
          ),
        ),
      ),
      element("li", { class: "total" }, element("span", {}, partitionCount(manifest) > 1 ? "In all, of the partitions together" : "In all"), element("strong", {}, seconds(whole))),
    ),
  );
}

const ORIGINS = [
  ["computed_rows", "Computed"],
  ["deduplicated_rows", "Same request as another row"],
  ["resumed_rows", "Kept from an earlier attempt"],
  ["reused_rows", "Kept from the earlier output"],
  ["repaired_rows", "Failed before, asked again"],
  ["truncated_rows", "Text cut at the model’s limit"],
];

function originCard(manifest) {
  if (manifest.skipped === "up_to_date") {
    return card("Where the rows came from", element("p", {}, "The output was up to date: nothing was computed."));
  }
  const pairs = ORIGINS.filter(([key]) => key === "computed_rows" || manifest[key] > 0).map(([key, word]) => [
    word,
    count(manifest[key]),
  ]);
  const asked = manifest.rows > 0 && manifest.attempts > 0;
  return card("Where the rows came from", facts([...pairs, ["Attempts at rows", asked ? count(manifest.attempts) : undefined]]));
}

function whatCard(manifest) {
  const engine = [manifest.engine, manifest.engine_version].filter(Boolean).join(" ");
  const many = partitionCount(manifest);
  return card(
    "What ran",
    facts([
      ["Task", manifest.task],
      ["Model", manifest.model],
      ["Engine", engine],
      ["Answers held to the schema", yesNo(manifest.constrained)],
      [many > 1 ? "Inputs below" : "Input", path(manifest.input_path, "the input's path")],
      [many > 1 ? "Outputs below" : "Output", path(manifest.output_path, "the output's path")],
      ["Started", time(manifest.started_at)],
      ["Ended", time(manifest.ended_at)],
      ["Model’s SHA-256", hash(manifest.model_sha256)],
      ["Fingerprint", hash(manifest.fingerprint)],
      ["Request fingerprint", hash(manifest.request_fingerprint)],
      ["airflow-mullama", manifest.package_version],
    ]),
  );
}

function yesNo(value) {
  return typeof value === "boolean" ? (value ? "yes" : "no") : undefined;
}

function path(value, what) {
  if (!value) return undefined;
  return element("span", { class: "path" }, element("code", {}, value), copyButton(value, what));
}

function hash(value) {
  return value ? element("code", { class: "hash" }, value) : undefined;
}

const DONE = { up_to_date: "up to date", input_missing: "no input" };

function partitionsCard(manifest) {
  const partitions = manifest.partitions ?? [];
  if (partitions.length === 0) return undefined;
  const all = partitionCount(manifest);
  return card(
    plural(all, "partition"),
    partitions.length < all &&
      element(
        "p",
        { class: "note" },
        `${count(partitions.length)} are listed, those with the most failed rows: a manifest has room for no more. The account of each stands in its output’s footer.`,
      ),
    table(
      "Partitions",
      [
        { title: "Input", cell: (one) => element("code", {}, one.input_path), value: (one) => one.input_path, wide: true },
        { title: "Rows", cell: (one) => count(one.rows), value: (one) => one.rows, number: true },
        {
          title: "Failed",
          cell: (one) =>
            element(
              "span",
              { class: failedRows(one) ? "bad" : "", title: percent(failedRows(one), one.rows) },
              count(failedRows(one)),
            ),
          value: failedRows,
          number: true,
        },
        {
          title: "Rows/s",
          cell: (one) => DONE[one.skipped] ?? rate(one.rows_per_second, "") ?? "–",
          value: (one) => (one.skipped ? -1 : one.rows_per_second),
          number: true,
        },
        {
          title: "Time",
          cell: (one) => (one.skipped ? "–" : seconds(one.seconds?.total)),
          value: (one) => one.seconds?.total ?? 0,
          number: true,
        },
      ],
      partitions,
    ),
  );
}

function rawCard(manifest) {
  const text = JSON.stringify(manifest, undefined, 2);
  return element(
    "details",
    { class: "card raw", "data-key": "raw" },
    element("summary", {}, "The manifest as it is"),
    copyButton(text, "the manifest"),
    element("pre", { tabindex: "0", "aria-label": "Manifest" }, text),
  );
}
