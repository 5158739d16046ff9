// Which task instance or run this page is about, and where Airflow is.

// Decoded by hand: Airflow 3.1 puts ids into the address as they are, and there a "+" is a plus, not a space.
export function idsFromQuery(query) {
  const values = {};
  for (const pair of query.replace(/^\?/, "").split("&")) {
    const equals = pair.indexOf("=");
    if (equals > 0) values[pair.slice(0, equals)] = decoded(pair.slice(equals + 1));
  }
  // A task that is not mapped has no index: the placeholder is left as it is.
  const mapIndex = /^\d+$/.test(values.map_index ?? "") ? Number(values.map_index) : -1;
  return { dag: values.dag ?? "", run: values.run ?? "", task: values.task ?? "", mapIndex };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

// This page is one folder below Airflow, whatever the path of its base URL.
const AIRFLOW = new URL("../", document.baseURI);

// The ids "." and ".." are steps within an address, encoded or not: a browser resolves them, and asks for something else.
export class NoAddress extends Error {}

function encode(id) {
  if (id === "." || id === "..") throw new NoAddress(id);
  return encodeURIComponent(id);
}

export function apiAddress(path, parameters = {}) {
  const address = new URL(`api/v2/${path}`, AIRFLOW);
  for (const [name, value] of Object.entries(parameters)) address.searchParams.append(name, value);
  return address;
}

export function runPath(ids) {
  return `dags/${encode(ids.dag)}/dagRuns/${encode(ids.run)}`;
}

export function instancesPath(ids) {
  return `${runPath(ids)}/taskInstances`;
}

export function instancePath(ids) {
  return `${instancesPath(ids)}/${encode(ids.task)}`;
}

// Undefined where there is none.
export function instanceTab(ids) {
  if ([ids.dag, ids.run, ids.task].some((id) => id === "." || id === "..")) return undefined;
  const mapped = ids.mapIndex >= 0 ? `mapped/${ids.mapIndex}/` : "";
  return new URL(
    `dags/${encode(ids.dag)}/runs/${encode(ids.run)}/tasks/${encode(ids.task)}/${mapped}plugin/mullama`,
    AIRFLOW,
  ).href;
}
