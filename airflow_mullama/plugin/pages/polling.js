// Asks again while somebody looks: often while something goes on, seldom when all is done or Airflow refuses, as a task may
// be cleared and a reader signed in again.

const LONGEST_MS = 60_000;
export const SELDOM_MS = 30_000;
// A look that takes long is no reason to keep Airflow busy.
const REST_PER_LOOK = 4;

// `look` returns the milliseconds until the next look; where it throws, `failed` does, or the time between two looks
// doubles where that returns nothing.
export function poll(look, everyMs, failed) {
  let failing = everyMs;
  let timer;
  let busy = false;
  let wanted = false;

  async function turn() {
    if (busy) wanted = true;
    if (busy || document.hidden) return;
    busy = true;
    wanted = false;
    clearTimeout(timer);
    const began = performance.now();
    let wait;
    try {
      wait = Math.max(await look(), (performance.now() - began) * REST_PER_LOOK);
      failing = everyMs;
    } catch (error) {
      failing = Math.min(failing * 2, LONGEST_MS);
      wait = failed(error) ?? failing;
    }
    busy = false;
    if (!document.hidden) timer = setTimeout(turn, wanted ? 0 : wait);
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : turn()));
  // A page that was opened in the background waits for its reader.
  turn();
  return turn;
}
