// Reading Airflow's REST API with the session of whoever looks: Airflow decides what they may see.

import { apiAddress, instancePath, instancesPath, runPath } from "./address.js";

const PAGE = 100;
const MOST_PAGES = 50;

export class Refused extends Error {
  constructor(status, detail) {
    super(`Airflow answered ${status}`);
    this.status = status;
    this.detail = detail;
  }
}

export async function read(path, parameters) {
  const answer = await fetch(apiAddress(path, parameters), { headers: { Accept: "application/json" } });
  if (!answer.ok) {
    const body = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, typeof body.detail === "string" ? body.detail : "");
  }
  return answer.json();
}

async function unlessMissing(promise, statuses = [404]) {
  try {
    return await promise;
  } catch (error) {
    if (error instanceof Refused && statuses.includes(error.status)) return undefined;
    throw error;
  }
}

export function taskInstance(ids) {
  const path = instancePath(ids);
  return read(ids.mapIndex >= 0 ? `${path}/${ids.mapIndex}` : path);
}

// The value that a task left under a key, or undefined.
export async function xcom(ids, key) {
  const address = `${instancePath(ids)}/xcomEntries/${encodeURIComponent(key)}`;
  // The value as it was left, and no text of it.
  const entry = await unlessMissing(
    read(address, { map_index: ids.mapIndex, deserialize: false, stringify: false }),
  );
  return asObject(entry?.value);
}

// The keys under which a task left something: a list of them brings no values.
export async function xcomKeys(ids) {
  const answer = await read(`${instancePath(ids)}/xcomEntries`, { map_index: ids.mapIndex, limit: PAGE });
  return new Set(answer.xcom_entries.map((entry) => entry.key));
}

// Which task instances of a run left something under a key, as `task/index`.
export async function instancesWithXcom(ids, key) {
  const found = [];
  for (let page = 0; page < MOST_PAGES; page += 1) {
    const parameters = { xcom_key: key, limit: PAGE, offset: found.length };
    const answer = await read(`${runPath(ids)}/taskInstances/~/xcomEntries`, parameters);
    found.push(...answer.xcom_entries);
    if (answer.xcom_entries.length === 0 || found.length >= answer.total_entries) break;
  }
  return new Set(found.map((entry) => `${entry.task_id}/${entry.map_index}`));
}

function asObject(value) {
  if (typeof value !== "string") return value ?? undefined;
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

// Airflow 3.3 and newer have a store for a task's state; before that a task's numbers are an XCom.
let hasStateStore = true;

// What a task last said of itself, unless an earlier attempt did.
export async function progress(ids, instance) {
  if (hasStateStore) {
    const path = `${instancePath(ids)}/state-store`;
    // Without the store, the last part of this address is taken for a map index, which it cannot be.
    const answer = await unlessMissing(read(path, { map_index: ids.mapIndex, limit: PAGE }), [404, 422]);
    if (answer !== undefined) {
      const entry = answer.task_state_store.find(({ key }) => key === "progress");
      const old = Date.parse(entry?.updated_at) < Date.parse(instance.start_date);
      return entry && !old ? { ...entry.value, updated_at: entry.updated_at } : undefined;
    }
    hasStateStore = false;
  }
  return (await xcomKeys(ids)).has("progress") ? xcom(ids, "progress") : undefined;
}

export async function extraLinks(ids) {
  const links = await unlessMissing(read(`${instancePath(ids)}/links`, { map_index: ids.mapIndex }));
  return Object.keys(links?.extra_links ?? {});
}

// All task instances of a run, or of one task of it.
export async function taskInstances(ids) {
  const found = [];
  for (let page = 0; page < MOST_PAGES; page += 1) {
    const answer = ids.task
      ? await read(`${instancePath(ids)}/listMapped`, { limit: PAGE, offset: found.length, order_by: "map_index" })
      : await read(instancesPath(ids), { limit: PAGE, offset: found.length });
    found.push(...answer.task_instances);
    if (answer.task_instances.length === 0 || found.length >= answer.total_entries) break;
  }
  return found;
}

let contract;

export function rowContract() {
  contract ??= fetch(new URL("./row-contract.json", document.baseURI)).then((answer) => {
    if (!answer.ok) throw new Refused(answer.status, "");
    return answer.json();
  });
  return contract;
}

// A few at a time: a run may have a thousand tasks, and Airflow other things to do.
export async function inTurns(items, work, atOnce = 6) {
  const results = new Array(items.length);
  let next = 0;
  const one = async () => {
    while (next < items.length) {
      const index = next;
      next += 1;
      results[index] = await work(items[index]);
    }
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, one));
  return results;
}
