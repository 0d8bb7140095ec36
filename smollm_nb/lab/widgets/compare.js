// Two models on one prompt: the reference's answer token by token, how far the candidate is at each, and why.
// State is in traits alone.
import { caption, h, newId, probabilityBars, short, tile, visible } from "./common.js";
import { chart, latencyChart } from "./chart.js";
import { shell } from "./shell.js";

const heading = (text) => h("h4", null, text);

/** The parts of the candidate that make it choose another token. */
function reasons(blame) {
  if (blame.note) return h("p", null, blame.note);
  const most = Math.max(...blame.effects.map(([, e]) => Math.abs(e)), 1e-9);
  const bar = (e) => h("span", { class: e < 0 ? "lab-minus" : null, style: `width:${(100 * Math.abs(e)) / most}%` });
  const line = ([name, effect, undone]) =>
    h(
      "tr",
      { class: undone ? "lab-chosen" : null },
      h("td", { class: "lab-part" }, name),
      h("td", { class: "lab-bar lab-wide" }, bar(effect)),
      h("td", { class: "lab-num" }, `${effect < 0 ? "−" : "+"}${short(Math.abs(effect))}`),
      h("td", null, undone ? "undoes the flip" : ""),
    );
  const together = blame.together.length
    ? `Enough to undo it: ${blame.together.join(", ")}.`
    : "All parts together do not undo it: the difference is in the arithmetic, not in the weights.";
  return h(
    "div",
    null,
    heading("change of the margin when one part is the reference's again, in logits"),
    h("table", { class: "lab-table" }, blame.effects.map(line)),
    h("p", null, together),
  );
}

/** KL as a share of the tint, %; by its square root, so that small ones are told apart. */
const tint = (kl) => Math.min(100, 100 * Math.sqrt(kl)).toFixed(0);

function render({ model, el }) {
  const frame = shell({ model, el });
  const id = newId();
  const lead = h("div", {
    class: "lab-answer lab-pick",
    role: "listbox",
    tabindex: "0",
    "aria-label": "The reference's answer; the arrow keys go from token to token, Enter looks into one",
  });
  const other = h("div", {
    class: "lab-answer",
    role: "region",
    tabindex: "0",
    "aria-label": "The candidate's own answer",
  });
  const names = [h("h4"), h("h4")];
  const numbers = h("div", { class: "lab-figures", role: "list", "aria-label": "figures of the comparison" });
  const legend = h(
    "div",
    { class: "lab-legend", "aria-hidden": "true" },
    "same ",
    h("i", { class: "lab-loss" }),
    " 1 nat apart or more (KL); framed where the candidate chooses another token; click one to look into it",
  );
  const detail = h("div", { class: "lab-detail", "aria-live": "polite" });
  const kl = h("figure");
  const time = h("figure");
  const empty = h(
    "p",
    { class: "lab-empty" },
    "Compare runs both models. Their answers, where they differ, and the latency of each token will be shown here.",
  );
  const answers = h("div", { class: "lab-charts" }, h("div", null, names[0], lead), h("div", null, names[1], other));
  const charts = h("div", { class: "lab-charts" }, kl, time);
  el.append(frame.head, frame.error, empty, numbers, answers, legend, detail, charts);
  let at = -1;

  const look = () => {
    const now = model.get("selected"),
      row = model.get("rows")[now],
      blame = model.get("blame"),
      [a, b] = model.get("names");
    [...lead.children].forEach((span, i) => span.classList.toggle("lab-at", i === now));
    if (!row) return detail.replaceChildren();
    const title = h(
      "div",
      { class: "lab-card-title" },
      `token ${now + 1}`,
      h("span", null, `KL ${short(row[2])} nats`),
    );
    const about = blame.step === now ? reasons(blame) : "";
    const bars = h("div", { class: "lab-charts" }, probabilityBars(a, row[5]), probabilityBars(b, row[6]));
    detail.replaceChildren(title, bars, about);
  };
  const choose = (i) => {
    if (!model.get("rows")[i]) return;
    model.set("selected", i);
    if (!frame.lost) model.save_changes();
  };
  lead.addEventListener("click", (e) => {
    if (!e.target.dataset.i) return;
    at = Number(e.target.dataset.i);
    choose(at);
  });
  lead.addEventListener("keydown", (e) => {
    const last = lead.children.length - 1;
    const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: last }[e.key];
    if (to === undefined && e.key !== "Enter" && e.key !== " ") return;
    e.preventDefault();
    if (to === undefined) return choose(at);
    at = Math.max(0, Math.min(last, to));
    [...lead.children].forEach((span, i) => span.classList.toggle("lab-at", i === at));
    if (lead.children[at]) lead.setAttribute("aria-activedescendant", lead.children[at].id);
  });

  const draw = () => {
    const rows = model.get("rows"),
      [a, b] = model.get("names"),
      flip = rows.findIndex((r) => r[0] !== r[1]);
    empty.hidden = rows.length > 0;
    for (const part of [numbers, answers, legend, charts]) part.hidden = !rows.length;
    names[0].textContent = a;
    names[1].textContent = flip < 0 ? b : `${b}: differs from token ${flip + 1}`;
    numbers.replaceChildren(...model.get("figures").map(([name, value, unit]) => tile(name, value, unit)));
    const said = (x, y, d) => (x === y ? `KL ${short(d)} nats` : `${b} chooses ${visible(y)}; KL ${short(d)} nats`);
    lead.replaceChildren(
      ...rows.map(([x, y, d], i) =>
        h(
          "span",
          {
            class: x === y ? "lab-token lab-far" : "lab-token lab-far lab-flip",
            role: "option",
            id: `${id}-${i}`,
            "data-i": i,
            style: `--doubt:${tint(d)}%`,
            title: said(x, y, d),
          },
          x,
        ),
      ),
    );
    const kind = (i) => (i === flip ? "lab-flip" : i > flip && flip >= 0 ? "lab-after" : null);
    other.replaceChildren(...model.get("candidate_pieces").map((x, i) => h("span", { class: kind(i) }, x)));
    if (rows.length && kl.clientWidth) plot(rows, a, b);
    look();
  };
  const plot = (rows, a, b) => {
    const series = (k) => rows.map((r, i) => [i + 1, r[k]]);
    const width = kl.clientWidth;
    const axes = { kind: "dots", xLabel: "token", xMin: 1, xMax: 16, unit: "nats", width };
    const note = `${rows.length} tokens`;
    kl.replaceChildren(
      caption("KL at each token, nats"),
      chart({ ...axes, title: "KL at each token", note, points: series(2) }),
    );
    const key = [h("span", { class: "lab-key" }, a), " and ", h("span", { class: "lab-key lab-key-2" }, b)];
    // the first step reads the prompt
    const latencies = [series(3).slice(1), series(4).slice(1)];
    const head = ["latency, ms: ", ...key];
    time.replaceChildren(...latencyChart("latency", head, `${a} and ${b}`, latencies, model.get("limits"), width));
  };
  const watch = {
    "change:rows": draw,
    "change:candidate_pieces": draw,
    "change:figures": draw,
    "change:selected": look,
    "change:blame": look,
  };
  for (const [event, f] of Object.entries(watch)) model.on(event, f);
  const seen = new ResizeObserver(draw);
  seen.observe(el);
  frame.say();
  draw();
  return () => {
    for (const [event, f] of Object.entries(watch)) model.off(event, f);
    frame.close();
    seen.disconnect();
  };
}

export default { render };
