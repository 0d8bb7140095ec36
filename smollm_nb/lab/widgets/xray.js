// What a model does inside: the lens of every layer, attention, heads, what speaks for a token, answers without parts.
// All numbers of a prompt are here, so pointing and choosing need no kernel; only switching parts off does.
import { caption, h, newId, percent, probabilityBars, short, visible } from "./common.js";
import { shell } from "./shell.js";
import { tabList } from "./tabs.js";

const range = (n) => Array.from({ length: n }, (_, i) => i);
const clamp = (x, high) => Math.max(0, Math.min(high, x));
const chance = (p) => (p >= 0.0001 && p < 0.01 ? `${(100 * p).toFixed(2)} %` : percent(p));
const signed = (x) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(2)}`;

/** The numbers of a prompt, from the traits; null before there is one. */
function readLook(model) {
  const look = model.get("look");
  if (!look.tokens) return null;
  const bytes = (name) => {
    const view = model.get(name);
    return view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
  };
  const { tokens, words, layers, heads, likeliest: k, most, sides } = look;
  const n = tokens.length;
  const rows = layers + 1;
  const cells = new Uint16Array(bytes("cells"));
  const patterns = new Uint8Array(bytes("patterns"));
  const shares = new Int16Array(bytes("shares"));
  const size = rows * n * k;
  const first = (side, row, pos) => 2 * side * size + (row * n + pos) * k;
  return {
    ...look,
    n,
    rows,
    parts: heads + 1,
    word: (side, row, pos) => words[cells[first(side, row, pos)]],
    p: (side, row, pos) => cells[first(side, row, pos) + size] / 65535,
    /** The likeliest tokens: [text, probability]. */
    likeliest: (side, row, pos) =>
      range(k).map((j) => {
        const i = first(side, row, pos) + j;
        return [words[cells[i]], cells[i + size] / 65535];
      }),
    /** Attention of a head from one position to those up to it, 0..1. */
    attention(layer, head, pos) {
      const start = (layer * heads + head) * ((n * (n + 1)) / 2) + (pos * (pos + 1)) / 2;
      return Array.from(patterns.subarray(start, start + pos + 1), (x) => x / 255);
    },
    /** What a part adds to the logit of one of the likeliest tokens. */
    added: (pos, rank, layer, part) =>
      (shares[((pos * k + rank) * layers + layer) * (heads + 1) + part] * most) / 32767,
    name: (layer, part) => (part < heads ? `L${layer}H${part}` : `L${layer}MLP`),
    same: (row, pos) => sides.length < 2 || words[cells[first(0, row, pos)]] === words[cells[first(1, row, pos)]],
  };
}

const rowName = (row) => (row ? `layer ${row - 1}` : "the embedding");

const ARROWS = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };

/**
 * Cells that are one stop for the Tab key, with arrows between them. `size()` is [rows, columns], `cell(r, c)` an
 * element; `point(r, c)` is called for what the mouse or the focus is on, `choose(r, c, key)` for a click or a key.
 */
function roving(node, { size, cell, point, choose, keys = [] }) {
  let at = [0, 0];
  const place = (r, c) => {
    cell(...at)?.setAttribute("tabindex", "-1");
    at = [r, c];
    cell(r, c)?.setAttribute("tabindex", "0");
  };
  const where = (e) => e.target.closest("[data-at]")?.dataset.at.split(" ").map(Number);
  node.addEventListener("pointerover", (e) => where(e) && point(...where(e)));
  node.addEventListener("pointerleave", () => point());
  node.addEventListener("focusin", (e) => {
    if (!where(e)) return;
    place(...where(e));
    point(...where(e));
  });
  node.addEventListener("focusout", (e) => !node.contains(e.relatedTarget) && point());
  node.addEventListener("click", (e) => {
    if (!where(e)) return;
    place(...where(e));
    choose(...where(e), "click");
  });
  node.addEventListener("keydown", (e) => {
    const [rows, columns] = size();
    const step = ARROWS[e.key];
    const [r, c] = at;
    const to = step ? [r + step[0], c + step[1]] : { Home: [r, 0], End: [r, columns - 1] }[e.key];
    if (!to && e.key !== "Enter" && e.key !== " " && !keys.includes(e.key)) return;
    e.preventDefault();
    if (!to) return choose(r, c, e.key);
    place(clamp(to[0], rows - 1), clamp(to[1], columns - 1));
    cell(...at)?.focus();
  });
  return place;
}

/** The lens of one model: a row for each layer, a column for each token. `mark(row, pos, kind)` marks a cell. */
function lensTable(title, point, choose) {
  const table = h("table", { class: "lab-lens", role: "grid" });
  const frame = h("div", { class: "lab-lens-frame" }, table);
  const node = h("figure", null, title, frame);
  let look = null;
  let cells = [];
  const cell = (r, c) => cells[r]?.[c];
  const place = roving(table, { size: () => [look.rows, look.n], cell, point, choose });
  const show = (now, side) => {
    look = now;
    const one = (row, pos) => {
      const word = look.word(side, row, pos);
      const p = look.p(side, row, pos);
      const said = `after ${rowName(row)} at ${visible(look.tokens[pos])}: ${visible(word)}, ${chance(p)}`;
      const differs = side > 0 && !look.same(row, pos);
      return h(
        "td",
        {
          role: "gridcell",
          tabindex: "-1",
          "data-at": `${row} ${pos}`,
          "aria-label": differs ? `${said}; ${look.sides[0]} says another` : said,
          class: differs ? "lab-differs" : null,
          style: `--p:${(100 * p).toFixed(0)}%`,
        },
        visible(word),
      );
    };
    cells = range(look.rows).map((row) => range(look.n).map((pos) => one(row, pos)));
    const head = look.tokens.map((t, pos) => h("th", { scope: "col", "data-pos": pos, title: visible(t) }, visible(t)));
    const line = (row) => h("tr", null, h("th", { scope: "row" }, row ? String(row - 1) : "emb"), cells[row]);
    table.setAttribute("aria-label", `${look.sides[side]}: the likeliest next token after each layer, at each token`);
    table.replaceChildren(
      h("thead", null, h("tr", null, h("th", { class: "lab-corner" }, "layer"), head)),
      h("tbody", null, range(look.rows).map(line)),
    );
    frame.scrollLeft = frame.scrollWidth; // the end of the prompt is what is asked about
  };
  const mark = (row, pos, kind) => {
    table.querySelector(`.${kind}`)?.classList.remove(kind);
    cell(row, pos)?.classList.add(kind);
  };
  const changed = (positions) => {
    for (const th of table.querySelectorAll("thead [data-pos]"))
      th.classList.toggle("lab-changed", positions.includes(Number(th.dataset.pos)));
  };
  return { node, frame, show, mark, changed, place };
}

const bars = (title, rows) => probabilityBars(title, rows, chance, "lab-likely");

const MAPS = new Map([
  ["added", "adds"],
  ["induction", "induction"],
  ["previous", "previous"],
  ["first", "first"],
]);
const ABOUT = {
  added: "Logits that each part adds to the token: blue for it, red against it; tinted by the root.",
  induction: "Share of attention on what came after this token the last time, in random tokens that repeat.",
  previous: "Share of attention on the token before, in random tokens.",
  first: "Share of attention on the first token, in random tokens.",
};

/** The map of all heads and MLPs: a column for each layer. */
function headMap({ say, choose }) {
  const node = h("div", { class: "lab-map lab-head-map", role: "grid" });
  let look = null;
  let cells = [];
  let values = [];
  const cell = (r, c) => cells[r]?.[c];
  const point = (r, c) => say(r === undefined ? "" : describe(r, c));
  const place = roving(node, {
    size: () => [cells.length, look.layers],
    cell,
    point,
    choose: (r, c, key) => choose(c, r, key),
    keys: ["x", "X"],
  });
  let unit = "";
  const describe = (r, c) => {
    const v = values[r][c];
    const name = look.name(c, r);
    if (v === null) return `${name}: an MLP does not attend`;
    return `${name}: ${unit ? chance(v) : `${signed(v)} logits`}`;
  };
  const build = (now) => {
    look = now;
    const one = (r, c) => h("span", { role: "gridcell", tabindex: "-1", "data-at": `${r} ${c}`, class: "lab-cell" });
    cells = range(look.parts).map((r) => range(look.layers).map((c) => one(r, c)));
    const label = (r) => (r < look.heads ? `head ${r}` : "MLP");
    const line = (r) =>
      h("div", { role: "row" }, h("span", { class: "lab-row", role: "rowheader" }, label(r)), cells[r]);
    const every = Math.ceil(look.layers / 12);
    const numbers = range(look.layers).map((c) => h("span", null, c % every ? "" : String(c)));
    node.style.setProperty("--layers", look.layers);
    node.replaceChildren(
      ...range(look.parts).map(line),
      h("div", { class: "lab-layers", "aria-hidden": "true" }, h("span"), numbers),
      h("div", { class: "lab-layers", "aria-hidden": "true" }, h("span"), h("span", { class: "lab-axis" }, "layer")),
    );
  };
  /** Values by (row, layer), null where there is none; `most` is the full tint. */
  const show = (now, value, most, shown, off, chosen) => {
    if (now !== look) build(now);
    unit = shown === "added" ? "" : "%";
    values = range(look.parts).map((r) => range(look.layers).map((c) => value(r, c)));
    node.setAttribute("aria-label", `${MAPS.get(shown)}: arrow keys move, Enter chooses, X switches off`);
    values.forEach((row, r) =>
      row.forEach((v, c) => {
        const name = look.name(c, r);
        const now = cells[r][c];
        const kind = v === null ? " lab-unknown" : v < 0 ? " lab-against" : "";
        const picked = chosen[0] === c && chosen[1] === r ? " lab-chosen-cell" : "";
        now.className = `lab-cell${kind}${picked}${off.includes(name) ? " lab-off" : ""}`;
        const part = Math.min(1, Math.abs(v ?? 0) / most);
        now.style.setProperty("--share", `${(100 * (unit ? part : Math.sqrt(part))).toFixed(0)}%`);
        now.setAttribute("aria-label", describe(r, c) + (off.includes(name) ? ", switched off" : ""));
        now.setAttribute("aria-selected", String(Boolean(picked)));
      }),
    );
  };
  return { node, show, place };
}

function render({ model, el }) {
  const id = newId();
  const frame = shell({ model, el }, { onLost: () => draw() });
  const still = () => Boolean(frame.lost || model.get("saved")); // nothing computes any more
  let look = null;
  let hover = null; // [row, position] under the mouse or the focus
  let clickOff = false; // whether a click on the map switches off
  let frames = 0;

  const set = (name, value) => {
    model.set(name, value);
    if (!still()) model.save_changes();
  };
  const toggle = (name) => {
    if (still() || model.get("busy")) return;
    const off = model.get("off");
    set("off", off.includes(name) ? off.filter((x) => x !== name) : [...off, name]);
  };

  // the lens
  const titles = [caption(), caption()];
  const point = (row, pos) => {
    hover = row === undefined ? null : [row, pos];
    cancelAnimationFrame(frames);
    frames = requestAnimationFrame(follow);
  };
  const select = (row, pos) => set("place", [row, pos]);
  const tables = titles.map((title) => lensTable(title, point, select));
  for (const [i, t] of tables.entries()) {
    const other = tables[1 - i].frame; // one scrolls with the other
    t.frame.addEventListener("scroll", () => {
      if (other.scrollLeft !== t.frame.scrollLeft) other.scrollLeft = t.frame.scrollLeft;
      if (other.scrollTop !== t.frame.scrollTop) other.scrollTop = t.frame.scrollTop;
    });
  }
  const sides = h(
    "div",
    { class: "lab-sides" },
    tables.map((t) => t.node),
  );
  const differ = h("span", null, "; ", h("b", { class: "lab-differs" }, "framed"), " where the second says another");
  const legend = h(
    "div",
    { class: "lab-legend" },
    "0 % ",
    h("i", { class: "lab-sure" }),
    " 100 % probable as the next token",
    differ,
  );
  const detail = h("div", { class: "lab-detail", role: "region", "aria-label": "the likeliest next tokens" });

  // heads
  const said = h("div", { class: "lab-legend lab-said", "aria-live": "polite" });
  const idle = () => ABOUT[model.get("shown")];
  const map = headMap({
    say: (text) => {
      said.textContent = text || idle();
    },
    choose: (layer, part, key) => {
      if (!still() && (clickOff || key.toLowerCase() === "x")) return toggle(look.name(layer, part));
      set("part", [layer, part]);
    },
  });
  const panel = h("div", { role: "tabpanel", id }, map.node, said);
  const tabs = tabList("what the map of heads shows", id, (name) => set("shown", name));
  const mode = (label, value) =>
    h(
      "button",
      {
        type: "button",
        onclick: () => {
          clickOff = value;
          paintModes();
        },
      },
      label,
    );
  const modes = [mode("looks at it", false), mode("switches it off", true)];
  const paintModes = () => modes.forEach((b, i) => b.setAttribute("aria-pressed", String(clickOff === Boolean(i))));
  const clicks = h(
    "div",
    { class: "lab-steps lab-modes", role: "group", "aria-label": "what a click on the map does" },
    h("span", null, "a click"),
    modes,
  );
  const strip = h("div", { class: "lab-answer lab-gaze" });
  const gaze = caption();
  const partButton = h("button", { type: "button", class: "lab-toggle" });
  const attention = h("figure", null, gaze, strip, h("div", { class: "lab-steps" }, partButton));
  const mapFigure = h("figure", null, caption("heads and MLPs"), tabs.node, panel, clicks);

  // attribution, and the answer
  const rank = h("select", { "aria-label": "the token that is taken apart" });
  const share = h("figure");
  const shareTable = h("table", { class: "lab-table lab-shares" });
  const rest = h("div", { class: "lab-legend" });
  share.append(
    h("div", { class: "lab-card-title lab-apart" }, h("b", null, "what speaks for"), rank),
    shareTable,
    rest,
  );
  const answer = h("div", { class: "lab-detail lab-without", "aria-live": "polite" });
  const empty = h(
    "p",
    { class: "lab-empty" },
    "Look inside reads the prompt. What each layer would say, where each head looks, and what each part adds to a ",
    "token will be shown here.",
  );
  const body = h(
    "div",
    null,
    sides,
    legend,
    detail,
    h("div", { class: "lab-charts" }, mapFigure, h("div", null, attention, share)),
    answer,
  );
  el.append(frame.head, frame.error, empty, body);
  rank.addEventListener("change", () => set("rank", Number(rank.value)));
  partButton.addEventListener("click", () => toggle(look.name(...model.get("part"))));
  strip.addEventListener("click", (e) => {
    if (e.target.dataset.pos) select(model.get("place")[0], Number(e.target.dataset.pos));
  });
  shareTable.addEventListener("click", (e) => {
    const at = e.target.closest("[data-part]")?.dataset.part.split(" ").map(Number);
    if (at) set("part", at);
  });

  const here = () => hover ?? model.get("place");

  /** The five likeliest of a cell, for each model. */
  const paintDetail = ([row, pos]) => {
    const title = h(
      "div",
      { class: "lab-card-title" },
      h("b", null, `after ${rowName(row)}, at token ${pos + 1}: ${visible(look.tokens[pos])}`),
    );
    const each = look.sides.map((name, side) => bars(`${name} would say`, look.likeliest(side, row, pos)));
    detail.replaceChildren(title, h("div", { class: "lab-charts" }, each));
  };
  /** The text, tinted by where the chosen head looks from a position. */
  const paintGaze = (pos) => {
    const [layer, part] = model.get("part");
    const name = look.name(layer, part);
    const off = model.get("off").includes(name);
    const mlp = part === look.heads;
    const weights = mlp ? [] : look.attention(layer, part, pos);
    gaze.textContent = mlp
      ? `${name} reads one position alone`
      : `where ${name} looks from ${visible(look.tokens[pos])}`;
    strip.setAttribute("aria-label", gaze.textContent);
    strip.replaceChildren(
      ...look.tokens.map((t, i) =>
        h(
          "span",
          {
            class: `lab-token lab-looks${i === pos ? " lab-at" : ""}${i > pos ? " lab-after" : ""}`,
            "data-pos": i,
            style: `--doubt:${(100 * (weights[i] ?? 0)).toFixed(0)}%`,
            title: i > pos ? "after it" : mlp ? "" : chance(weights[i]),
          },
          t,
        ),
      ),
    );
    partButton.textContent = off ? `Switch ${name} on again` : `Switch ${name} off`;
    partButton.disabled = still() || model.get("busy");
  };
  /** The parts that add most to the chosen token, and the rest. */
  const paintShares = (pos) => {
    const which = model.get("rank");
    const all = range(look.layers).flatMap((l) => range(look.parts).map((p) => [l, p, look.added(pos, which, l, p)]));
    const total = all.reduce((sum, [, , v]) => sum + v, 0) + look.embedding[pos][which];
    all.sort((a, b) => Math.abs(b[2]) - Math.abs(a[2]));
    const top = all.slice(0, 8);
    const most = Math.abs(top[0][2]) || 1;
    const off = model.get("off");
    const line = ([l, p, v]) => {
      const name = look.name(l, p);
      const bar = h("span", { class: v < 0 ? "lab-minus" : null, style: `width:${(100 * Math.abs(v)) / most}%` });
      const link = h("button", { type: "button", class: "lab-link", "data-part": `${l} ${p}` }, name);
      return h(
        "tr",
        { class: off.includes(name) ? "lab-gone" : null },
        h("td", { class: "lab-part" }, link),
        h("td", { class: "lab-bar lab-wide" }, bar),
        h("td", { class: "lab-num" }, signed(v)),
      );
    };
    const focused = shareTable.contains(document.activeElement) && document.activeElement.dataset.part;
    shareTable.replaceChildren(...top.map(line));
    if (focused) shareTable.querySelector(`[data-part="${focused}"]`)?.focus();
    const others = total - top.reduce((sum, [, , v]) => sum + v, 0);
    rest.textContent = `all others and the embedding ${signed(others)}; together the logit ${short(total)}`;
    const words = look.likeliest(0, look.rows - 1, pos);
    rank.replaceChildren(
      ...words.map(([w, p], i) =>
        h(
          "option",
          { value: i, selected: i === which },
          `${visible(w)}  ${chance(p)}, after ${visible(look.tokens[pos])}`,
        ),
      ),
    );
  };
  const paintMap = (pos) => {
    const shown = MAPS.has(model.get("shown")) ? model.get("shown") : "added";
    const which = model.get("rank");
    const scores = look.scores[shown];
    const value = scores ? (r, c) => (r < look.heads ? scores[c][r] : null) : (r, c) => look.added(pos, which, c, r);
    let most = 1;
    if (!scores) {
      const all = range(look.layers).flatMap((c) => range(look.parts).map((r) => Math.abs(value(r, c))));
      most = Math.max(...all) || 1;
    }
    map.node.classList.toggle("lab-both", !scores);
    map.show(look, value, most, shown, model.get("off"), model.get("part"));
    tabs.show(MAPS, shown);
    panel.setAttribute("aria-labelledby", tabs.labelled());
    if (!map.node.matches(":hover, :focus-within")) said.textContent = idle();
  };
  /** The answer with parts off, beside the whole model's. */
  const paintAnswer = (pos) => {
    const { off = [], likeliest, changed, loss } = model.get("ablated");
    const wanted = model.get("off");
    for (const t of tables) t.changed(off.length ? changed : []);
    answer.hidden = !wanted.length && !off.length;
    if (answer.hidden) return answer.replaceChildren();
    const chip = (name) =>
      h(
        "button",
        {
          type: "button",
          class: "lab-chip",
          title: `switch ${name} on again`,
          "aria-label": `switch ${name} on again`,
          disabled: still(),
          onclick: () => toggle(name),
        },
        `${name} ×`,
      );
    const all = h("button", { type: "button", disabled: still(), onclick: () => set("off", []) }, "Switch all on");
    const head = h("div", { class: "lab-steps" }, h("b", null, "switched off:"), wanted.map(chip), all);
    if (!off.length) return answer.replaceChildren(head, h("p", null, "reading the prompt without it …"));
    const count = changed.length;
    const found =
      `The first choice changes at ${count} of ${look.n} tokens` +
      `${count ? " (framed above the table)" : ""}; loss on the prompt ${loss[0].toFixed(2)} → ` +
      `${loss[1].toFixed(2)} nats a token.`;
    const at = visible(look.tokens[pos]);
    answer.replaceChildren(
      head,
      h("p", null, found),
      h(
        "div",
        { class: "lab-charts" },
        bars(`after ${at}, the whole model says`, look.likeliest(0, look.rows - 1, pos)),
        bars(`without ${off.length < 4 ? off.join(", ") : `${off.length} parts`}`, likeliest[pos]),
      ),
    );
  };

  /** All that depends on the cell that is pointed at. */
  const follow = () => {
    if (!look) return;
    const [row, pos] = here();
    for (const t of tables) t.mark(row, pos, "lab-here");
    paintDetail([row, pos]);
    paintGaze(pos);
    paintShares(pos);
    paintMap(pos);
    paintAnswer(pos);
  };
  const choose = () => {
    if (!look) return;
    const [row, pos] = model.get("place");
    for (const t of tables) {
      t.mark(row, pos, "lab-picked");
      t.place(row, pos);
    }
    follow();
  };
  const draw = () => {
    look = readLook(model);
    hover = null;
    empty.hidden = Boolean(look);
    body.hidden = !look;
    if (!look) return;
    const two = look.sides.length > 1;
    differ.hidden = !two;
    tables[1].node.hidden = !two;
    tables.forEach((t, side) => {
      if (look.sides[side] === undefined) return;
      titles[side].textContent = `${look.sides[side]}: the likeliest next token after each layer`;
      t.show(look, side);
    });
    clicks.hidden = still();
    partButton.parentElement.hidden = still();
    paintModes();
    map.place(model.get("part")[1], model.get("part")[0]);
    choose();
  };
  const busy = () => look && paintGaze(here()[1]);
  const watch = {
    "change:look": draw,
    "change:place": choose,
    "change:part": follow,
    "change:rank": follow,
    "change:shown": follow,
    "change:off": follow,
    "change:ablated": follow,
    "change:busy": busy,
  };
  for (const [event, f] of Object.entries(watch)) model.on(event, f);
  frame.say();
  draw();
  return () => {
    for (const [event, f] of Object.entries(watch)) model.off(event, f);
    cancelAnimationFrame(frames);
    frame.close();
  };
}

export default { render };
