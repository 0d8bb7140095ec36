// A benchmark: how far it is, and what it found as pictures and tables behind tabs. Everything is in the traits, so the
// tabs work where no kernel runs.
import { h, newId } from "./common.js";
import { shell } from "./shell.js";
import { tabList } from "./tabs.js";

const LOOKS = { "▲": "lab-better", "▼": "lab-worse" }; // by the first letter of a verdict

function table({ head, rows }) {
  const line = ([first, ...rest]) =>
    h(
      "tr",
      { class: LOOKS[rest[0]?.[0]] },
      h("th", { scope: "row" }, first),
      rest.map((c) => h("td", null, c)),
    );
  const top = h(
    "thead",
    null,
    h(
      "tr",
      null,
      head.map((c) => h("th", { scope: "col" }, c)),
    ),
  );
  return h(
    "div",
    { class: "lab-scroll", tabindex: "0", role: "region", "aria-label": "table" },
    h("table", { class: "lab-grid-table" }, top, h("tbody", null, rows.map(line))),
  );
}

function render({ model, el }) {
  const id = newId();
  const frame = shell({ model, el });
  const panel = h("div", { class: "lab-view", role: "tabpanel", id });
  let url = null;
  let shown = "";
  const show = (name) => {
    shown = name;
    model.set("shown", name);
    if (!frame.lost) model.save_changes();
    paint();
  };
  const tabs = tabList("what is shown of the run", id, show);
  const empty = h(
    "p",
    { class: "lab-empty" },
    "Run measures what is ticked; its pictures and tables will be here. Or choose an earlier run above.",
  );
  el.append(frame.head, frame.error, tabs.node, panel, empty);

  const paint = () => {
    const views = model.get("views"),
      named = (name) => views.find((v) => v.name === name);
    const view = named(model.get("shown")) ?? named(shown) ?? views[0];
    if (url) URL.revokeObjectURL(url);
    url = null;
    shown = view?.name ?? "";
    tabs.show(new Map(views.map((v) => [v.name, v.name])), shown);
    panel.hidden = tabs.node.hidden = !view;
    empty.hidden = Boolean(view) || model.get("busy");
    if (!view) return;
    panel.setAttribute("aria-labelledby", tabs.labelled());
    if (view.png) url = URL.createObjectURL(new Blob([view.png], { type: "image/png" }));
    const picture = () => h("img", { class: "lab-picture", src: url, alt: view.note });
    panel.replaceChildren(url ? picture() : h("div", null, h("p", { class: "lab-legend" }, view.note), table(view)));
  };
  const other = () => model.get("shown") !== shown && paint();
  const watch = { "change:views": paint, "change:shown": other, "change:busy": paint };
  for (const [event, f] of Object.entries(watch)) model.on(event, f);
  frame.say();
  paint();
  return () => {
    for (const [event, f] of Object.entries(watch)) model.off(event, f);
    frame.close();
    if (url) URL.revokeObjectURL(url);
  };
}

export default { render };
