// What a task was asked to do, and why it failed.

import { airflowLink, card, element, facts } from "./elements.js";
import { isFailure } from "./manifest.js";

// Arguments as Airflow rendered them for this attempt; the prompts first, as they are read most.
const PROMPTS = [
  ["system_prompt", "System prompt"],
  ["prompt_template", "Prompt"],
  ["text_template", "Text"],
];
const SETTINGS = [
  ["prompt_column", "Prompt in the column"],
  ["text_column", "Text in the column"],
  ["labels", "Labels"],
  ["sampling", "sampling"],
  ["engine_options", "engine_options"],
  ["max_error_ratio", "max_error_ratio"],
  ["max_missing", "max_missing"],
  ["output_prefix", "output_prefix"],
];

// What a task left when it ended also says max_tokens, which Airflow takes for a secret by its name.
export function askedCard(instance, left) {
  const fields = instance.rendered_fields ?? {};
  const prompts = PROMPTS.filter(([name]) => isGiven(fields[name]));
  const settings = SETTINGS.filter(([name]) => isGiven(fields[name])).map(([name, word]) => [word, fields[name]]);
  if (isGiven(left?.max_tokens)) settings.push(["max_tokens", left.max_tokens]);
  if (prompts.length + settings.length === 0) return undefined;
  return card(
    "What was asked",
    prompts.map(([name, word]) =>
      element("div", { class: "prompt" }, element("h3", {}, word), element("pre", { tabindex: "0", "aria-label": word }, text(fields[name]))),
    ),
    facts(settings.map(([word, value]) => [word, element("code", {}, text(value))])),
  );
}

function isGiven(value) {
  return value !== undefined && value !== null && value !== "";
}

function text(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

export function failureCard(failure) {
  if (!isFailure(failure)) return undefined;
  return card("Why it failed", element("p", { class: "bad" }, failure.message), element("p", { class: "note" }, failure.error ?? ""));
}

// Of several: [{ name, address, failure }].
export function failuresCard(failures) {
  if (failures.length === 0) return undefined;
  return card(
    "Why tasks failed",
    element(
      "ul",
      { class: "failures" },
      failures.map(({ name, address, failure }) =>
        element("li", {}, airflowLink(address, name, `failure ${name}`), " ", element("span", { class: "bad" }, failure.message)),
      ),
    ),
  );
}
