// Asks again while there is something to wait for and somebody to see it.

const LONGEST_MS = 60_000;

// `look` returns whether to look again; where it throws, the time between two looks doubles.
export function poll(look, everyMs, failed) {
  let wait = everyMs;
  let timer;
  let busy = false;
  let finished = false;

  async function turn() {
    if (busy || finished || document.hidden) return;
    busy = true;
    clearTimeout(timer);
    try {
      finished = !(await look());
      wait = everyMs;
    } catch (error) {
      finished = !failed(error);
      wait = Math.min(wait * 2, LONGEST_MS);
    }
    busy = false;
    if (!finished && !document.hidden) timer = setTimeout(turn, wait);
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : turn()));
  // A page that was opened in the background waits for its reader.
  turn();
  return { again: () => ((finished = false), turn()) };
}
