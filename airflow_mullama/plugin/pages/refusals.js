// What went wrong, in a sentence that says what to do.

import { NoAddress } from "./address.js";
import { Refused, Unreachable } from "./airflow-api.js";

export function explain(error, what) {
  if (error instanceof Unreachable) return "Airflow does not answer; trying again soon.";
  if (error instanceof NoAddress) return `The id "${error.message}" has no address in Airflow's API, so nothing can be shown of it: give it another name.`;
  if (isOfThisPage(error)) return `This page failed (${error.message}): reload it, and report it if that does not help.`;
  if (error.status === 401) return "You are signed out of Airflow: sign in again, then come back to this tab.";
  if (error.status === 403) return `You may not see what is shown of ${what}: ask for access to the task instances and XComs of this DAG.`;
  if (error.status === 404) return `Airflow does not know ${what} any more.`;
  return `Airflow answered with the error ${error.status}; trying again soon.`;
}

// Whether it is neither an answer of Airflow's nor its silence, but a mistake here.
export function isOfThisPage(error) {
  return !(error instanceof Refused || error instanceof Unreachable || error instanceof NoAddress);
}

// Whether asking again soon may help.
export function mayPass(error) {
  return error instanceof Unreachable || (error instanceof Refused && (error.status >= 500 || error.status === 429));
}
