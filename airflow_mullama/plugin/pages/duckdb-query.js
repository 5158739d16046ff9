// A DuckDB query over the outputs that have failed rows: which errors, and how often.

import { failedRows, partitionCount, partitionsOf } from "./manifest.js";

const MOST_FILES = 100;
// Only these are read by DuckDB under the address that the manifest has.
const READABLE = /^(s3|gs|gcs|file):\/\//;
const BUCKETS = /^(s3|gs|gcs):\/\//;

// Returns { query, files, of, more } or undefined where no query can be right: there are failed rows in `of` outputs and,
// where `more`, perhaps in others that the manifest has no room for.
export function duckdbQuery(manifest) {
  const prefix = manifest.output_prefix;
  const failed = partitionsOf(manifest).filter((one) => failedRows(one) > 0);
  const paths = failed.map((one) => duckdbPath(one.output_path));
  if (typeof prefix !== "string" || paths.length === 0 || paths.includes(undefined)) return undefined;
  const shown = paths.slice(0, MOST_FILES);
  const [type, error, status] = ["error_type", "error", "status"].map((name) => identifier(prefix + name));
  const files = shown.length === 1 ? text(shown[0]) : `[\n  ${shown.map(text).join(",\n  ")}\n]`;
  const query = [
    `SELECT ${type}, ${error}, count(*) AS failed_rows`,
    `FROM read_parquet(${files}, hive_partitioning = false)`,
    `WHERE ${status} IN ('failed', 'invalid_output')`,
    "GROUP BY ALL",
    "ORDER BY failed_rows DESC;",
  ].join("\n");
  const more = failed.length === partitionsOf(manifest).length && failed.length < partitionCount(manifest);
  return { query, files: shown.length, of: paths.length, more };
}

function duckdbPath(path) {
  if (typeof path !== "string" || path === "") return undefined;
  if (path.includes("://") && !READABLE.test(path)) return undefined;
  // The connection that Airflow puts before a bucket means nothing outside of it.
  const plain = BUCKETS.test(path) ? path.replace(/^([a-z0-9]+:\/\/)[^/@]*@/, "$1") : path.replace(/^file:\/\//, "");
  // DuckDB takes a backslash for a separator of folders in a pattern, and there is no other way to write a wildcard.
  if (plain.includes("\\") && /[[*?]/.test(plain)) return undefined;
  // In a set, a character that is a wildcard elsewhere stands for itself.
  return plain.replace(/[[*?]/g, "[$&]");
}

function text(value) {
  return `'${value.replaceAll("'", "''")}'`;
}

function identifier(name) {
  return /^[a-z_][a-z0-9_]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`;
}
