// Tabs: one stop for the Tab key, arrow keys between them.
import { h } from "./common.js";

/** A list of tabs for the element with the id `panel`. `show(names, shown)` draws it; `choose(name)` is called. */
export function tabList(label, panel, choose) {
  const node = h("div", { class: "lab-tabs", role: "tablist", "aria-label": label });
  let names = [];
  let shown = "";
  const tab = (name, title) =>
    h(
      "button",
      {
        type: "button",
        role: "tab",
        id: `${panel}-tab-${names.indexOf(name)}`,
        "aria-controls": panel,
        "aria-selected": String(name === shown),
        tabindex: name === shown ? "0" : "-1",
        onclick: () => choose(name),
      },
      title,
    );
  const show = (titles, now) => {
    // titles: Map of name → what the tab says
    const focused = node.contains(document.activeElement);
    names = [...titles.keys()];
    shown = now;
    node.replaceChildren(...names.map((name) => tab(name, titles.get(name))));
    if (focused) node.querySelector("[aria-selected=true]")?.focus();
  };
  node.addEventListener("keydown", (e) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
    if (!step) return;
    e.preventDefault();
    choose(names[(names.indexOf(shown) + step + names.length) % names.length]);
  });
  return { node, show, labelled: () => `${panel}-tab-${names.indexOf(shown)}` };
}
