// Rows by status, and errors by type.

import { legend, stackedBar } from "./bars.js";
import { card, copyButton, element } from "./elements.js";
import { count, percent, plural } from "./format.js";
import { duckdbQuery } from "./duckdb-query.js";
import { failedRows } from "./manifest.js";
import { table } from "./tables.js";

export function rowsCard(account, contract, title = "Rows") {
  const known = contract.statuses.map(({ name, meaning }) => ({
    name,
    meaning,
    kind: name,
    amount: account.status_counts?.[name] ?? 0,
  }));
  const failed = failedRows(account);
  return card(
    title,
    element(
      "p",
      { class: "headline" },
      element("strong", { id: "rows" }, count(account.rows)),
      ` ${account.rows === 1 ? "row" : "rows"}`,
      element(
        "span",
        { class: failed ? "verdict bad" : "verdict good" },
        failed ? `${count(failed)} failed (${percent(failed, account.rows)})` : account.rows ? "none failed" : "",
      ),
    ),
    stackedBar(known, "Rows by status"),
    legend(known),
  );
}

export function errorsCard(account, contract) {
  const counts = Object.entries(account.error_types ?? {}).filter(([, amount]) => amount > 0);
  if (counts.length === 0) return undefined;
  const known = new Map(contract.error_types.map((one) => [one.name, one]));
  const rows = counts
    .map(([name, amount]) => ({ name, amount, ...(known.get(name) ?? {}) }))
    .sort((one, other) => other.amount - one.amount);
  const retryable = rows.filter((row) => row.retryable).reduce((sum, row) => sum + row.amount, 0);
  return card(
    "Rows without a result",
    table(
      "Errors by type",
      [
        { title: "error_type", cell: (row) => element("code", {}, row.name), value: (row) => row.name },
        { title: "Meaning", cell: (row) => row.meaning ?? "An error type of a newer version.", wide: true },
        { title: "Asked again?", cell: (row) => askedAgain(row), value: (row) => askedAgain(row) },
        { title: "Rows", cell: (row) => count(row.amount), value: (row) => row.amount, number: true },
        { title: "Share", cell: (row) => percent(row.amount, account.rows), number: true },
      ],
      rows,
    ),
    retryable > 0 &&
      element("p", { class: "note" }, `Running the task again asks ${plural(retryable, "row")} again and keeps all others.`),
  );
}

function askedAgain(row) {
  if (row.retryable === undefined) return "unknown";
  return row.retryable ? "yes, at the next run" : "no";
}

export function queryCard(manifest) {
  if (failedRows(manifest) === 0) return undefined;
  const found = duckdbQuery(manifest);
  if (found === undefined) return undefined;
  const note =
    found.of > found.files || found.more
      ? `Over ${count(found.files)} of ${found.more ? "more than " : ""}${count(found.of)} outputs with failed rows.`
      : `Over ${found.of === 1 ? "the output" : `the ${count(found.of)} outputs`} with failed rows.`;
  return card(
    "Which rows, with DuckDB",
    element(
      "div",
      { class: "query" },
      element("pre", { tabindex: "0", "aria-label": "DuckDB query" }, element("code", { id: "query" }, found.query)),
      copyButton(found.query, "the query"),
    ),
    element("p", { class: "note" }, note),
  );
}
