// A recipe under examination: figures, maps of the layers, one matrix down to a group, size against error.
// State is in traits alone.
import { caption, decades, h, newId, s, short, svgLine, svgPicture, svgText, ticks, tile } from "./common.js";
import { shell } from "./shell.js";
import { tabList } from "./tabs.js";

const nats = (x) => (x >= 0.001 || x === 0 ? short(x) : x.toExponential(1));

const BENDS = { linear: (v) => v, root: Math.sqrt, log: Math.log }; // how a value becomes a tint

/** A value as a share 0..1 of its map's range; `low` and `high` are the map's own where one is fixed. */
function shares(map) {
  const bend = BENDS[map.bend];
  const [low, high] = map.ends.map(bend);
  return (v) => (high > low ? Math.max(0, Math.min(1, (bend(v) - low) / (high - low))) : 0);
}

/** Horizontal lines with their values. */
const levels = (values, y, x0, x1) =>
  values.map((v) => [svgLine(x0, x1, y(v), y(v), "lab-grid"), svgText(x0 - 5, y(v) + 4, "lab-tick", "end", short(v))]);

/** The histogram of a matrix: bars in %, the code points as lines. */
function histogram({ counts, edges, points }, width) {
  const left = 40;
  const right = 8;
  const top = 8;
  const bottom = 30;
  const height = 170;
  const w = Math.max(width, 240);
  const x1 = w - right;
  const y1 = height - bottom;
  const high = 1.08 * Math.max(...counts);
  const low = edges[0];
  const span = edges.at(-1) - low || 1;
  const x = (v) => left + ((v - low) / span) * (x1 - left);
  const y = (v) => y1 - (v / high) * (y1 - top);
  const bar = (c, i) => `M${x(edges[i]).toFixed(1)} ${y1}V${y(c).toFixed(1)}H${x(edges[i + 1]).toFixed(1)}V${y1}Z`;
  const few = points.length <= 16 ? points : [];
  const across = points.length ? "weight / scale of its group" : "weight";
  return svgPicture(
    w,
    height,
    `histogram of the weights among ${points.length} code points`,
    levels(ticks(0, high, 3), y, left, x1),
    s("path", { d: counts.map(bar).join(""), class: "lab-bars" }),
    few.map((p) => svgLine(x(p), x(p), top, y1, "lab-point")),
    ticks(low, low + span, 6).map((v) => svgText(x(v), y1 + 13, "lab-tick", "middle", short(v))),
    svgText((left + x1) / 2, height - 3, "lab-tick", "middle", across),
  );
}

/** One group: each weight as a stem, its quantized value as a dash. */
function stems({ weights, quantized }, width) {
  const left = 48;
  const right = 8;
  const top = 8;
  const bottom = 30;
  const height = 170;
  const w = Math.max(width, 240);
  const x1 = w - right;
  const y1 = height - bottom;
  const most = 1.08 * Math.max(...[...weights, ...quantized].map(Math.abs)) || 1;
  const step = (x1 - left) / weights.length;
  const dash = Math.max(4.5, Math.min(9, step));
  const x = (i) => left + (i + 0.5) * step;
  const y = (v) => top + ((most - v) / (2 * most)) * (y1 - top);
  const at = (v, i) => `${x(i).toFixed(1)} ${y(v).toFixed(1)}`;
  return svgPicture(
    w,
    height,
    `${weights.length} weights of one group, before and after quantization`,
    levels(ticks(-most, most, 4), y, left, x1),
    s("path", {
      d: weights.map((v, i) => `M${x(i).toFixed(1)} ${y(0).toFixed(1)}V${y(v).toFixed(1)}`).join(""),
      class: "lab-stem",
    }),
    s("path", { d: weights.map((v, i) => `M${at(v, i)}h0`).join(""), class: "lab-dots" }),
    s("path", {
      d: quantized.map((v, i) => `M${(x(i) - dash / 2).toFixed(1)} ${y(v).toFixed(1)}h${dash.toFixed(1)}`).join(""),
      class: "lab-dash",
    }),
    svgText((left + x1) / 2, height - 3, "lab-tick", "middle", "weight in the group: ● before, – after"),
  );
}

const SHAPES = {
  "lab-peer": (a, b) => `M${a} ${b - 5}l5 5l-5 5l-5 -5Z`,
  "lab-ours": (a, b) => `M${a - 4.5} ${b}a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z`,
  "lab-now": (a, b) => `M${a - 5} ${b}a5 5 0 1 0 10 0a5 5 0 1 0 -10 0Z`,
};

/** A line through points, as points so close to each other that none of it is missed. */
function along(line) {
  const between = ([a, b], [c, d]) => {
    const n = Math.ceil(Math.max(Math.abs(c - a), Math.abs(d - b)) / 4);
    return Array.from({ length: n }, (_, i) => [a + ((c - a) * i) / n, b + ((d - b) * i) / n]);
  };
  return [...line.slice(1).flatMap((p, i) => between(line[i], p)), ...line.slice(-1)];
}

/**
 * Names beside their marks, out of each other's way, and of the front and the budget where there is room; a mark whose
 * name finds none says it when pointed at.
 */
function names(marks, x, y, w, left, budget, front) {
  const taken = [];
  const out = [];
  const meets = (r, t) => r.x < t.x + t.w && t.x < r.x + r.w && r.y < t.y + t.h && t.y < r.y + r.h;
  const curve = along(front.map(([a, b]) => [x(a), y(b)]));
  const onFront = (r) => curve.some(([a, b]) => a > r.x - 2 && a < r.x + r.w + 2 && b > r.y - 1 && b < r.y + r.h + 1);
  const offBudget = (r) => r.x > x(budget) + 3 || r.x + r.w < x(budget) - 3;
  const onMark = (r) =>
    marks.some(([, a, b]) => x(a) > r.x - 5 && x(a) < r.x + r.w + 5 && y(b) > r.y - 4 && y(b) < r.y + r.h + 4);
  const free = (r) => r.x >= left - 30 && r.x + r.w <= w && r.y >= 0 && !taken.some((t) => meets(r, t)) && !onMark(r);
  for (const [name, a, b, kind] of marks) {
    const wide = 6.4 * name.length;
    const offsets = [
      [8, 4],
      [-8 - wide, 4],
      [8, 18],
      [8, -10],
      [-8 - wide, 18],
      [-8 - wide, -10],
    ];
    const spots = offsets.map(([dx, dy]) => ({ x: x(a) + dx, y: y(b) + dy - 10, w: wide, h: 13 }));
    const good = spots.filter((r) => offBudget(r) && !onFront(r));
    const spot = [...good, ...spots.filter(offBudget), ...spots].find(free);
    if (!spot) continue;
    taken.push(spot);
    out.push(svgText(spot.x, spot.y + 10, `lab-name ${kind}-name`, "start", name));
  }
  return out;
}

/** Size against error, error on a logarithmic axis. */
function scatter({ front, ours, peers, now, budget }, width) {
  const left = 46;
  const right = 14;
  const top = 16;
  const bottom = 32;
  const height = 280;
  const w = Math.max(width, 280);
  const x1 = w - right;
  const y1 = height - bottom;
  const marks = [
    ["lab-peer", peers],
    ["lab-ours", ours],
    ["lab-now", now],
  ].flatMap(([kind, list]) => list.map((p) => [...p, kind]));
  const mb = [...marks.map((p) => p[1]), ...front.map((p) => p[0]), budget];
  const kl = [...marks.map((p) => p[2]), ...front.map((p) => p[1])].filter((v) => v > 0);
  const low = Math.min(...mb) * 0.94;
  const high = Math.max(...mb) * 1.04;
  const floor = Math.min(...kl) / 1.5;
  const roof = Math.max(...kl) * 1.6;
  const x = (v) => left + ((v - low) / (high - low)) * (x1 - left);
  const y = (v) => y1 - (Math.log(Math.max(v, floor) / floor) / Math.log(roof / floor)) * (y1 - top);
  const said = ([name, a, b]) => `${name}: ${short(a)} MB, KL ${nats(b)} nats`;
  const grid = decades(floor, roof).map((v) => [
    svgLine(left, x1, y(v), y(v), "lab-grid"),
    svgText(left - 5, y(v) + 4, "lab-tick", "end", String(v)),
  ]);
  const line = front.map(([a, b]) => `${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("L");
  return svgPicture(
    w,
    height,
    `KL, nats, against size, MB: ${marks.map(said).join("; ")}`,
    grid,
    ticks(low, high, 6).map((v) => svgText(x(v), y1 + 14, "lab-tick", "middle", short(v))),
    svgText((left + x1) / 2, height - 3, "lab-tick", "middle", "size, MB"),
    svgLine(x(budget), x(budget), top, y1, "lab-limit lab-limit-0"),
    svgText(
      x(budget),
      top - 5,
      "lab-limit-text lab-limit-0",
      x(budget) > x1 - 70 ? "end" : "start",
      `budget ${short(budget)} MB`,
    ),
    front.length ? s("path", { d: `M${line}`, class: "lab-front" }) : null,
    marks.map((p) => s("path", { d: SHAPES[p[3]](x(p[1]), y(p[2])), class: p[3] }, s("title", null, said(p)))),
    names(marks, x, y, w, left, budget, front),
  );
}

/** The map of one quantity: a row for each kind of matrix, a column for each layer. */
function layerMap(model, frame, id) {
  const node = h("div", { class: "lab-map", role: "grid", tabindex: "0" });
  const about = h("div", { class: "lab-legend" });
  const said = h("div", { class: "lab-legend lab-said", "aria-live": "polite" });
  let at = [0, 0];
  let map = null;
  const say = (r, c) => {
    const v = map.values[r]?.[c];
    return `layer ${c}, ${map.rows[r]}: ${v === null || v === undefined ? "not known" : `${nats(v)} ${map.unit}`}`;
  };
  const point = (r, c) => {
    const cell = node.querySelector(`[data-at="${r} ${c}"]`);
    node.querySelector(".lab-here")?.classList.remove("lab-here");
    if (!cell) return;
    at = [r, c];
    cell.classList.add("lab-here");
    node.setAttribute("aria-activedescendant", cell.id);
    said.textContent = `${say(r, c)}${frame.lost ? "" : "; a click looks into its weights"}`;
  };
  const choose = (r, c) => {
    if (frame.lost) return;
    model.set("place", { layer: c, matrix: map.keys[r], row: null, group: null });
    model.save_changes();
  };
  const show = (now) => {
    const share = shares(now),
      pointed = said.textContent !== "",
      columns = now.values[0].length,
      place = model.get("place"),
      every = Math.ceil(columns / 12);
    map = now;
    const chosen = (r, c) => place.layer === c && place.matrix === map.keys[r];
    const kind = (v, r, c) => `lab-cell${v === null ? " lab-unknown" : ""}${chosen(r, c) ? " lab-chosen-cell" : ""}`;
    const cell = (v, r, c) =>
      h("span", {
        role: "gridcell",
        id: `${id}-${r}-${c}`,
        "data-at": `${r} ${c}`,
        "aria-label": say(r, c),
        title: say(r, c),
        "aria-selected": String(chosen(r, c)),
        class: kind(v, r, c),
        style: v === null ? null : `--share:${(100 * share(v)).toFixed(1)}%`,
      });
    const line = (row, r) =>
      h(
        "div",
        { role: "row" },
        h("span", { class: "lab-row", role: "rowheader" }, map.rows[r]),
        row.map((v, c) => cell(v, r, c)),
      );
    const numbers = map.values[0].map((_, c) => h("span", null, c % every ? "" : String(c)));
    node.style.setProperty("--layers", columns);
    node.setAttribute(
      "aria-label",
      `${map.title}, ${map.unit}: arrow keys go from matrix to matrix, Enter looks into one`,
    );
    node.className = `lab-map ${map.kind}`;
    node.replaceChildren(
      ...map.values.map(line),
      h("div", { class: "lab-layers", "aria-hidden": "true" }, h("span"), numbers),
      h("div", { class: "lab-layers", "aria-hidden": "true" }, h("span"), h("span", { class: "lab-axis" }, "layer")),
    );
    const [low, high] = map.ends;
    about.replaceChildren(`${nats(low)} `, h("i", { class: map.kind }), ` ${nats(high)} ${map.unit}. ${map.note}`);
    said.textContent = "";
    if (pointed) point(...at); // the value is now that of another map, or of another recipe
  };
  const where = (e) => e.target.dataset?.at?.split(" ").map(Number);
  node.addEventListener("pointerover", (e) => where(e) && point(...where(e)));
  node.addEventListener("click", (e) => where(e) && choose(...where(e)));
  node.addEventListener("focus", () => map && point(...at));
  node.addEventListener("keydown", (e) => {
    const [r, c] = at;
    const last = map.values[0].length - 1;
    const to = {
      ArrowRight: [r, c + 1],
      ArrowLeft: [r, c - 1],
      ArrowDown: [r + 1, c],
      ArrowUp: [r - 1, c],
      Home: [r, 0],
      End: [r, last],
    }[e.key];
    if (!to && e.key !== "Enter" && e.key !== " ") return;
    e.preventDefault();
    if (!to) return choose(r, c);
    point(Math.max(0, Math.min(map.values.length - 1, to[0])), Math.max(0, Math.min(last, to[1])));
  });
  return { parts: [node, about, said], show };
}

/** A matrix and one of its groups, and the steps to its neighbours. */
function inspector(model, frame, node) {
  const go = (label, title, row, group, off) =>
    h(
      "button",
      {
        type: "button",
        title,
        "aria-label": title,
        disabled: off || Boolean(frame.lost),
        onclick: () => {
          model.set("place", { ...model.get("place"), row, group });
          model.save_changes();
        },
      },
      label,
    );
  return () => {
    const k = model.get("look");
    const focused = node.contains(document.activeElement) && document.activeElement.textContent;
    node.hidden = !k.name;
    if (!k.name) return;
    const left = h("figure");
    const right = h("figure");
    const few = k.points.length && k.points.length <= 16;
    const steps = h(
      "div",
      { class: "lab-steps" },
      h("span", null, `row ${k.row} of ${k.shape[0]}, group ${k.group} of ${k.shape[1]} `),
      go("‹ row", "the row before", k.row - 1, k.group, k.row < 1),
      go("row ›", "the next row", k.row + 1, k.group, k.row + 1 >= k.shape[0]),
      go("‹ group", "the group before", k.row, k.group - 1, k.group < 1),
      go("group ›", "the next group", k.row, k.group + 1, k.group + 1 >= k.shape[1]),
      go("the worst", "the group with the largest error", null, null, false),
    );
    node.replaceChildren(
      h("div", { class: "lab-card-title" }, h("b", null, k.name), h("span", null, `${k.storage}; ${k.snr}`)),
      h("div", { class: "lab-charts" }, left, right),
      steps,
    );
    left.append(
      caption(`the matrix, % of its weights a bin${few ? "; lines are the code points" : ""}`),
      histogram(k, left.clientWidth),
    );
    const off = `columns ${k.columns[0]} to ${k.columns[1]}: off by ${nats(k.rms)} root mean square`;
    right.append(caption(off), stems(k, right.clientWidth));
    if (focused) [...steps.querySelectorAll("button:enabled")].find((b) => b.textContent === focused)?.focus();
  };
}

function render({ model, el }) {
  const id = newId();
  const frame = shell({ model, el }, { onLost: () => redraw() });
  const figures = h("div", { class: "lab-figures", role: "list", "aria-label": "figures of this recipe" });
  const detail = h("div", { class: "lab-detail", role: "region", "aria-label": "a matrix" });
  const plane = h("figure");
  const map = layerMap(model, frame, id);
  const panel = h("div", { role: "tabpanel", id }, map.parts);
  const inspect = inspector(model, frame, detail);
  const peers = h(
    "span",
    null,
    "; ",
    h("span", { class: "lab-key-peer" }, "◆"),
    " llama.cpp, measured on another text",
  );
  const key = h(
    "div",
    { class: "lab-legend" },
    h("span", { class: "lab-key-front" }, "—"),
    " the budget's best mixes, predicted; ",
    h("span", { class: "lab-key" }, "●"),
    " measured; ",
    h("span", { class: "lab-key" }, "○"),
    " this recipe, predicted",
    peers,
  );
  const title = caption("KL, nats, against size");
  const hint = h(
    "p",
    { class: "lab-empty" },
    "Predict or Measure, and this recipe will be drawn here by its size and its error.",
  );
  const choose = (name) => {
    model.set("shown", name);
    if (!frame.lost) model.save_changes();
  };
  const tabs = tabList("what the map shows", id, choose);
  el.append(frame.head, frame.error, figures, tabs.node, panel, detail, title, plane, key, hint);
  let shown = "";

  const paint = () => {
    const maps = model.get("maps"),
      all = Object.keys(maps),
      wanted = model.get("shown");
    if (!all.includes(shown) || all.includes(wanted)) shown = wanted;
    if (!maps[shown]) shown = all[0] ?? "";
    tabs.show(new Map(all.map((name) => [name, maps[name].title])), shown);
    panel.hidden = !maps[shown];
    if (maps[shown]) map.show(maps[shown]);
    if (maps[shown]) panel.setAttribute("aria-labelledby", tabs.labelled());
  };
  const showFigures = () => {
    figures.hidden = !model.get("figures").length;
    figures.replaceChildren(...model.get("figures").map((f) => tile(...f)));
  };
  const draw = () => {
    const f = model.get("front"),
      some = Boolean(f.ours?.length || f.now?.length || f.front?.length);
    for (const part of [title, plane, key]) part.hidden = !some;
    hint.hidden = some || !f.ours;
    peers.hidden = !f.peers?.length;
    if (some && plane.clientWidth) plane.replaceChildren(scatter(f, plane.clientWidth));
    if (el.clientWidth) inspect();
  };
  const redraw = () => {
    showFigures();
    paint();
    draw();
  };
  const watch = {
    "change:figures": showFigures,
    "change:maps": paint,
    "change:shown": paint,
    "change:place": paint,
    "change:look": inspect,
    "change:front": draw,
  };
  for (const [event, f] of Object.entries(watch)) model.on(event, f);
  const seen = new ResizeObserver(draw);
  seen.observe(el);
  frame.say();
  redraw();
  return () => {
    for (const [event, f] of Object.entries(watch)) model.off(event, f);
    frame.close();
    seen.disconnect();
  };
}

export default { render };
