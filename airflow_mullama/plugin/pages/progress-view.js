// A task that runs: how far it is.

import { progressBar } from "./bars.js";
import { card, element, facts } from "./elements.js";
import { count, percent, plural, rate, seconds, time } from "./format.js";

export function progressView(progress, title = "Running") {
  return card(
    title,
    element(
      "p",
      { class: "headline" },
      element("strong", { id: "done" }, count(progress.done)),
      ` of ${count(progress.total)} rows`,
      element("span", { class: "verdict" }, percent(progress.done, progress.total)),
    ),
    progressBar(progress.done, progress.total, "Rows done"),
    facts([
      ["Rows", rate(progress.rows_per_second, "rows/s")],
      ["Tokens", rate(progress.tokens_per_second, "tok/s")],
      ["Time left", typeof progress.eta_seconds === "number" ? seconds(progress.eta_seconds) : "not known yet"],
      ["Failed", element("span", { class: progress.errors ? "bad" : "" }, plural(progress.errors ?? 0, "row"))],
    ]),
    element(
      "p",
      { class: "note" },
      place(progress),
      element("code", {}, progress.partition ?? ""),
      progress.updated_at ? `, as of ${time(progress.updated_at)}` : "",
    ),
  );
}

function place(progress) {
  if (!(progress.partition_count > 1)) return "Input ";
  const rows = `${count(progress.partition_done)} of ${count(progress.partition_total)} rows`;
  return `Partition ${count(progress.partition_number)} of ${count(progress.partition_count)}, ${rows}: `;
}
