// Two models on one prompt: the reference's answer token by token, how far the candidate is at each, and why. State is in traits alone.
import { h, s, short, percent, visible, chart } from "./common.js";

const bars = (title, rows) => h("div", null, h("h4", null, title), h("table", { class: "lab-table" }, rows.map(([name, p]) =>
  h("tr", null, h("td", { class: "lab-piece" }, visible(name)), h("td", { class: "lab-bar" }, h("span", { style: `width:${(100 * p).toFixed(1)}%` })), h("td", { class: "lab-num" }, percent(p))))));

// which parts of the candidate made it choose otherwise
function reasons(blame) {
  if (blame.note) return h("p", null, blame.note);
  const most = Math.max(...blame.effects.map(([, e]) => Math.abs(e)), 1e-9);
  return h("div", null, h("h4", null, "what putting the reference's part back does to the margin, in logits"), h("table", { class: "lab-table" }, blame.effects.map(([name, effect, undone]) =>
    h("tr", { class: undone ? "lab-chosen" : null }, h("td", { class: "lab-part" }, name), h("td", { class: "lab-bar lab-wide" }, h("span", { class: effect < 0 ? "lab-minus" : null, style: `width:${(100 * Math.abs(effect)) / most}%` })),
      h("td", { class: "lab-num" }, `${effect < 0 ? "−" : "+"}${short(Math.abs(effect))}`), h("td", null, undone ? "undoes the flip" : "")))),
  h("p", null, blame.together.length ? `Enough to undo it: ${blame.together.join(", ")}.` : "Not even all parts together undo it: other arithmetic, not other weights."));
}

function render({ model, el }) {
  const status = h("div", { class: "lab-status", role: "status", "aria-live": "polite" }), error = h("div", { class: "lab-error", role: "alert" });
  const lead = h("div", { class: "lab-answer lab-pick", role: "listbox", tabindex: "0", "aria-label": "The reference's answer; the arrow keys go from token to token, Enter looks into one" });
  const other = h("div", { class: "lab-answer" }), names = [h("h4"), h("h4")];
  const kl = h("figure"), time = h("figure"), detail = h("div", { class: "lab-detail", "aria-live": "polite" });
  el.classList.add("lab");
  el.append(h("div", { class: "lab-head" }, status), error, h("div", { class: "lab-charts" }, h("div", null, names[0], lead), h("div", null, names[1], other)),
    h("div", { class: "lab-legend", "aria-hidden": "true" }, "same ", h("i"), " far apart (KL); framed where the candidate chooses another token; click one to look into it"), detail, h("div", { class: "lab-charts" }, kl, time));
  let at = -1;
  const look = () => {
    const row = model.get("rows")[model.get("selected")], blame = model.get("blame"), [a, b] = model.get("names");
    [...lead.children].forEach((span, i) => span.classList.toggle("lab-at", i === model.get("selected")));
    if (!row) return detail.replaceChildren();
    const about = blame.step === model.get("selected") ? reasons(blame) : null;
    detail.replaceChildren(h("div", { class: "lab-card-title" }, `token ${model.get("selected") + 1}`, h("span", null, `KL ${short(row[2])} nats`)), h("div", { class: "lab-charts" }, bars(a, row[5]), bars(b, row[6])), about ?? "");
  };
  const choose = (i) => {
    if (!model.get("rows")[i]) return;
    model.set("selected", i);
    model.save_changes();
  };
  lead.addEventListener("click", (e) => e.target.dataset.i && choose(Number((at = Number(e.target.dataset.i)))));
  lead.addEventListener("keydown", (e) => {
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: lead.children.length - 1 }[e.key];
    if (to === undefined && e.key !== "Enter") return;
    e.preventDefault();
    e.stopPropagation();
    if (e.key === "Enter") return choose(at);
    at = Math.max(0, Math.min(lead.children.length - 1, to));
    [...lead.children].forEach((span, i) => span.classList.toggle("lab-at", i === at));
    lead.setAttribute("aria-activedescendant", lead.children[at].id);
  });
  const id = `lab-${Math.random().toString(36).slice(2)}`;
  const draw = () => {
    const rows = model.get("rows"), [a, b] = model.get("names"), flip = rows.findIndex((r) => r[0] !== r[1]);
    names[0].textContent = a;
    names[1].textContent = flip < 0 ? b : `${b}: parts at token ${flip + 1}`;
    lead.replaceChildren(...rows.map(([x, y, d], i) => h("span", { class: x === y ? "lab-token" : "lab-token lab-flip", role: "option", id: `${id}-${i}`, "data-i": i, style: `--doubt:${Math.min(100, 100 * Math.sqrt(d)).toFixed(0)}%`,
      title: x === y ? `KL ${short(d)} nats` : `${b} chooses ${visible(y)}; KL ${short(d)} nats` }, x)));
    other.replaceChildren(...model.get("own").map((x, i) => h("span", { class: i === flip ? "lab-token lab-flip" : i > flip && flip >= 0 ? "lab-after" : "" }, x)));
    if (!kl.clientWidth) return;
    const series = (k) => rows.map((r, i) => [i + 1, r[k]]);
    kl.replaceChildren(h("figcaption", null, "KL at each token, nats"), chart({ title: "KL at each token", note: `${rows.length} tokens`, points: series(2), limits: [], kind: "dots", xLabel: "token", xMin: 1, xMax: 16, width: kl.clientWidth }));
    time.replaceChildren(h("figcaption", null, "latency, ms: ", h("span", { class: "lab-key" }, a), " and ", h("span", { class: "lab-key lab-key-2" }, b)),
      chart({ title: "latency", note: `${a} and ${b}`, points: series(3).slice(1), second: series(4).slice(1), limits: model.get("limits").map((v) => [v, `${v} ms`]), kind: "dots", xLabel: "token", xMin: 1, xMax: 16, width: time.clientWidth }));
    look();
  };
  const words = () => {
    status.textContent = model.get("status");
    error.textContent = model.get("error");
    error.hidden = !model.get("error");
    el.classList.toggle("lab-busy", model.get("busy"));
  };
  const watch = { "change:status": words, "change:error": words, "change:busy": words, "change:rows": draw, "change:own": draw, "change:selected": look, "change:blame": look };
  for (const [event, f] of Object.entries(watch)) model.on(event, f);
  const seen = new ResizeObserver(draw);
  seen.observe(el);
  words();
  draw();
  return () => {
    for (const [event, f] of Object.entries(watch)) model.off(event, f);
    seen.disconnect();
  };
}

export default { render };
