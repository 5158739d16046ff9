// What the tab is about: name, state, operator, attempt.

import { element } from "./elements.js";

export function instanceName(instance) {
  if (instance.map_index < 0) return instance.task_display_name ?? instance.task_id;
  const name = instance.rendered_map_index;
  return `${instance.task_display_name ?? instance.task_id} [${name ?? instance.map_index}]`;
}

export function stateBadge(state) {
  return element("span", { class: `state ${state ?? "none"}` }, (state ?? "not scheduled").replaceAll("_", " "));
}

export function instanceHeading(instance) {
  const attempt = instance.try_number > 1 ? `attempt ${instance.try_number}` : undefined;
  const about = [instance.operator_name ?? instance.operator, attempt].filter(Boolean).join(" · ");
  return element(
    "header",
    {},
    element("h1", {}, instanceName(instance)),
    stateBadge(instance.state),
    element("span", { class: "quiet" }, about),
  );
}
