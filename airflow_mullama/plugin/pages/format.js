// Numbers, times and sizes for people.

const LOCALE = undefined; // the reader's

export function count(value) {
  return typeof value === "number" ? value.toLocaleString(LOCALE, { maximumFractionDigits: 0 }) : "–";
}

export function rate(value, unit) {
  if (typeof value !== "number" || !(value > 0)) return undefined;
  const digits = value < 10 ? 2 : value < 100 ? 1 : 0;
  return `${value.toLocaleString(LOCALE, { maximumFractionDigits: digits })} ${unit}`;
}

// To the nearest tenth, but never all or nothing where it is not: 2,999 of 3,000 is not 100 %.
export function percent(part, whole) {
  if (!(whole > 0)) return "0 %";
  const tenths = Math.round((part * 1000) / whole);
  if (part > 0 && tenths === 0) return "< 0.1 %";
  return `${((part < whole ? Math.min(tenths, 999) : tenths) / 10).toLocaleString(LOCALE)} %`;
}

export function seconds(value) {
  if (typeof value !== "number" || value < 0) return "–";
  if (value < 10) return `${value.toLocaleString(LOCALE, { maximumFractionDigits: value < 1 ? 2 : 1 })} s`;
  const whole = Math.round(value);
  const two = (number) => String(number).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  return `${count(Math.floor(whole / 3600))} h ${two(Math.floor((whole % 3600) / 60))} min`;
}

export function bytes(value) {
  if (typeof value !== "number") return undefined;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let amount = value;
  let unit = 0;
  while (amount >= 1000 && unit < units.length - 1) {
    amount /= 1000;
    unit += 1;
  }
  return `${amount.toLocaleString(LOCALE, { maximumFractionDigits: amount < 10 && unit ? 1 : 0 })} ${units[unit]}`;
}

export function time(text) {
  const date = new Date(text ?? NaN);
  if (Number.isNaN(date.getTime())) return undefined;
  return date.toLocaleString(LOCALE, {
    year: "numeric",
    month: "short",
    day: "numeric",
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
    timeZoneName: "short",
  });
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}
