// Light or dark, as Airflow's UI is: it marks its root element, and keeps the choice in the browser's storage.

const system = window.matchMedia("(prefers-color-scheme: dark)");

function airflowsRoot() {
  try {
    return window.parent !== window ? window.parent.document.documentElement : undefined;
  } catch {
    return undefined; // somebody else's frame
  }
}

function isDark() {
  const root = airflowsRoot();
  if (root?.classList.contains("dark")) return true;
  if (root?.classList.contains("light")) return false;
  let kept;
  try {
    kept = localStorage.getItem("theme");
  } catch {
    kept = undefined; // storage is forbidden
  }
  return kept === "dark" || (kept !== "light" && system.matches);
}

export function followTheme() {
  const apply = () => (document.documentElement.dataset.theme = isDark() ? "dark" : "light");
  apply();
  system.addEventListener("change", apply);
  window.addEventListener("storage", apply);
  const root = airflowsRoot();
  if (root) new MutationObserver(apply).observe(root, { attributes: true, attributeFilter: ["class"] });
}
