// The tab of a run: all its tasks that are ours, and their sum.

import { idsFromQuery } from "./address.js";
import { replaceContent, sentence } from "./elements.js";
import { instancesView, lookAtInstances, newsOf } from "./instances-view.js";
import { isFinal } from "./manifest.js";
import { SELDOM_MS, poll } from "./polling.js";
import { showFailure } from "./refusals.js";
import { followTheme } from "./theme.js";

const EVERY_MS = 5000;
const FOREIGN = "No task of this run uses Mullama, so there is nothing to show here.";

const { dag, run } = idsFromQuery(window.location.search);
const ids = { dag, run, mapIndex: -1 };
let shown; // what the content was made of

async function look() {
  const seen = await lookAtInstances(ids);
  const news = newsOf(seen);
  if (news !== shown) {
    replaceContent(seen.ours.length ? await instancesView(ids, seen, lookAgain) : [sentence(FOREIGN)]);
  }
  shown = news;
  return seen.ours.some((one) => !isFinal(one.state)) ? EVERY_MS : SELDOM_MS;
}

function failed(error) {
  const again = showFailure(error, "this run", shown !== undefined);
  shown &&= "an older state";
  return again;
}

followTheme();
const lookAgain = poll(look, EVERY_MS, failed);
