// The tab of a run: all its tasks that are ours, and their sum.

import { idsFromQuery } from "./address.js";
import { announce, replaceContent, sentence } from "./elements.js";
import { instancesView, lookAtInstances } from "./instances-view.js";
import { isFinal } from "./manifest.js";
import { poll } from "./polling.js";
import { explain, mayPass } from "./refusals.js";
import { followTheme } from "./theme.js";

const EVERY_MS = 5000;
const FOREIGN = "No task of this run uses Mullama, so there is nothing to show here.";

const { dag, run } = idsFromQuery(window.location.search);
const ids = { dag, run, mapIndex: -1 };
let shown; // what the content was made of

async function look() {
  const seen = await lookAtInstances(ids);
  const news = JSON.stringify([seen.ours.map((one) => [one.id, one.state, one.try_number]), [...seen.left.values()]]);
  if (news !== shown) {
    replaceContent(seen.ours.length ? await instancesView(ids, seen) : [sentence(FOREIGN)]);
  }
  shown = news;
  return seen.ours.some((one) => !isFinal(one.state));
}

function failed(error) {
  const passing = mayPass(error);
  if (passing && shown !== undefined) announce(explain(error, "this run"));
  else replaceContent([sentence(explain(error, "this run"), "refused")]);
  shown &&= "an older state";
  return passing;
}

followTheme();
poll(look, EVERY_MS, failed);
