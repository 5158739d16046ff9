// Reading Airflow's REST API with the session of whoever is looking: Airflow decides what they may see.

import { apiAddress, instancePath, instancesPath } from "./address.js";

const PAGE = 100;

export class Refused extends Error {
  constructor(status, detail) {
    super(`Airflow answered ${status}`);
    this.status = status;
    this.detail = detail;
  }
}

export class Unreachable extends Error {}

async function answered(address) {
  try {
    return await fetch(address, { headers: { Accept: "application/json" } });
  } catch (error) {
    throw new Unreachable(error.message);
  }
}

export async function read(path, parameters) {
  const answer = await answered(apiAddress(path, parameters));
  if (!answer.ok) {
    const body = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, typeof body.detail === "string" ? body.detail : "");
  }
  return answer.json();
}

async function unlessMissing(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return undefined;
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
  // The value as it was left, not a text made of it.
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

async function allPages(name, readPage) {
  const found = [];
  for (;;) {
    const answer = await readPage({ limit: PAGE, offset: found.length });
    found.push(...answer[name]);
    if (answer[name].length === 0 || found.length >= answer.total_entries) return found;
  }
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

const SAID = ["progress", "manifest", "failure"];

// What a task said of itself, unless an earlier attempt did: { progress, manifest, failure }, those that there are.
export async function said(ids, instance) {
  if (hasStateStore) {
    const path = `${instancePath(ids)}/state-store`;
    try {
      const answer = await read(path, { map_index: ids.mapIndex, limit: PAGE });
      const isOld = (entry) => Date.parse(entry.updated_at) < Date.parse(instance.start_date);
      const entries = answer.task_state_store.filter((entry) => SAID.includes(entry.key) && !isOld(entry));
      const found = Object.fromEntries(entries.map(({ key, value }) => [key, value]));
      const progress = entries.find(({ key }) => key === "progress");
      return progress ? { ...found, progress: { ...progress.value, updated_at: progress.updated_at } } : found;
    } catch (error) {
      if (!isNoStateStore(error)) {
        if (error instanceof Refused && error.status === 404) return {}; // of this instance only
        throw error;
      }
      hasStateStore = false;
    }
  }
  const keys = await xcomKeys(ids);
  const found = {};
  for (const key of SAID.filter((one) => keys.has(one))) found[key] = await xcom(ids, key);
  return found;
}

// Without the store, the last part of its address is taken for a map index, which it cannot be.
function isNoStateStore(error) {
  return error instanceof Refused && (error.status === 422 || (error.status === 404 && error.detail === "Not Found"));
}

export async function extraLinks(ids) {
  const links = await unlessMissing(read(`${instancePath(ids)}/links`, { map_index: ids.mapIndex }));
  return Object.keys(links?.extra_links ?? {});
}

// All task instances of a run, or of one task of it.
export function taskInstances(ids) {
  return allPages("task_instances", (page) =>
    ids.task
      ? read(`${instancePath(ids)}/listMapped`, { ...page, order_by: "map_index" })
      : read(instancesPath(ids), page),
  );
}

let contract;

async function readContract() {
  const answer = await answered(new URL("./row-contract.json", document.baseURI));
  if (!answer.ok) throw new Refused(answer.status, "");
  return answer.json();
}

export function rowContract() {
  contract ??= readContract().catch((error) => {
    contract = undefined; // the next look may get it
    throw error;
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
