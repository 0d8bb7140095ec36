// A sweep: what its workers do, its cells as points of cost and quality, one cell in full, and all of them as a table.
// State is in traits alone.
import { caption, count, decades, h, newId, s, short, svgLine, svgText, ticks } from "./common.js";
import { shell } from "./shell.js";

/** The mark of each four kinds, around a point, in the order of `plots.sweep.MARKS`. */
const OUTLINES = [
  (x, y) => `M${x - 4.5} ${y}a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z`,
  (x, y) => `M${x - 4} ${y - 4}h8v8h-8Z`,
  (x, y) => `M${x} ${y - 5.5}l5.5 5.5l-5.5 5.5l-5.5 -5.5Z`,
  (x, y) => `M${x} ${y - 5}l5 9h-10Z`,
];
const AT_EDGE = (x, y) => `M${x - 5} ${y - 4}h10l-5 8Z`; // a zero on a logarithmic axis

/** The class of a kind's colour: four of them, and the original's. */
const tint = (kind, original) => (kind === original ? "lab-kind-original" : `lab-kind-${kind % 4}`);

const outline = (kind, original) => OUTLINES[kind === original ? 0 : Math.floor(kind / 4) % OUTLINES.length];

/** An axis between two pixels: where a value is, its round values, and the least that has a place of its own. */
function axisOf(values, isLog, from, to, withZero) {
  const known = values.filter((v) => v > 0);
  if (isLog) {
    const floor = Math.min(...known) / (known.length < values.length ? 3 : 1.3);
    const roof = Math.max(...known) * 1.3;
    const at = (v) =>
      from + (Math.log(Math.min(roof, Math.max(v, floor)) / floor) / Math.log(roof / floor)) * (to - from);
    return { at, marks: decades(floor, roof, 3000), floor };
  }
  const most = Math.max(...values);
  const least = Math.min(...values);
  const pad = 0.08 * (most - least) || 0.1 * Math.abs(most) || 1;
  const low = withZero ? 0 : Math.max(0, least - pad);
  const high = most + pad;
  const inside = (v) => Math.min(high, Math.max(low, v));
  const at = (v) => from + ((inside(v) - low) / (high - low)) * (to - from);
  return { at, marks: ticks(low, high, 5), floor: -1 };
}

/** The front as a step line: the quality of a point holds until the next larger cost. */
function steps(front, x, y, right, start) {
  const path = front.map(([a, b], i) => {
    const next = front[i + 1];
    const end = next ? `H${x.at(next[0]).toFixed(1)}` : b <= y.floor ? "" : `H${right}`;
    return `V${y.at(b).toFixed(1)}${end}`;
  });
  return `M${x.at(front[0][0]).toFixed(1)} ${start}${path.join("")}`;
}

/** Names beside the points of the front, where there is room beside all points and other names. */
function frontNames(dots, places, original, width, bottom, up) {
  const boxes = places.map(([x, y]) => ({ x: x - 5, y: y - 5, w: 10, h: 10 }));
  const meets = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;
  const out = [];
  dots.forEach((d, i) => {
    if (!d.front) return;
    const [x, y] = places[i];
    const w = 5.9 * d.name.length;
    const free = up ? -20 : 7; // above or below: where the step line is not
    const spots = [
      ["end", -8, -7],
      ["end", -7, free],
      ["start", 7, free],
      ["middle", 0, up ? -22 : 9],
      ["start", 8, -7],
      ["start", 7, -13 - free],
      ["end", -7, -13 - free],
    ].map(([anchor, dx, dy]) => {
      const begin = x + dx - { start: 0, middle: w / 2, end: w }[anchor];
      return { x: begin, y: y + dy, w, h: 13, anchor, at: x + dx };
    });
    const fits = (r) => r.x >= 2 && r.x + r.w <= width && r.y >= 0 && r.y + r.h <= bottom + 4;
    const spot = spots.find((r) => fits(r) && !boxes.some((b) => meets(r, b)));
    if (!spot) return;
    boxes.push(spot);
    out.push(svgText(spot.at, spot.y + 11, `lab-name ${tint(d.kind, original)}`, spot.anchor, d.name));
  });
  return out;
}

/** A kind and its mark. */
const legend = (name, kind, original) => [
  s(
    "svg",
    { width: 12, height: 12, viewBox: "-6 -6 12 12", class: "lab-key-mark", "aria-hidden": "true" },
    s("path", { d: outline(kind, original)(0, 0), class: `lab-mark ${tint(kind, original)}` }),
  ),
  h("span", { class: "lab-key-name" }, name),
];

/** Cost and quality of all cells; a click, or Enter, chooses one. */
function plane(model, frame, id) {
  const node = h("div", {
    class: "lab-plane",
    role: "listbox",
    tabindex: "0",
    "aria-label": "cells by cost and quality",
  });
  const said = h("div", { class: "lab-legend lab-said", "aria-live": "polite" });
  const key = h("div", { class: "lab-legend" });
  let cells = []; // what the arrow keys go through: cell, pixels, what is said of it
  let at = 0;
  const choose = (cell) => {
    if (frame.lost) return;
    model.set("picked", cell);
    model.save_changes();
  };
  const point = (i) => {
    const c = cells[i];
    node.querySelector(".lab-here")?.classList.remove("lab-here");
    if (!c) return;
    at = i;
    const mark = node.querySelector(`[data-cell="${c.cell}"]`);
    mark.classList.add("lab-here");
    node.setAttribute("aria-activedescendant", mark.id);
    said.textContent = `${c.about}${frame.lost ? "" : "; a click shows all of it"}`;
  };

  const show = (width) => {
    const p = model.get("plane");
    key.hidden = said.hidden = node.hidden = !p.dots?.length;
    if (node.hidden || !width) return;
    const [left, right, top, bottom, height] = [54, 14, 14, 36, 320];
    const w = Math.max(width, 280);
    const [x1, y1] = [w - right, height - bottom];
    const each = p.dots.flatMap((d) => d.each);
    const ends = p.dots.flatMap((d) => (p.log[1] ? [d.y] : [d.y - d.bar, d.y + d.bar]));
    const x = axisOf(
      each.map((c) => c[1]),
      p.log[0],
      left,
      x1,
      false,
    );
    const y = axisOf([...each.map((c) => c[2]), ...ends], p.log[1], y1, top, p.quality === "kl");
    const places = p.dots.map((d) => [x.at(d.x), y.at(d.y)]);
    const figures = (a, b) => `${short(a)} ${p.units[0]}, ${short(b)} ${p.units[1]}`;
    const about = (d, c) => `${d.name}${d.each.length > 1 ? `, cell ${c[0]}` : ""}: ${figures(c[1], c[2])}`;
    const picked = model.get("picked");
    const grid = [
      y.marks.map((v) => [
        svgLine(left, x1, y.at(v), y.at(v), "lab-grid"),
        svgText(left - 5, y.at(v) + 4, "lab-tick", "end", String(v)),
      ]),
      svgLine(left, x1, y1, y1, "lab-grid"),
      x.marks.map((v) => svgText(x.at(v), y1 + 14, "lab-tick", "middle", short(v))),
      svgText((left + x1) / 2, height - 4, "lab-tick", "middle", p.labels[0]),
    ];
    const fronts = p.fronts.map(([kind, line]) => {
      const look = kind === null ? "lab-kind-all" : tint(kind, p.original);
      return s("path", { d: steps(line, x, y, x1, p.quality === "kl" ? top : y1), class: `lab-step ${look}` });
    });
    const bars = p.dots.map((d) => {
      const b = y.at(Math.max(d.y - d.bar, y.floor > 0 ? y.floor : 0));
      const mark = d.bar && d.y > y.floor ? `M${x.at(d.x)} ${b.toFixed(1)}V${y.at(d.y + d.bar).toFixed(1)}` : "";
      return mark && s("path", { d: mark, class: `lab-spread ${tint(d.kind, p.original)}` });
    });
    const marks = p.dots.map((d, i) => {
      const shape = d.y <= y.floor ? AT_EDGE : outline(d.kind, p.original);
      const look = d.front && d.y > y.floor ? "" : " lab-beaten";
      return s("path", { d: shape(...places[i]), class: `lab-mark ${tint(d.kind, p.original)}${look}` });
    });
    cells = p.dots
      .flatMap((d) => d.each.map((c) => ({ cell: c[0], x: x.at(c[1]), y: y.at(c[2]), about: about(d, c), dot: d })))
      .sort((a, b) => a.x - b.x || b.y - a.y);
    const spots = cells.map((c) =>
      s(
        "g",
        {
          role: "option",
          id: `${id}-${c.cell}`,
          class: `lab-spot ${tint(c.dot.kind, p.original)}`,
          "data-cell": c.cell,
          "aria-label": c.about,
          "aria-selected": String(c.cell === picked),
        },
        s("title", null, c.about),
        c.dot.each.length > 1 ? s("circle", { cx: c.x, cy: c.y, r: 2, class: "lab-seed" }) : null,
        s("circle", { cx: c.x, cy: c.y, r: 9, class: "lab-reach" }),
      ),
    );
    const picture = s(
      "svg",
      { width: w, height, viewBox: `0 0 ${w} ${height}`, role: "presentation" },
      grid,
      fronts,
      bars.filter(Boolean),
      marks,
      frontNames(p.dots, places, p.original, w, y1, p.quality !== "kl"),
      spots,
    );
    node.replaceChildren(picture);
    const what = `${p.labels[1]} against ${p.labels[0]}, ${count(cells.length, "cell")}`;
    node.setAttribute("aria-label", `${what}: arrow keys go through them, Enter shows one`);
    const there = new Set(p.dots.map((d) => d.kind));
    key.replaceChildren(
      ...p.kinds.flatMap((name, i) => (there.has(i) && there.size > 1 ? legend(name, i, p.original) : [])),
      h("div", null, p.note),
    );
    if (said.textContent) {
      const again = cells.findIndex((c) => c.about === said.textContent.split("; a click")[0]);
      if (again >= 0) point(again);
      else said.textContent = "";
    }
  };
  /** The cell that is pointed at: seeds of one recipe lie over each other, so it is the nearest, not the topmost. */
  const nearest = (e) => {
    const picture = node.firstElementChild;
    if (!picture) return -1;
    const box = picture.getBoundingClientRect();
    const scale = picture.width.baseVal.value / box.width;
    const far = cells.map((c) => Math.hypot((e.clientX - box.left) * scale - c.x, (e.clientY - box.top) * scale - c.y));
    const least = Math.min(...far);
    return least <= 14 ? far.indexOf(least) : -1;
  };
  node.addEventListener("pointermove", (e) => {
    const i = nearest(e);
    node.classList.toggle("lab-near", i >= 0 && !frame.lost);
    if (i >= 0) point(i);
  });
  node.addEventListener("pointerleave", () => node.classList.remove("lab-near"));
  node.addEventListener("click", (e) => nearest(e) >= 0 && choose(cells[nearest(e)].cell));
  node.addEventListener("focus", () => point(Math.min(at, cells.length - 1)));
  node.addEventListener("keydown", (e) => {
    const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: Infinity }[
      e.key
    ];
    if (to === undefined && e.key !== "Enter" && e.key !== " ") return;
    e.preventDefault();
    if (to === undefined) choose(cells[at].cell);
    else point(Math.max(0, Math.min(cells.length - 1, to)));
  });
  const title = () => {
    const p = model.get("plane");
    return p.dots?.length ? `${p.labels[1]}, against ${p.labels[0]}` : "";
  };
  return { parts: [node, said, key], show, title };
}

/** The cells as a table: a click on a column's name sorts, a click on a row, or Enter, chooses it. */
function cellTable(model, frame) {
  const node = h("div", { class: "lab-scroll", role: "region", "aria-label": "cells" });
  const more = h("div", { class: "lab-legend" });
  const set = (name, value) => {
    if (frame.lost) return;
    model.set(name, value);
    model.save_changes();
  };
  const sortBy = (name) => {
    const [now, down] = model.get("order");
    if (now !== name) set("order", [name, false]);
    else set("order", down ? ["", false] : [name, true]); // the third click: the order of the grid
  };
  const show = () => {
    const [sorted, down] = model.get("order");
    const picked = model.get("picked");
    const focused = node.contains(document.activeElement) ? document.activeElement.dataset.name : null;
    const column = (name) => {
      const sign = name === sorted ? (down ? " ▾" : " ▴") : "";
      const order = name === sorted ? (down ? "descending" : "ascending") : null;
      const tip = `sort by ${name}`;
      const press = { type: "button", class: "lab-sort", "data-name": name, title: tip, onclick: () => sortBy(name) };
      const look = model.get("numeric")[model.get("columns").indexOf(name)] ? "lab-figure-cell" : null;
      return h("th", { scope: "col", "aria-sort": order, class: look }, h("button", press, `${name}${sign}`));
    };
    const line = ([cell, texts]) =>
      h(
        "tr",
        { class: cell === picked ? "lab-picked-row" : null, "data-cell": cell },
        texts.map((text, i) => {
          const isError = model.get("columns")[i] === "error";
          const look = model.get("numeric")[i] ? "lab-figure-cell" : isError ? "lab-error-cell" : null;
          if (i) return h("td", { class: look, title: isError ? text : null }, text);
          const name = `cell ${cell}`;
          const press = {
            type: "button",
            class: "lab-link",
            "data-name": name,
            "aria-pressed": String(cell === picked),
          };
          return h("th", { scope: "row" }, h("button", { ...press, "data-cell": cell }, text || name));
        }),
      );
    const lines = model.get("lines");
    node.hidden = !lines.length;
    const head = h("thead", null, h("tr", null, model.get("columns").map(column)));
    node.replaceChildren(h("table", { class: "lab-grid-table" }, head, h("tbody", null, lines.map(line))));
    const buttons = [...node.querySelectorAll("tbody button")];
    const here = buttons.find((b) => b.dataset.name === focused) ?? buttons.find((b) => b.ariaPressed === "true");
    for (const b of buttons) b.tabIndex = -1; // one stop for the Tab key, arrow keys between rows
    if (buttons.length) (here ?? buttons[0]).tabIndex = 0;
    more.textContent = model.get("rest");
    more.hidden = !more.textContent;
    if (focused) [...node.querySelectorAll("button")].find((b) => b.dataset.name === focused)?.focus();
  };
  node.addEventListener("click", (e) => {
    const line = e.target.closest("tbody tr");
    if (line) set("picked", Number(line.dataset.cell));
  });
  node.addEventListener("keydown", (e) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
    const buttons = [...node.querySelectorAll("tbody button")];
    const i = buttons.indexOf(e.target);
    if (!step || i < 0) return;
    e.preventDefault();
    const next = buttons[Math.max(0, Math.min(buttons.length - 1, i + step))];
    e.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  return { parts: [node, more], show };
}

/** What each worker does now: the cell, the stage, how far it is. */
function workerLine([name, stage, share]) {
  const bar = h("span", { class: "lab-worker-bar" }, h("span", { style: `width:${(100 * share).toFixed(0)}%` }));
  return h("li", null, h("span", { class: "lab-worker-cell" }, name), h("span", null, stage), bar);
}

/** One cell: its settings and its figures. */
function factsOf(rows) {
  const pair = ([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value));
  return h("dl", { class: "lab-pairs" }, rows.map(pair));
}

function render({ model, el }) {
  const id = newId();
  const frame = shell({ model, el });
  const doing = h("ul", { class: "lab-workers", "aria-label": "what the workers do" });
  const title = caption("");
  const points = plane(model, frame, id);
  const table = cellTable(model, frame);
  const detail = h("div", { class: "lab-detail", role: "region", "aria-label": "the chosen cell" });
  const empty = h("p", { class: "lab-empty" });
  const figure = h("figure", null, title, points.parts);
  el.append(frame.head, frame.error, doing, empty, figure, detail, table.parts[0], table.parts[1]);

  const work = () => {
    doing.hidden = !model.get("doing").length;
    doing.replaceChildren(...model.get("doing").map(workerLine));
  };
  const draw = () => {
    title.textContent = points.title();
    title.hidden = !title.textContent;
    points.show(figure.clientWidth);
    empty.textContent = title.hidden ? model.get("plane").note || "There are no rows yet." : "";
    empty.hidden = !title.hidden;
  };
  const inspect = () => {
    const rows = model.get("detail");
    detail.hidden = !rows.length;
    const name = h("div", { class: "lab-card-title" }, h("b", null, model.get("name")));
    detail.replaceChildren(...(rows.length ? [name, factsOf(rows)] : []));
  };
  const pick = () => {
    draw();
    table.show();
  };
  const watch = { "change:doing": work, "change:plane": draw, "change:detail": inspect, "change:picked": pick };
  for (const trait of ["lines", "columns", "order", "rest"]) watch[`change:${trait}`] = table.show;
  for (const [event, f] of Object.entries(watch)) model.on(event, f);
  let width = 0;
  const seen = new ResizeObserver(() => {
    if (el.clientWidth !== width) draw();
    width = el.clientWidth;
  });
  seen.observe(el);
  frame.say();
  work();
  draw();
  inspect();
  table.show();
  return () => {
    for (const [event, f] of Object.entries(watch)) model.off(event, f);
    frame.close();
    seen.disconnect();
  };
}

export default { render };
