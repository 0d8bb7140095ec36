// An answer as it grows: every token with its probability, the time each took, the memory held. State is in traits alone.
import { h, s, short, percent, visible, chart } from "./common.js";

// what arrived so far, for every view of one model; Python sends `batch` often and `tokens` and `memory` whole at the end or on request
function makeStore(model) {
  const store = { run: model.get("run"), tokens: [], memory: [], stats: {}, views: new Set() };
  const tell = (fresh) => store.views.forEach((v) => v(fresh));
  const whole = () => {
    const run = model.get("run"), tokens = [...model.get("tokens")], fresh = run !== store.run || tokens.length < store.tokens.length; // tokens never change: what is drawn stays
    Object.assign(store, { run, tokens, memory: [...model.get("memory")], stats: model.get("stats") });
    tell(fresh);
  };
  const ask = () => {
    model.set("resync", model.get("resync") + 1);
    model.save_changes();
  };
  const batch = () => {
    const b = model.get("batch");
    if (b.run === undefined || b.run < store.run) return;
    const fresh = b.run !== store.run;
    if (fresh) Object.assign(store, { run: b.run, tokens: [], memory: [], stats: {} });
    if (b.at > store.tokens.length || b.memory_at > store.memory.length) return ask(); // a batch went by before this page listened
    store.tokens.push(...b.tokens.slice(store.tokens.length - b.at));
    store.memory.push(...b.memory.slice(store.memory.length - b.memory_at));
    store.stats = b.stats;
    tell(fresh);
  };
  whole();
  model.on("change:tokens", whole);
  model.on("change:batch", batch);
  return store;
}

// the likeliest tokens at one place, each with a bar
function card(token, index) {
  const [text, p, alternatives, ms, piece] = token;
  const row = (name, q, chosen) => h("tr", { class: chosen ? "lab-chosen" : null }, h("td", { class: "lab-piece" }, visible(name)),
    h("td", { class: "lab-bar" }, h("span", { style: `width:${(100 * q).toFixed(1)}%` })), h("td", { class: "lab-num" }, percent(q)));
  const listed = alternatives.some(([name]) => name === piece);
  return [h("div", { class: "lab-card-title" }, `token ${index + 1}`, h("span", null, ms === null ? "" : `${short(ms)} ms`)),
    h("table", null, listed ? [] : row(piece, p, true), alternatives.map(([name, q]) => row(name, q, name === piece)))];
}

const spoken = ([text, p, alternatives, ms, piece], i) => `token ${i + 1}, ${visible(piece)}, probability ${percent(p)}` +
  alternatives.filter(([name]) => name !== piece).slice(0, 3).map(([name, q]) => `; ${visible(name)} ${percent(q)}`).join("");

// the answer's tokens, one tab stop for all, arrow keys between them, a card for the one that is looked at
function tokenList(store) {
  const list = h("div", { class: "lab-answer", role: "listbox", tabindex: "0", "aria-label": "Answer, token by token; the arrow keys go from one to the next" });
  const box = h("div", { class: "lab-card", hidden: true, "aria-hidden": "true" });
  const said = h("div", { class: "lab-hidden", "aria-live": "polite" });
  let at = -1;
  const hide = () => {
    list.children[at]?.classList.remove("lab-at");
    box.hidden = true;
    at = -1;
  };
  const show = (i, aloud) => {
    if (!store.tokens[i]) return;
    list.children[at]?.classList.remove("lab-at");
    at = i;
    const span = list.children[i];
    span.classList.add("lab-at");
    list.setAttribute("aria-activedescendant", span.id);
    box.replaceChildren(...card(store.tokens[i], i));
    box.hidden = false;
    const r = [...span.getClientRects()].pop() ?? span.getBoundingClientRect(), o = list.parentNode.getBoundingClientRect();
    box.style.left = `${Math.max(0, Math.min(r.left - o.left, o.width - box.offsetWidth))}px`;
    box.style.top = `${r.bottom - o.top + 4}px`;
    if (aloud) said.textContent = spoken(store.tokens[i], i);
  };
  const of = (e) => e.target.closest?.(".lab-token");
  list.addEventListener("mouseover", (e) => of(e) && show(Number(of(e).dataset.i), false));
  list.addEventListener("mouseleave", () => document.activeElement !== list && hide());
  list.addEventListener("click", (e) => of(e) && show(Number(of(e).dataset.i), true));
  list.addEventListener("focus", () => at < 0 && show(0, true));
  list.addEventListener("blur", hide);
  list.addEventListener("keydown", (e) => {
    const n = store.tokens.length, to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: n - 1 }[e.key];
    if (e.key === "Escape") hide();
    if (to === undefined) return;
    e.preventDefault();
    e.stopPropagation(); // JupyterLab would move to another cell
    show(Math.max(0, Math.min(n - 1, to)), true);
  });
  const id = `lab-${Math.random().toString(36).slice(2)}`;
  const make = ([text, p, , , piece], i) => h("span", { class: text ? "lab-token" : "lab-token lab-silent", role: "option", id: `${id}-${i}`, "data-i": i,
    style: `--doubt:${(100 * Math.min(1, -Math.log10(Math.max(p, 1e-4)) / 2)).toFixed(0)}%` }, text || piece);
  const update = (fresh) => {
    if (fresh) { hide(); list.replaceChildren(); }
    for (let i = list.children.length; i < store.tokens.length; i++) list.append(make(store.tokens[i], i));
  };
  return { node: h("div", { class: "lab-answer-box" }, list, box, said), update };
}

// the prompt and the answer's room within the context
function budgetBar() {
  const used = h("span", { class: "lab-used" }), room = h("span", { class: "lab-room" }), text = h("span", { class: "lab-budget-text" });
  const bar = h("div", { class: "lab-budget-bar", role: "img" }, used, room);
  const update = ({ prompt, answer, context }) => {
    const over = context && prompt + answer > context;
    used.style.width = context ? `${Math.min(100, (100 * prompt) / context)}%` : "0";
    room.style.width = context ? `${Math.min(100 - Math.min(100, (100 * prompt) / context), (100 * answer) / context)}%` : "0";
    bar.classList.toggle("lab-over", Boolean(over));
    text.textContent = !context ? "context: known once a model is loaded" : `${prompt.toLocaleString("en")} prompt + ${answer.toLocaleString("en")} answer of ${context.toLocaleString("en")} tokens${over ? ": too many" : ""}`;
    bar.setAttribute("aria-label", `token budget: ${text.textContent}`);
  };
  return { node: h("div", { class: "lab-budget" }, bar, text), update };
}

function figures(stats) {
  const item = (name, value, unit) => h("div", { class: "lab-figure", role: "listitem" }, h("div", null, name), h("b", null, value, h("small", null, unit)));
  return [item("tokens/s", short(stats.tokens_per_s ?? NaN), ""), item("first token", short(stats.ttft_ms ?? NaN), " ms"), item("median", short(stats.median_ms ?? NaN), " ms"),
    item("p95", short(stats.p95_ms ?? NaN), " ms"), item("tokens", short(stats.tokens ?? 0), ""), item("memory", short(stats.memory_mb ?? NaN), " MB")];
}

async function copy(model, button, code) {
  try {
    await navigator.clipboard.writeText(model.get("code"));
    button.textContent = "Copied";
  } catch { // no permission: show it, selected
    code.hidden = false;
    code.textContent = model.get("code");
    getSelection().selectAllChildren(code);
    button.textContent = "Selected below";
  }
  setTimeout(() => (button.textContent = "Copy as Python"), 1500);
}

function render({ model, el }, store) {
  const tokens = tokenList(store), budget = budgetBar();
  const status = h("div", { class: "lab-status", role: "status", "aria-live": "polite" }), error = h("div", { class: "lab-error", role: "alert" });
  const numbers = h("div", { class: "lab-figures", role: "list", "aria-label": "figures of this answer" }), latency = h("figure"), memory = h("figure"), code = h("pre", { class: "lab-code", hidden: true, tabindex: "0", "aria-label": "this answer as Python" });
  const button = h("button", { class: "lab-copy", type: "button", onclick: () => copy(model, button, code) }, "Copy as Python");
  const charts = h("div", { class: "lab-charts" }, latency, memory);
  el.classList.add("lab");
  el.append(budget.node, h("div", { class: "lab-head" }, status, button), error, tokens.node,
    h("div", { class: "lab-legend", "aria-hidden": "true" }, "certain ", h("i"), " doubtful: hover over a token, or go there with the arrow keys"), code, numbers, charts);

  const draw = () => {
    const limits = model.get("limits"), width = latency.clientWidth;
    if (!width) return;
    const ms = store.tokens.map((t, i) => [i + 1, t[3]]).slice(1).filter(([, v]) => v !== null);
    latency.replaceChildren(h("figcaption", null, "latency of each token, ms"), chart({ title: "latency of each token", note: `${ms.length} tokens`, points: ms, limits: limits.latency.map((v) => [v, `${v} ms`]), kind: "dots", xLabel: "token", xMin: 1, xMax: 16, width }));
    memory.replaceChildren(h("figcaption", null, "memory of this kernel, MB"), chart({ title: "memory of this kernel", note: `${store.memory.length} readings`, points: store.memory, limits: [[limits.memory, `${limits.memory} MB`]], kind: "area", xLabel: "seconds", xMax: 0.5, width }));
  };
  let waiting = 0, stale = false, drawn = -Infinity, timer = 0;
  const paint = () => {
    waiting = 0;
    tokens.update(stale);
    stale = false;
    el.classList.toggle("lab-flows", store.tokens.length > 0);
    const wait = model.get("busy") ? drawn + 200 - performance.now() : 0; // figures and charts seldom while an answer grows: they would take the time of its tokens, and of a click
    clearTimeout(timer);
    if (wait > 0) return (timer = setTimeout(later, wait));
    numbers.replaceChildren(...figures(store.stats));
    draw();
    drawn = performance.now();
  };
  const later = (fresh) => {
    stale ||= fresh === true;
    waiting ||= requestAnimationFrame(paint);
  };
  const words = () => {
    status.textContent = model.get("status");
    error.textContent = model.get("error");
    error.hidden = !model.get("error");
    el.classList.toggle("lab-busy", model.get("busy"));
    later();
  };
  const spend = () => budget.update(model.get("budget"));
  const watch = { "change:status": words, "change:error": words, "change:busy": words, "change:budget": spend };
  for (const [event, f] of Object.entries(watch)) model.on(event, f);
  store.views.add(later);
  const seen = new ResizeObserver(() => later(false));
  seen.observe(charts);
  words();
  spend();
  later(true);
  return () => {
    for (const [event, f] of Object.entries(watch)) model.off(event, f);
    store.views.delete(later);
    seen.disconnect();
    cancelAnimationFrame(waiting);
    clearTimeout(timer);
  };
}

export default () => {
  let store;
  return {
    initialize({ model }) { store = makeStore(model); },
    render(place) { return render(place, store); },
  };
};
