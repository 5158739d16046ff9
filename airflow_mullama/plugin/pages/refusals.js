// What Airflow refused, in a sentence that says what to do.

import { Refused } from "./airflow-api.js";

export function explain(error, what) {
  if (!(error instanceof Refused)) return "Airflow does not answer; trying again soon.";
  if (error.status === 401) return "You are signed out of Airflow: sign in again, then come back to this tab.";
  if (error.status === 403) return `You may not see what is shown of ${what}: ask for access to the task instances and XComs of this DAG.`;
  if (error.status === 404) return `Airflow does not know ${what} any more.`;
  return `Airflow answered with the error ${error.status}; trying again soon.`;
}

// Whether asking again may help.
export function mayPass(error) {
  return !(error instanceof Refused) || error.status >= 500 || error.status === 429;
}
