// The tab of a run: all its tasks that are ours, and their sum.

import { idsFromQuery } from "./address.js";
import { replaceContent, sentence } from "./elements.js";
import { instancesView, lookAtInstances } from "./instances-view.js";
import { isFinal } from "./manifest.js";
import { poll } from "./polling.js";
import { explain, mayPass } from "./refusals.js";
import { followTheme } from "./theme.js";

const EVERY_MS = 5000;

const { dag, run } = idsFromQuery(window.location.search);
const ids = { dag, run, mapIndex: -1 };

async function look() {
  const seen = await lookAtInstances(ids);
  replaceContent(
    seen.ours.length ? await instancesView(ids, seen) : [sentence("No task of this run uses Mullama, so there is nothing to show here.")],
  );
  return seen.ours.some((one) => !isFinal(one.state));
}

function failed(error) {
  console.debug(error);
  replaceContent([sentence(explain(error, "this run"), "refused")]);
  return mayPass(error);
}

followTheme();
poll(look, EVERY_MS, failed);
