// What went wrong, in a sentence that says what to do.

import { Refused, Unreachable } from "./airflow-api.js";
import { announce, replaceContent, sentence } from "./elements.js";
import { SELDOM_MS } from "./polling.js";

export function explain(error, what) {
  if (error instanceof Unreachable) return "Airflow does not answer; trying again soon.";
  if (!(error instanceof Refused)) return `This page failed (${error.message}): reload it, and report it if that does not help.`;
  if (error.status === 401) return "You are signed out of Airflow: sign in again, then come back to this tab.";
  if (error.status === 403) return `You may not see what is shown of ${what}: ask for access to the task instances and XComs of this DAG.`;
  if (error.status === 404) return `Airflow does not know ${what} any more.`;
  return `Airflow answered with the error ${error.status}; trying again soon.`;
}

// Whether asking again soon may help.
function mayPass(error) {
  return error instanceof Unreachable || (error instanceof Refused && (error.status >= 500 || error.status === 429));
}

let said; // of a failure that lasts

// Shows what went wrong; above what is shown already, where that may pass. Returns when to look again, if not soon.
export function showFailure(error, what, somethingIsShown) {
  const text = explain(error, what);
  if (!(error instanceof Refused || error instanceof Unreachable)) console.error(error);
  if (mayPass(error) && somethingIsShown) {
    announce(text);
    return undefined;
  }
  const there = document.querySelector("#content > .refused:only-child");
  if (there === null || said !== text) replaceContent([sentence(text, "refused")]);
  said = text;
  return mayPass(error) ? undefined : SELDOM_MS;
}
