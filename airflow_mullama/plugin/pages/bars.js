// Bars with accessible names.

import { element } from "./elements.js";
import { count, percent } from "./format.js";

// One bar of several parts: [{ name, kind, amount }]. A part that is there is always wide enough to be seen.
export function stackedBar(parts, label) {
  const shown = parts.filter(({ amount }) => amount > 0);
  const whole = shown.reduce((sum, { amount }) => sum + amount, 0);
  const words = shown.map(({ name, amount }) => `${count(amount)} ${name}`).join(", ") || "none";
  return element(
    "div",
    { class: "bar", role: "img", "aria-label": `${label}: ${words}` },
    shown.map(({ kind, amount }) =>
      element("span", { class: `part ${kind}`, width: `${(amount / whole) * 100}%` }),
    ),
  );
}

export function legend(parts) {
  const whole = parts.reduce((sum, { amount }) => sum + amount, 0);
  return element(
    "ul",
    { class: "legend" },
    parts.map(({ name, kind, amount, meaning }) =>
      element(
        "li",
        { title: meaning },
        element("span", { class: `dot ${kind}`, "aria-hidden": "true" }),
        element("span", { class: "name" }, name),
        element("strong", {}, count(amount)),
        element("span", { class: "quiet" }, percent(amount, whole)),
      ),
    ),
  );
}

export function progressBar(done, total, label) {
  const share = total > 0 ? Math.min(1, done / total) : 0;
  return element(
    "div",
    {
      class: "bar progress",
      role: "progressbar",
      "aria-label": label,
      "aria-valuemin": 0,
      "aria-valuemax": total,
      "aria-valuenow": done,
      "aria-valuetext": `${count(done)} of ${count(total)} rows`,
    },
    element("span", { class: "part running", width: `${share * 100}%` }),
  );
}
