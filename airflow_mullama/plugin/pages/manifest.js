// Reading manifests: whose a value is, and sums over several.

export function isManifest(value) {
  return isObject(value) && Number.isInteger(value.manifest_version) && isObject(value.status_counts);
}

export function isSummary(value) {
  return isObject(value) && Number.isInteger(value.partition_count) && Number.isInteger(value.missing_count);
}

export function isProgress(value) {
  return isObject(value) && typeof value.done === "number" && typeof value.total === "number";
}

export function isFailure(value) {
  return isObject(value) && typeof value.message === "string";
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function failedRows(manifest) {
  const counts = manifest.status_counts ?? {};
  return (counts.failed ?? 0) + (counts.invalid_output ?? 0);
}

export function partitionsOf(manifest) {
  return manifest.partitions ?? [manifest];
}

// How many partitions it is of; its list of them may be cut.
export function partitionCount(manifest) {
  return manifest.partition_count ?? partitionsOf(manifest).length;
}

// The sum of several, with what the row views need.
export function total(manifests) {
  const sum = { rows: 0, status_counts: {}, error_types: {}, prompt_tokens: 0, completion_tokens: 0 };
  for (const one of manifests) {
    for (const name of ["rows", "prompt_tokens", "completion_tokens"]) sum[name] += one[name] ?? 0;
    for (const name of ["status_counts", "error_types"]) {
      for (const [key, value] of Object.entries(one[name] ?? {})) sum[name][key] = (sum[name][key] ?? 0) + value;
    }
  }
  return sum;
}

// Operators of this package by the name Airflow shows. Subclasses are known by the link they inherit, or by what
// they leave.
const OPERATORS = /^(Mullama(Generate|Embed|Classify|Summary)Operator|@task\.mullama_(generate|embed))$/;

export function isOurOperator(name) {
  return OPERATORS.test(name ?? "");
}

export const LINK_NAME = "Mullama";

const FINAL_STATES = new Set(["success", "failed", "skipped", "upstream_failed", "removed"]);

export function isFinal(state) {
  return FINAL_STATES.has(state);
}
