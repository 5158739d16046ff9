// Tables that can be sorted by a click or the keyboard, and are shown a page at a time.

import { element } from "./elements.js";
import { count } from "./format.js";

const PAGE = 50;

// columns: [{ title, cell(row) -> node or text, value(row) -> what it is sorted by, number: right-aligned }]
export function table(caption, columns, rows, memory = {}) {
  const holder = element("div", { class: "table" });
  memory.shown ??= PAGE;
  const draw = () => {
    const focused = holder.contains(document.activeElement) ? document.activeElement.dataset.sort : undefined;
    const sorted = memory.column === undefined ? rows : sortedBy(rows, columns[memory.column], memory.descending);
    const more = rows.length - memory.shown;
    holder.replaceChildren(
      element(
        "table",
        { "aria-label": caption },
        element("thead", {}, element("tr", {}, columns.map((column, index) => heading(caption, column, index, memory, draw)))),
        element(
          "tbody",
          {},
          sorted
            .slice(0, memory.shown)
            .map((row) =>
              element("tr", {}, columns.map((column) => element("td", { class: kind(column) }, column.cell(row) ?? "–"))),
            ),
        ),
      ),
    );
    if (more > 0) {
      const next = () => ((memory.shown += PAGE), draw());
      holder.append(
        element(
          "p",
          { class: "more" },
          `${count(memory.shown)} of ${count(rows.length)} shown. `,
          element("button", { type: "button", "data-key": `more ${caption}`, onclick: next }, `Show ${count(Math.min(PAGE, more))} more`),
        ),
      );
    }
    if (focused !== undefined) holder.querySelector(`[data-sort="${focused}"]`)?.focus({ preventScroll: true });
  };
  draw();
  return holder;
}

function heading(caption, column, index, memory, draw) {
  if (!column.value) return element("th", { scope: "col", class: kind(column) }, column.title);
  const active = memory.column === index;
  const sort = () => {
    memory.descending = active ? !memory.descending : Boolean(column.number);
    memory.column = index;
    draw();
  };
  return element(
    "th",
    {
      scope: "col",
      class: kind(column),
      "aria-sort": active ? (memory.descending ? "descending" : "ascending") : undefined,
    },
    element(
      "button",
      { type: "button", class: "sort", "data-sort": index, "data-key": `sort ${caption} ${index}`, onclick: sort },
      column.title,
      element("span", { "aria-hidden": "true" }, active ? (memory.descending ? " ↓" : " ↑") : ""),
    ),
  );
}

function kind(column) {
  return [column.number && "number", column.wide && "wide"].filter(Boolean).join(" ") || undefined;
}

function sortedBy(rows, column, descending) {
  const sorted = [...rows].sort((one, other) => compare(column.value(one), column.value(other)));
  return descending ? sorted.reverse() : sorted;
}

function compare(one, other) {
  if (typeof one === "number" && typeof other === "number") return one - other;
  return String(one ?? "").localeCompare(String(other ?? ""), undefined, { numeric: true });
}
