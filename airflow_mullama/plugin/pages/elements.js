// Making elements. Every text goes in as text: nothing that came from a task is ever read as markup.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === false || value === null) continue;
    if (key === "onclick") made.addEventListener("click", value);
    else if (key === "width") made.style.setProperty("inline-size", value);
    else made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false));
  return made;
}

export function sentence(text, kind = "") {
  return element("p", { class: `sentence ${kind}`.trim(), role: "status" }, text);
}

export function card(title, ...children) {
  return element("section", { class: "card" }, element("h2", {}, title), children);
}

// Pairs of a word and its value; pairs without a value are left out.
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return element(
    "dl",
    { class: "facts" },
    shown.map(([word, value]) => element("div", {}, element("dt", {}, word), element("dd", {}, value))),
  );
}

export function copyButton(text, what) {
  const button = element("button", { type: "button", class: "copy", "aria-label": `Copy ${what}` }, "Copy");
  button.addEventListener("click", async () => {
    button.textContent = (await copied(text)) ? "Copied" : "Select and copy it by hand";
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  return button;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without HTTPS there is no clipboard object: the older way still works.
    const area = element("textarea", { class: "off-screen", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

// The frame may not navigate the page around it, but that page may: a link of its own, clicked, does.
export function airflowLink(address, text, key) {
  const link = element("a", { href: address, "data-key": key }, text);
  if (window.parent !== window) {
    const follow = (event) => {
      event.preventDefault();
      const outer = window.parent.document.createElement("a");
      outer.href = address;
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.button === 1) outer.target = "_blank";
      outer.click();
    };
    link.addEventListener("click", follow);
    link.addEventListener("auxclick", (event) => event.button === 1 && follow(event));
  }
  return link;
}
