// The tab of a run: all its tasks that are ours, and their sum.

import { idsFromQuery } from "./address.js";
import { showFailure } from "./content.js";
import { lookAtInstances, showInstances } from "./instances-view.js";
import { SELDOM_MS, poll } from "./polling.js";
import { followTheme } from "./theme.js";

const EVERY_MS = 5000;
const FOREIGN = "No task of this run uses Mullama, so there is nothing to show here.";

const { dag, run } = idsFromQuery(window.location.search);
const ids = { dag, run, mapIndex: -1 };

async function look() {
  const unfinished = await showInstances(ids, await lookAtInstances(ids), FOREIGN, lookAgain);
  return unfinished ? EVERY_MS : SELDOM_MS;
}

followTheme();
const lookAgain = poll(look, EVERY_MS, (error) => showFailure(error, "this run"));
