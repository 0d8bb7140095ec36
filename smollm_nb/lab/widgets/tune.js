// Fine-tuning: what is learned from, token by token; the loss as it falls; answers before and after; what came of it.
// State is in traits alone, so the tabs work where no kernel runs.
import { caption, count, h, newId, tile } from "./common.js";
import { chart } from "./chart.js";
import { shell } from "./shell.js";
import { tabList } from "./tabs.js";

/** Names and values, a line each. */
function facts(rows, label) {
  const line = ([name, value]) => h("tr", null, h("th", { scope: "row" }, name), h("td", null, value));
  return h("table", { class: "lab-grid-table lab-facts", "aria-label": label }, h("tbody", null, rows.map(line)));
}

/** One example: each token, those that are trained on coloured. */
function example({ title, tokens, more }) {
  const token = ([piece, trained]) =>
    h("span", { class: trained ? "lab-word lab-trained" : "lab-word" }, piece.replaceAll("\n", "⏎\n"));
  const rest = more ? h("span", { class: "lab-after" }, ` … ${count(more, "more token")}`) : null;
  return [h("h4", null, title), h("div", { class: "lab-answer lab-words" }, tokens.map(token), rest)];
}

/** The data: what became of the file, and the first examples. */
function data(model) {
  const remarks = model.get("remarks").map((line) => h("li", null, line));
  const legend = h(
    "p",
    { class: "lab-legend" },
    h("span", { class: "lab-word lab-trained" }, "trained on"),
    " ",
    h("span", { class: "lab-word" }, "only read"),
  );
  return [
    facts(model.get("report"), "what became of the data"),
    remarks.length ? h("ul", { class: "lab-remarks" }, remarks) : null,
    h("h4", null, "The first examples as the model sees them"),
    legend,
    model.get("examples").map(example),
  ].filter(Boolean);
}

/** The loss at each step, the mean of its neighbours, and the readings on the held-out part. */
function loss(model, width) {
  const { steps, losses, mean, readings } = model.get("curve");
  const last = readings.at(-1);
  const key = [h("span", { class: "lab-key" }, "● training, the line a mean of neighbouring steps")];
  if (readings.length) key.push(" ", h("span", { class: "lab-key lab-key-2" }, "● held out"));
  const end = losses.length ? `${losses.length} points, the mean ends at ${mean.at(-1)[1].toFixed(2)}` : "no step yet";
  const note = end + (last ? `; held out ${readings[0][1].toFixed(2)}, then ${last[1].toFixed(2)} nats a token` : "");
  return h(
    "figure",
    null,
    caption("loss, nats a token: ", ...key),
    chart({
      title: "loss",
      note,
      points: losses,
      second: readings,
      lines: [
        [mean, ""],
        [readings, "lab-line-2"],
      ],
      kind: "dots",
      faint: true,
      xLabel: "step",
      unit: "nats",
      xMin: 0,
      xMax: Math.max(steps, 1),
      width,
      height: 230,
      robust: true,
    }),
  );
}

/** The same prompt before and after, quantized where that was judged, and what was expected. */
function answer({ prompt, expected, before, after, four_bits: quantized }) {
  const side = (name, text) => h("div", null, h("h4", null, name), h("div", { class: "lab-told" }, text || "∅"));
  const same = expected && expected.trim() === after.trim();
  const sides = [side("before", before), side(same ? "after: as expected" : "after", after)];
  if (quantized !== null) sides.push(side("quantized", quantized));
  if (expected && !same) sides.push(side("expected", expected));
  return h(
    "section",
    { class: "lab-asked" },
    h("p", { class: "lab-question" }, prompt),
    h("div", { class: "lab-told-sides" }, sides),
  );
}

const scrolled = (label, ...parts) =>
  h("div", { class: "lab-scroll", tabindex: "0", role: "region", "aria-label": label }, ...parts);

const TABS = {
  data: ["The data", (m) => m.get("report").length, data],
  loss: ["The loss", (m) => m.get("curve").steps, (m, width) => [loss(m, width)]],
  answers: [
    "Before and after",
    (m) => m.get("answers").length,
    (m) => [scrolled("answers before and after", ...m.get("answers").map(answer))],
  ],
  result: ["What came of it", (m) => m.get("result").length, (m) => [facts(m.get("result"), "what came of it")]],
};

function render({ model, el }) {
  const id = newId();
  const frame = shell({ model, el });
  const numbers = h("div", { class: "lab-figures", role: "list", "aria-label": "figures of the training" });
  const panel = h("div", { class: "lab-view", role: "tabpanel", id });
  let shown = "";
  const show = (name) => {
    model.set("shown", name);
    if (!frame.lost) model.save_changes();
    paint();
  };
  const tabs = tabList("what is shown of the training", id, show);
  const empty = h(
    "p",
    { class: "lab-empty" },
    "Look at the data shows what the model will learn from and what it takes; Train does so, and then trains.",
  );
  el.append(frame.head, frame.error, empty, numbers, tabs.node, panel);

  const paint = () => {
    const there = Object.keys(TABS).filter((name) => TABS[name][1](model));
    shown = there.includes(model.get("shown")) ? model.get("shown") : (there[0] ?? "");
    tabs.show(new Map(there.map((name) => [name, TABS[name][0]])), shown);
    empty.hidden = there.length > 0;
    panel.hidden = tabs.node.hidden = numbers.hidden = !there.length;
    numbers.replaceChildren(...model.get("figures").map(([name, value, unit]) => tile(name, value, unit)));
    if (!shown) return panel.replaceChildren();
    panel.setAttribute("aria-labelledby", tabs.labelled());
    panel.replaceChildren(...TABS[shown][2](model, panel.clientWidth || 600).flat(Infinity));
  };
  const figures = () => {
    numbers.replaceChildren(...model.get("figures").map(([name, value, unit]) => tile(name, value, unit)));
  };
  const step = () => shown === "loss" && paint(); // several a second: what else is looked at stays as it is
  const watch = { "change:figures": figures, "change:curve": step };
  for (const trait of ["shown", "report", "remarks", "examples", "answers", "result"]) watch[`change:${trait}`] = paint;
  for (const [event, f] of Object.entries(watch)) model.on(event, f);
  let width = 0;
  const seen = new ResizeObserver(() => {
    if (el.clientWidth !== width && shown === "loss") paint();
    width = el.clientWidth;
  });
  seen.observe(el);
  frame.say();
  paint();
  return () => {
    for (const [event, f] of Object.entries(watch)) model.off(event, f);
    frame.close();
    seen.disconnect();
  };
}

export default { render };
