// A recipe under examination: figures, maps of the layers, one matrix down to a group, size against error. State is in traits alone.
import { h, s, short, ticks } from "./common.js";

const nats = (x) => (x >= 0.001 || x === 0 ? short(x) : x.toExponential(1));

// where a map's colours begin and end: costs begin at nothing
function ends(map) {
  const all = map.values.flat().filter((v) => v !== null);
  return [map.bent ? 0 : Math.min(...all), Math.max(...all)];
}

// a value as a share 0..1 of the map's range; costs by their square root, so that small ones are told apart
function shares(map) {
  const bent = map.bent ? Math.sqrt : (v) => v, [low, high] = ends(map).map(bent);
  return (v) => (high > low ? (bent(v) - low) / (high - low) : 0);
}

// the histogram of a matrix: bars in %, the code points as lines
function histogram({ counts, edges, points }, width) {
  const left = 40, right = 8, top = 8, bottom = 30, height = 170, w = Math.max(width, 240), x1 = w - right, y1 = height - bottom;
  const high = 1.08 * Math.max(...counts), low = edges[0], span = edges[edges.length - 1] - low || 1;
  const x = (v) => left + ((v - low) / span) * (x1 - left), y = (v) => y1 - (v / high) * (y1 - top);
  const bars = counts.map((c, i) => `M${x(edges[i]).toFixed(1)} ${y1}V${y(c).toFixed(1)}H${x(edges[i + 1]).toFixed(1)}V${y1}Z`).join("");
  const few = points.length <= 16 ? points : [];
  return s("svg", { width: w, height, viewBox: `0 0 ${w} ${height}`, role: "img", "aria-label": `histogram of the weights among ${points.length} code points` },
    ticks(0, high, 3).map((v) => [s("line", { x1: left, x2: x1, y1: y(v), y2: y(v), class: "lab-grid" }), s("text", { x: left - 5, y: y(v) + 4, class: "lab-tick", "text-anchor": "end" }, short(v))]),
    s("path", { d: bars, class: "lab-bars" }), few.map((p) => s("line", { x1: x(p), x2: x(p), y1: top, y2: y1, class: "lab-point" })),
    ticks(low, low + span, 6).map((v) => s("text", { x: x(v), y: y1 + 13, class: "lab-tick", "text-anchor": "middle" }, short(v))),
    s("text", { x: (left + x1) / 2, y: height - 3, class: "lab-tick", "text-anchor": "middle" }, points.length ? "weight / scale of its group" : "weight"));
}

// one group: each weight as a stem, what it became as a dash
function stems({ weights, became }, width) {
  const left = 48, right = 8, top = 8, bottom = 30, height = 170, w = Math.max(width, 240), x1 = w - right, y1 = height - bottom;
  const most = 1.08 * Math.max(...[...weights, ...became].map(Math.abs)) || 1, step = (x1 - left) / weights.length, dash = Math.max(4.5, Math.min(9, step));
  const x = (i) => left + (i + 0.5) * step, y = (v) => top + ((most - v) / (2 * most)) * (y1 - top);
  return s("svg", { width: w, height, viewBox: `0 0 ${w} ${height}`, role: "img", "aria-label": `${weights.length} weights of one group and what they became` },
    ticks(-most, most, 4).map((v) => [s("line", { x1: left, x2: x1, y1: y(v), y2: y(v), class: "lab-grid" }), s("text", { x: left - 5, y: y(v) + 4, class: "lab-tick", "text-anchor": "end" }, short(v))]),
    s("path", { d: weights.map((v, i) => `M${x(i).toFixed(1)} ${y(0).toFixed(1)}V${y(v).toFixed(1)}`).join(""), class: "lab-stem" }),
    s("path", { d: weights.map((v, i) => `M${x(i).toFixed(1)} ${y(v).toFixed(1)}h0`).join(""), class: "lab-dots" }),
    s("path", { d: became.map((v, i) => `M${(x(i) - dash / 2).toFixed(1)} ${y(v).toFixed(1)}h${dash.toFixed(1)}`).join(""), class: "lab-dash" }),
    s("text", { x: (left + x1) / 2, y: height - 3, class: "lab-tick", "text-anchor": "middle" }, "weight in the group: ● before, – after"));
}

// size against error, error on a logarithmic axis; names keep out of each other's way
function scatter({ front, ours, peers, now, budget }, width) {
  const left = 46, right = 14, top = 14, bottom = 32, height = 280, w = Math.max(width, 280), x1 = w - right, y1 = height - bottom;
  const marks = [...peers.map((p) => [...p, "lab-peer"]), ...ours.map((p) => [...p, "lab-ours"]), ...now.map((p) => [...p, "lab-now"])];
  if (!marks.length && !front.length) return h("p", { class: "lab-legend" }, "Predict or Measure, and it will be drawn here.");
  const mb = [...marks.map((p) => p[1]), ...front.map((p) => p[0]), budget], kl = [...marks.map((p) => p[2]), ...front.map((p) => p[1])].filter((v) => v > 0);
  const low = Math.min(...mb) * 0.94, high = Math.max(...mb) * 1.04, floor = Math.min(...kl) / 1.5, roof = Math.max(...kl) * 1.6;
  const x = (v) => left + ((v - low) / (high - low)) * (x1 - left), y = (v) => y1 - (Math.log(Math.max(v, floor) / floor) / Math.log(roof / floor)) * (y1 - top);
  const decades = [];
  for (let d = Math.floor(Math.log10(floor)); d <= Math.log10(roof); d++) for (const m of roof / floor < 300 ? [1, 2, 5] : [1]) if (m * 10 ** d > floor && m * 10 ** d < roof) decades.push(Number((m * 10 ** d).toPrecision(1)));
  const taken = [], names = [];
  for (const [name, a, b, kind] of marks) {
    const wide = 6.4 * name.length, spots = [[8, 4], [-8 - wide, 4], [8, 18], [8, -10], [-8 - wide, 18], [-8 - wide, -10]].map(([dx, dy]) => ({ x: x(a) + dx, y: y(b) + dy - 10, w: wide, h: 13 }));
    const clear = (r) => r.x > x(budget) + 3 || r.x + r.w < x(budget) - 3;
    const free = [...spots.filter(clear), ...spots].find((r) => r.x >= left - 30 && r.x + r.w <= w && r.y >= 0 && !taken.some((t) => r.x < t.x + t.w && t.x < r.x + r.w && r.y < t.y + t.h && t.y < r.y + r.h)
      && !marks.some(([, c, d]) => x(c) > r.x - 5 && x(c) < r.x + r.w + 5 && y(d) > r.y - 4 && y(d) < r.y + r.h + 4));
    if (!free) continue; // the mark itself says it when pointed at
    taken.push(free);
    names.push(s("text", { x: free.x, y: free.y + 10, class: `lab-name ${kind}-name` }, name));
  }
  const shape = { "lab-peer": (a, b) => `M${a} ${b - 5}l5 5l-5 5l-5 -5Z`, "lab-ours": (a, b) => `M${a - 4.5} ${b}a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z`, "lab-now": (a, b) => `M${a - 5} ${b}a5 5 0 1 0 10 0a5 5 0 1 0 -10 0Z` };
  return s("svg", { width: w, height, viewBox: `0 0 ${w} ${height}`, role: "img", "aria-label": `KL, nats, against size, MB: ${marks.map(([n, a, b]) => `${n} ${short(a)} MB, KL ${nats(b)} nats`).join("; ")}` },
    decades.map((v) => [s("line", { x1: left, x2: x1, y1: y(v), y2: y(v), class: "lab-grid" }), s("text", { x: left - 5, y: y(v) + 4, class: "lab-tick", "text-anchor": "end" }, String(v))]),
    ticks(low, high, 6).map((v) => s("text", { x: x(v), y: y1 + 14, class: "lab-tick", "text-anchor": "middle" }, short(v))), s("text", { x: (left + x1) / 2, y: height - 3, class: "lab-tick", "text-anchor": "middle" }, "size, MB"),
    s("line", { x1: x(budget), x2: x(budget), y1: top, y2: y1, class: "lab-limit" }), s("text", { x: x(budget), y: top - 4, class: "lab-limit-text", "text-anchor": x(budget) > x1 - 70 ? "end" : "start" }, `budget ${short(budget)} MB`),
    front.length ? s("path", { d: `M${front.map(([a, b]) => `${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("L")}`, class: "lab-front" }) : null,
    marks.map(([name, a, b, kind]) => s("path", { d: shape[kind](x(a), y(b)), class: kind }, s("title", null, `${name}: ${short(a)} MB, KL ${nats(b)} nats`))), names);
}

function render({ model, el }) {
  const status = h("div", { class: "lab-status", role: "status", "aria-live": "polite" }), error = h("div", { class: "lab-error", role: "alert" }), bar = h("progress", { class: "lab-progress", max: "1", "aria-label": "progress" });
  const figures = h("div", { class: "lab-figures" }), tabs = h("div", { class: "lab-tabs", role: "tablist", "aria-label": "what the map shows" }), grid = h("div", { class: "lab-map", role: "grid", tabindex: "0" });
  const others = h("span", null, "; ", h("span", { class: "lab-key-peer" }, "◆"), " llama.cpp, measured on another text");
  const about = h("div", { class: "lab-legend" }), said = h("div", { class: "lab-legend lab-said", "aria-live": "polite" }), detail = h("div", { class: "lab-detail" }), plane = h("figure");
  el.classList.add("lab");
  el.append(h("div", { class: "lab-head" }, status, bar), error, figures, tabs, grid, about, said, detail, h("figure", null, h("figcaption", null, "KL, nats, against size"), plane, h("div", { class: "lab-legend" }, h("span", { class: "lab-key-front" }, "—"), " the budget's best mixes, predicted; ",
    h("span", { class: "lab-key" }, "●"), " measured; ", h("span", { class: "lab-key" }, "○"), " this recipe, predicted", others)));
  let shown = "", at = [0, 0];
  const id = `lab-${Math.random().toString(36).slice(2)}`;
  const save = (k, v) => (model.set(k, v), model.save_changes());
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
  const tell = () => figures.replaceChildren(...model.get("figures").map(([name, value, unit]) => h("div", { class: "lab-figure" }, h("div", null, name), h("b", null, value), " ", h("small", null, unit))));
  const say = (r, c) => {
    const map = model.get("maps")[shown], v = map.values[r]?.[c];
    return `layer ${c}, ${map.rows[r]}: ${v === null || v === undefined ? "not known" : `${nats(v)} ${map.unit}`}`;
  };
  const point = (r, c) => {
    grid.querySelector(".lab-here")?.classList.remove("lab-here");
    const cell = grid.querySelector(`[data-at="${r} ${c}"]`);
    if (!cell) return;
    at = [r, c];
    cell.classList.add("lab-here");
    grid.setAttribute("aria-activedescendant", cell.id);
    said.textContent = `${say(r, c)}; a click looks into its weights`;
  };
  const choose = (r, c) => save("place", { layer: c, matrix: model.get("maps")[shown].keys[r], row: null, group: null });
  const paint = () => {
    const maps = model.get("maps"), names = Object.keys(maps);
    if (!names.includes(shown) || names.includes(model.get("shown"))) shown = model.get("shown");
    if (!maps[shown]) shown = names[0] ?? "";
    tabs.replaceChildren(...names.map((n) => h("button", { role: "tab", "aria-selected": String(n === shown), onclick: () => save("shown", n) }, maps[n].title)));
    const map = maps[shown];
    grid.hidden = about.hidden = !map;
    if (!map) return;
    const share = shares(map), count = map.values[0].length, place = model.get("place");
    grid.style.setProperty("--layers", count);
    grid.setAttribute("aria-label", `${map.title}, ${map.unit}: arrow keys go from matrix to matrix, Enter looks into one`);
    grid.className = `lab-map ${map.kind}`;
    grid.replaceChildren(...map.values.map((row, r) => h("div", { role: "row" }, h("span", { class: "lab-row", role: "rowheader" }, map.rows[r]), row.map((v, c) => h("span", { role: "gridcell", id: `${id}-${r}-${c}`, "data-at": `${r} ${c}`, "aria-label": say(r, c), title: say(r, c),
      class: `lab-cell${v === null ? " lab-unknown" : ""}${place.layer === c && place.matrix === map.keys[r] ? " lab-chosen-cell" : ""}`, style: v === null ? null : `--share:${(100 * share(v)).toFixed(0)}%` })))),
    h("div", { class: "lab-layers", "aria-hidden": "true" }, h("span"), map.values[0].map((_, c) => h("span", null, c % Math.ceil(count / 12) ? "" : String(c)))));
    const [low, high] = ends(map);
    about.replaceChildren(`${map.low}, ${nats(low)} `, h("i", { class: map.kind }), ` ${nats(high)} ${map.unit}, ${map.high}. ${map.note}`);
  };
  const inspect = () => {
    const k = model.get("look");
    if (!k.name) return detail.replaceChildren();
    const go = (label, title, row, group) => h("button", { title, "aria-label": title, disabled: row !== null && (row < 0 || row >= k.shape[0] || group < 0 || group >= k.shape[1]), onclick: () => save("place", { ...model.get("place"), row, group }) }, label);
    const left = h("figure"), right = h("figure");
    detail.replaceChildren(h("div", { class: "lab-card-title" }, k.name, h("span", null, `${k.held}; ${k.snr}`)), h("div", { class: "lab-charts" }, left, right),
      h("div", { class: "lab-steps" }, `row ${k.row} of ${k.shape[0]}, group ${k.group} of ${k.shape[1]} `, go("‹ row", "the row before", k.row - 1, k.group), go("row ›", "the next row", k.row + 1, k.group), go("‹ group", "the group before", k.row, k.group - 1), go("group ›", "the next group", k.row, k.group + 1), go("the worst", "the group with the largest error", null, null)));
    left.append(h("figcaption", null, `the matrix, % of its weights${k.points.length && k.points.length <= 16 ? "; lines are the code points" : ""}`), histogram(k, left.clientWidth));
    right.append(h("figcaption", null, `columns ${k.columns[0]} to ${k.columns[1]}: off by ${nats(k.rms)} root mean square`), stems(k, right.clientWidth));
  };
  const draw = () => {
    const f = model.get("front");
    plane.parentElement.hidden = !f.peers; // what is hidden has no width
    others.hidden = !f.peers?.length;
    if (f.peers && plane.clientWidth) plane.replaceChildren(scatter(f, plane.clientWidth));
    if (el.clientWidth) inspect();
  };
  const where = (e) => e.target.dataset?.at?.split(" ").map(Number);
  grid.addEventListener("pointerover", (e) => where(e) && point(...where(e)));
  grid.addEventListener("click", (e) => where(e) && choose(...where(e)));
  grid.addEventListener("focus", () => point(...at));
  grid.addEventListener("keydown", (e) => {
    const map = model.get("maps")[shown], [r, c] = at, last = map.values[0].length - 1;
    const to = { ArrowRight: [r, c + 1], ArrowLeft: [r, c - 1], ArrowDown: [r + 1, c], ArrowUp: [r - 1, c], Home: [r, 0], End: [r, last] }[e.key];
    if (!to && e.key !== "Enter" && e.key !== " ") return;
    e.preventDefault();
    e.stopPropagation();
    if (!to) return choose(r, c);
    point(Math.max(0, Math.min(map.values.length - 1, to[0])), Math.max(0, Math.min(last, to[1])));
  });
  const watch = { "change:status": words, "change:error": words, "change:busy": words, "change:progress": words, "change:figures": tell, "change:maps": paint, "change:shown": paint, "change:place": paint, "change:look": inspect, "change:front": draw };
  for (const [event, f] of Object.entries(watch)) model.on(event, f);
  const seen = new ResizeObserver(draw);
  seen.observe(el);
  words();
  tell();
  paint();
  draw();
  return () => {
    for (const [event, f] of Object.entries(watch)) model.off(event, f);
    seen.disconnect();
  };
}

export default { render };
