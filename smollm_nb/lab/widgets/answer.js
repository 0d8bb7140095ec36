// An answer as it grows: every token with its probability, the time each took, the memory held.
// State is in traits alone.
import { caption, h, newId, percent, short, tile, visible } from "./common.js";
import { chart, latencyChart } from "./chart.js";
import { shell } from "./shell.js";

const PAINT_MS = 200; // between two drawings of figures and charts: they take the time of tokens, and of a click

/**
 * What arrived so far, for every view of one model; Python sends `batch` often, `tokens` and `memory` whole at the end.
 */
function makeStore(model) {
  const store = { run: model.get("run"), tokens: [], memory: [], stats: {}, views: new Set() };
  const notify = (fresh) => store.views.forEach((v) => v(fresh));
  const replaceAll = () => {
    const run = model.get("run"),
      tokens = [...model.get("tokens")];
    const fresh = run !== store.run || tokens.length < store.tokens.length; // tokens never change: what is drawn stays
    Object.assign(store, { run, tokens, memory: [...model.get("memory")], stats: model.get("stats") });
    notify(fresh);
  };
  const resync = () => {
    model.set("resync", model.get("resync") + 1);
    model.save_changes();
  };
  const batch = () => {
    const b = model.get("batch");
    if (b.run === undefined || b.run < store.run) return;
    const fresh = b.run !== store.run;
    if (fresh) Object.assign(store, { run: b.run, tokens: [], memory: [], stats: {} });
    if (b.at > store.tokens.length || b.memory_at > store.memory.length) return resync(); // a batch was missed
    store.tokens.push(...b.tokens.slice(store.tokens.length - b.at));
    store.memory.push(...b.memory.slice(store.memory.length - b.memory_at));
    store.stats = b.stats;
    notify(fresh);
  };
  replaceAll();
  model.on("change:tokens", replaceAll);
  model.on("change:batch", batch);
  return store;
}

/** The likeliest tokens at one place, each with a bar. */
function card([, p, alternatives, ms, piece], index) {
  const bar = (q) => h("td", { class: "lab-bar" }, h("span", { style: `width:${(100 * q).toFixed(1)}%` }));
  const row = (name, q, chosen) =>
    h(
      "tr",
      { class: chosen ? "lab-chosen" : null },
      h("td", { class: "lab-piece" }, visible(name)),
      bar(q),
      h("td", { class: "lab-num" }, percent(q)),
    );
  const listed = alternatives.some(([name]) => name === piece);
  const title = h(
    "div",
    { class: "lab-card-title" },
    `token ${index + 1}`,
    h("span", null, ms === null ? "" : `${short(ms)} ms`),
  );
  const rows = alternatives.map(([name, q]) => row(name, q, name === piece));
  return [title, h("table", null, listed ? [] : row(piece, p, true), rows)];
}

/** The same for a screen reader. */
function spoken([, p, alternatives, , piece], i) {
  const others = alternatives.filter(([name]) => name !== piece).slice(0, 3);
  const rest = others.map(([name, q]) => `; ${visible(name)} ${percent(q)}`).join("");
  return `token ${i + 1}, ${visible(piece)}, probability ${percent(p)}${rest}`;
}

/** How far a token is tinted, %: nothing for a sure one, all for one chance in a hundred. */
const doubt = (p) => (100 * Math.min(1, -Math.log10(Math.max(p, 1e-4)) / 2)).toFixed(0);

/** The answer's tokens: one stop for the Tab key, arrow keys between them, a card for the one that is looked at. */
function tokenList(store) {
  const list = h("div", {
    class: "lab-answer",
    role: "listbox",
    tabindex: "0",
    "aria-label": "Answer, token by token; the arrow keys go from one to the next",
  });
  const box = h("div", { class: "lab-card", hidden: true, "aria-hidden": "true" });
  const said = h("div", { class: "lab-hidden", "aria-live": "polite" });
  const id = newId();
  let at = -1;
  const hide = () => {
    list.children[at]?.classList.remove("lab-at");
    list.removeAttribute("aria-activedescendant");
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
    const r = [...span.getClientRects()].pop() ?? span.getBoundingClientRect(),
      o = list.parentNode.getBoundingClientRect();
    box.style.left = `${Math.max(0, Math.min(r.left - o.left, o.width - box.offsetWidth))}px`;
    box.style.top = `${r.bottom - o.top + 4}px`;
    if (aloud) said.textContent = spoken(store.tokens[i], i);
  };
  const tokenOf = (e) => e.target.closest?.(".lab-token");
  list.addEventListener("mouseover", (e) => tokenOf(e) && show(Number(tokenOf(e).dataset.i), false));
  list.addEventListener("mouseleave", () => document.activeElement !== list && hide());
  list.addEventListener("click", (e) => tokenOf(e) && show(Number(tokenOf(e).dataset.i), true));
  list.addEventListener("focus", () => at < 0 && show(0, true));
  list.addEventListener("blur", hide);
  list.addEventListener("keydown", (e) => {
    const last = store.tokens.length - 1;
    const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: last }[e.key];
    if (e.key === "Escape") hide();
    if (to === undefined) return;
    e.preventDefault();
    show(Math.max(0, Math.min(last, to)), true);
  });
  const make = ([text, p, , , piece], i) =>
    h(
      "span",
      {
        class: text ? "lab-token" : "lab-token lab-silent",
        role: "option",
        id: `${id}-${i}`,
        "data-i": i,
        style: `--doubt:${doubt(p)}%`,
      },
      text || piece,
    );
  const update = (fresh) => {
    if (fresh) {
      hide();
      list.replaceChildren();
    }
    for (let i = list.children.length; i < store.tokens.length; i++) list.append(make(store.tokens[i], i));
  };
  return { node: h("div", { class: "lab-answer-box" }, list, box, said), update };
}

/** The prompt and the tokens reserved for the answer, within the context. */
function budgetBar() {
  const used = h("span", { class: "lab-used" });
  const reserved = h("span", { class: "lab-reserved" });
  const text = h("span", { class: "lab-budget-text" });
  const bar = h("div", { class: "lab-budget-bar", role: "img" }, used, reserved);
  const node = h("div", { class: "lab-budget" }, bar, text);
  const written = (n) => n.toLocaleString("en");
  const update = ({ prompt, answer, context }) => {
    node.hidden = !context; // known once a model is loaded
    if (!context) return;
    const over = prompt + answer > context,
      share = Math.min(100, (100 * prompt) / context);
    used.style.width = `${share}%`;
    reserved.style.width = `${Math.min(100 - share, (100 * answer) / context)}%`;
    bar.classList.toggle("lab-over", over);
    const sum = `${written(prompt)} prompt + ${written(answer)} answer of ${written(context)} tokens`;
    text.textContent = over ? `${sum}: too many` : sum;
    bar.setAttribute("aria-label", `token budget: ${text.textContent}`);
  };
  return { node, update };
}

function figures(stats) {
  const one = (name, key, unit) => tile(name, short(stats[key] ?? NaN), unit);
  return [
    one("tokens/s", "tokens_per_s"),
    one("first token", "ttft_ms", "ms"),
    one("median", "median_ms", "ms"),
    one("p95", "p95_ms", "ms"),
    one("tokens", "tokens"),
    one("kernel's memory", "memory_mb", "MB"),
  ];
}

async function copy(model, button, code) {
  try {
    await navigator.clipboard.writeText(model.get("code"));
    button.textContent = "Copied";
  } catch {
    // no permission: show it, selected
    code.hidden = false;
    code.textContent = model.get("code");
    getSelection().selectAllChildren(code);
    button.textContent = "Selected below";
  }
  setTimeout(() => (button.textContent = "Copy as Python"), 1500);
}

/** The first token has no latency: it waited for the prompt. */
function tokenLatencies({ latency }, tokens, width) {
  const points = tokens
    .map((t, i) => [i + 1, t[3]])
    .slice(1)
    .filter(([, v]) => v !== null);
  const title = "latency of each token";
  return latencyChart(title, [`${title}, ms`], `${points.length} tokens`, [points], latency, width);
}

function memoryChart({ memory }, holds, points, width) {
  const limits = memory ? [[memory, `${memory} MB target`, 1]] : [];
  return [
    caption("memory of the kernel's process, MB"),
    chart({
      title: "memory of the kernel's process",
      note: `${points.length} readings`,
      points,
      limits,
      kind: "area",
      xLabel: "seconds",
      unit: "MB",
      xMax: 0.5,
      width,
    }),
    h("div", { class: "lab-legend" }, holds),
  ];
}

function render({ model, el }, store) {
  const frame = shell({ model, el });
  const tokens = tokenList(store);
  const budget = budgetBar();
  const numbers = h("div", { class: "lab-figures", role: "list", "aria-label": "figures of this answer" });
  const latency = h("figure");
  const memory = h("figure");
  const charts = h("div", { class: "lab-charts" }, latency, memory);
  const code = h("pre", { class: "lab-code", hidden: true, tabindex: "0", "aria-label": "this answer as Python" });
  const button = h(
    "button",
    { class: "lab-copy", type: "button", onclick: () => copy(model, button, code) },
    "Copy as Python",
  );
  const legend = h(
    "div",
    { class: "lab-legend", "aria-hidden": "true" },
    "sure ",
    h("i", { class: "lab-doubt" }),
    " one chance in a hundred: point at a token, or go there with the arrow keys",
  );
  const empty = h(
    "p",
    { class: "lab-empty" },
    "Generate answers here, token by token. Figures, latencies and memory follow below.",
  );
  frame.head.append(button);
  el.append(budget.node, frame.head, frame.error, empty, tokens.node, legend, code, numbers, charts);

  const draw = () => {
    const limits = model.get("limits"),
      width = latency.clientWidth;
    if (!width) return;
    latency.replaceChildren(...tokenLatencies(limits, store.tokens, width));
    memory.replaceChildren(...memoryChart(limits, model.get("holds"), store.memory, width));
  };
  let waiting = 0;
  let stale = false;
  let drawn = -Infinity;
  let timer = 0;
  const paint = () => {
    const some = store.tokens.length > 0;
    waiting = 0;
    tokens.update(stale);
    stale = false;
    el.classList.toggle("lab-flows", some);
    empty.hidden = some;
    for (const part of [tokens.node, legend, numbers, charts]) part.hidden = !some;
    const wait = model.get("busy") ? drawn + PAINT_MS - performance.now() : 0;
    clearTimeout(timer);
    if (wait > 0) return (timer = setTimeout(later, wait));
    numbers.replaceChildren(...figures(store.stats));
    if (some) draw();
    drawn = performance.now();
  };
  const later = (fresh) => {
    stale ||= fresh === true;
    waiting ||= requestAnimationFrame(paint);
  };
  const spend = () => budget.update(model.get("budget"));
  const watch = { "change:busy": later, "change:limits": later, "change:holds": later, "change:budget": spend };
  for (const [event, f] of Object.entries(watch)) model.on(event, f);
  store.views.add(later);
  const seen = new ResizeObserver(() => later(false));
  seen.observe(el);
  frame.say();
  spend();
  later(true);
  return () => {
    for (const [event, f] of Object.entries(watch)) model.off(event, f);
    store.views.delete(later);
    frame.close();
    seen.disconnect();
    cancelAnimationFrame(waiting);
    clearTimeout(timer);
  };
}

export default () => {
  let store;
  return {
    initialize({ model }) {
      store = makeStore(model);
    },
    render(place) {
      return render(place, store);
    },
  };
};
