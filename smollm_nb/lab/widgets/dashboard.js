// A benchmark: how far it is, and what it found as pictures and tables behind tabs. Everything is in the traits, so tabs work where no kernel runs.
import { h } from "./common.js";

function table({ head, rows }) {
  const kind = { "▲": "lab-better", "▼": "lab-worse" };
  return h("div", { class: "lab-scroll", tabindex: "0", role: "region", "aria-label": "table" }, h("table", { class: "lab-grid-table" },
    h("thead", null, h("tr", null, head.map((c) => h("th", { scope: "col" }, c)))),
    h("tbody", null, rows.map(([first, ...rest]) => h("tr", { class: kind[rest[0]?.[0]] }, h("th", { scope: "row" }, first), rest.map((c) => h("td", null, c)))))));
}

function render({ model, el }) {
  const status = h("div", { class: "lab-status", role: "status", "aria-live": "polite" }), error = h("div", { class: "lab-error", role: "alert" }), bar = h("progress", { class: "lab-progress", max: "1", "aria-label": "progress" });
  const id = `lab-${Math.random().toString(36).slice(2)}`, tabs = h("div", { class: "lab-tabs", role: "tablist", "aria-label": "what is shown of the run" }), panel = h("div", { class: "lab-view", role: "tabpanel", id });
  el.classList.add("lab");
  el.append(h("div", { class: "lab-head" }, status, bar), error, tabs, panel);
  let url = null, shown = "";
  const words = () => {
    status.textContent = model.get("status");
    error.textContent = model.get("error");
    error.hidden = !model.get("error");
    bar.hidden = !model.get("busy");
    const p = model.get("progress");
    if (p < 0) bar.removeAttribute("value");
    else bar.value = p;
    el.classList.toggle("lab-busy", model.get("busy"));
  };
  const show = (name, focus) => {
    shown = name;
    model.set("shown", name);
    model.save_changes();
    paint();
    if (focus) tabs.querySelector("[aria-selected=true]").focus();
  };
  const step = (e) => {
    const names = model.get("views").map((v) => v.name), to = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
    if (!to) return;
    e.preventDefault();
    e.stopPropagation();
    show(names[(names.indexOf(shown) + to + names.length) % names.length], true);
  };
  const paint = () => {
    const views = model.get("views"), wanted = model.get("shown");
    if (url) URL.revokeObjectURL(url);
    url = null;
    const view = views.find((v) => v.name === wanted) ?? views.find((v) => v.name === shown) ?? views[0];
    shown = view?.name ?? "";
    tabs.replaceChildren(...views.map((v) => h("button", { role: "tab", id: v === view ? `${id}-tab` : null, "aria-controls": id, "aria-selected": String(v === view), tabindex: v === view ? "0" : "-1", onclick: () => show(v.name) }, v.name)));
    panel.hidden = !view;
    if (!view) return;
    panel.setAttribute("aria-labelledby", `${id}-tab`);
    if (view.png) url = URL.createObjectURL(new Blob([view.png], { type: "image/png" }));
    panel.replaceChildren(url ? h("img", { class: "lab-picture", src: url, alt: view.note }) : h("div", null, h("p", { class: "lab-legend" }, view.note), table(view)));
  };
  tabs.addEventListener("keydown", step);
  const watch = { "change:status": words, "change:error": words, "change:busy": words, "change:progress": words, "change:views": paint, "change:shown": () => model.get("shown") !== shown && paint() };
  for (const [event, f] of Object.entries(watch)) model.on(event, f);
  words();
  paint();
  return () => {
    for (const [event, f] of Object.entries(watch)) model.off(event, f);
    if (url) URL.revokeObjectURL(url);
  };
}

export default { render };
