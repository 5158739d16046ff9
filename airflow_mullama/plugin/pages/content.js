// What the page shows: rebuilt only when there is news, so that what is being read is not torn away.

import { sentence } from "./elements.js";
import { explain, isOfThisPage, mayPass } from "./refusals.js";
import { SELDOM_MS } from "./polling.js";

let shown; // what the content was made of
let readable = false; // whether it is more than a failure

// `make` returns the content, where `news` is not what is shown.
export async function show(news, make) {
  if (news === shown) return;
  replaceContent(await make());
  [shown, readable] = [news, true];
}

// Shows what went wrong; above what is shown already, where it may pass. Returns when to look again, if not soon.
export function showFailure(error, what) {
  const text = explain(error, what);
  if (isOfThisPage(error)) console.error(error);
  const passing = mayPass(error);
  if (passing && readable) {
    announce(text);
    shown = undefined; // an older state
  } else {
    if (shown !== text) replaceContent([sentence(text, "refused")]);
    [shown, readable] = [text, false];
  }
  return passing ? undefined : SELDOM_MS;
}

// What was open or had the focus stays so when the content is rebuilt.
function replaceContent(nodes) {
  const content = document.getElementById("content");
  const focused = document.activeElement?.dataset?.key;
  const open = new Set([...content.querySelectorAll("details[open][data-key]")].map((one) => one.dataset.key));
  content.replaceChildren(...[nodes].flat(Infinity).filter(Boolean));
  content.removeAttribute("aria-busy");
  for (const one of content.querySelectorAll("[data-key]")) {
    if (open.has(one.dataset.key)) one.open = true;
    if (focused !== undefined && one.dataset.key === focused) one.focus({ preventScroll: true });
  }
}

// Says something above the content that is there, until that is rebuilt.
function announce(text) {
  document.getElementById("notice")?.remove();
  const notice = sentence(text, "refused");
  notice.id = "notice";
  document.getElementById("content").prepend(notice);
}
