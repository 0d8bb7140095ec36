// The model inside the page: the bundle's own engine answers in workers, no kernel takes part. In a notebook's output,
// and on the page that `save_html` writes.
import { caption, count, h, s, short, svgLine, svgPicture, svgText, ticks, tile } from "./common.js";
import { shell } from "./shell.js";

const ENTRIES = ["smollm.js", "worker.js", "loader.js", "compute.js"]; // what the page and its workers start with
// imports of modules beside a module, also in small copies; what JSDoc imports is left alone
const IMPORTS = /(?<!^ \*.*)(\b(?:from|import)\s*["'])(\.\/[\w/-]+\.js)/gm;
const ENDS = { eos: "the model ended", stop: "a stop string", length: "the length limit" };
const mb = (bytes) => `${short(bytes / 1e6)} MB`;

function median(xs) {
  const sorted = [...xs].sort((a, b) => a - b);
  const half = xs.length >> 1;
  return xs.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

/**
 * A script as a URL of its own. Blobs act for the page that made them, and so may fetch; a page that was opened as a
 * file has no origin, and lets workers read only data: URLs.
 */
const blobUrl = (text) => URL.createObjectURL(new Blob([text], { type: "text/javascript" }));

function dataUrl(text) {
  const bytes = Array.from(new TextEncoder().encode(text), (b) => String.fromCharCode(b));
  return `data:text/javascript;base64,${btoa(bytes.join(""))}`;
}

/**
 * JupyterLab serves scripts without an origin, and a page that was opened as a file may read none: so
 * each module gets a URL that imports such URLs.
 */
async function scripts(read, toUrl) {
  const made = new Map();
  const make = (path) => {
    if (!made.has(path)) made.set(path, read(path).then(rewrite));
    return made.get(path);
  };
  const rewrite = async (text) => {
    const urls = new Map();
    for (const [, , path] of text.matchAll(IMPORTS)) urls.set(path, await make(path.slice(2)));
    return toUrl(text.replace(IMPORTS, (_, before, path) => before + urls.get(path)));
  };
  return new Map(await Promise.all(ENTRIES.map(async (path) => [`./${path}`, await make(path)])));
}

/** One file of the bundle as text. */
function reader(base, files) {
  return async (path) => {
    if (files) {
      if (!files[path]) throw new Error(`${path} is not in the folder that was chosen: choose the whole bundle`);
      return files[path].text();
    }
    const response = await fetch(new URL(path, base), { cache: "no-cache" });
    if (!response.ok)
      throw new Error(
        `${path}: the server said ${response.status}: is the bundle still where it was? Run the cell again`,
      );
    return response.text();
  };
}

/** The bundle's folder as this page reaches it. */
function whereIs(model) {
  if (model.get("url")) return new URL(model.get("url"), document.baseURI);
  const config = document.getElementById("jupyter-config-data");
  if (!config)
    throw new Error(
      "this page is no JupyterLab, so it cannot reach the bundle: save it as a page, and serve that by `smollm serve`",
    );
  const path = model.get("path").split("/").map(encodeURIComponent).join("/");
  return new URL(`${JSON.parse(config.textContent).baseUrl}files/${path}/`, location.href);
}

const PAINT_MS = 100; // between two paintings, each of which takes a core from the model where no graphics card does it

/** Ids for a measurement: the speed does not depend on which they are. */
const someIds = (n, from) => Array.from({ length: n }, (_, i) => 300 + ((from + 37 * i) % 150));

/** What all views of one widget share: the loaded model, the answer, the figures. */
class Session {
  constructor(model) {
    Object.assign(this, { model, views: new Set(), engine: null, answer: null, files: null, lost: false });
    Object.assign(this, { busy: false, status: "", error: "", progress: -1, text: "", live: {}, given: "" });
    Object.assign(this, { waiting: 0, drawn: -Infinity, onMeasured: null });
    model.on("msg:custom", ({ act }) => act === "idle" && this.onMeasured?.());
  }

  /** Whether a kernel listens: the page goes on without one. */
  get linked() {
    const manager = this.model.widget_manager;
    return Boolean(manager) && !this.lost && (!("kernel" in manager) || Boolean(manager.kernel));
  }

  get(name) {
    return this.model.get(name);
  }

  /** Set a trait; it reaches the kernel as long as there is one. */
  setTrait(name, value) {
    this.model.set(name, value);
    if (this.linked) this.model.save_changes();
  }

  /** Send the kernel a message: "measure" its engine, "stop" that, or "save" the page. */
  send(act) {
    if (this.linked) this.model.send({ act });
  }

  /** Draw all views soon, and not more often than every `PAINT_MS`. */
  repaint() {
    this.waiting ||= setTimeout(requestAnimationFrame, this.drawn + PAINT_MS - performance.now(), () => {
      this.waiting = 0;
      this.drawn = performance.now();
      this.views.forEach((draw) => draw());
    });
  }

  say(status, progress = -1) {
    Object.assign(this, { status, progress });
    this.repaint();
  }

  get needsFiles() {
    return location.protocol === "file:" && !this.files;
  }
  get ready() {
    return Boolean(this.get("path") || this.get("url")) && !this.needsFiles;
  }

  /** The bundle's runtime; once for each place. */
  async runtime() {
    const base = whereIs(this.model);
    if (this.loader?.base === base.href) return this.loader;
    const plain = this.get("plain") && !this.files; // scripts beside this page can simply be imported
    const urls = plain ? null : await scripts(reader(base, this.files), this.files ? dataUrl : blobUrl);
    const { WasmModelLoader } = await import(plain ? new URL("smollm.js", base).href : urls.get("./smollm.js"));
    this.loader = {
      base: base.href,
      files: this.files ?? undefined,
      loader: plain ? new WasmModelLoader() : new WasmModelLoader((file) => urls.get(file)),
    };
    return this.loader;
  }

  /** Say what loading the model would fetch and hold. */
  async showCost() {
    if (!this.ready || this.engine || this.busy) return;
    try {
      const { base, files, loader } = await this.runtime();
      const plan = await loader.plan(base, { files });
      const todo = plan.total - plan.cached;
      if (this.busy || this.engine) return;
      this.plan = plan;
      const bytes = files ? `${mb(plan.total)} of files` : todo ? `${mb(todo)} to fetch` : "it is here already";
      this.say(`Generate loads the model: ${bytes}, about ${mb(plan.memory)} of memory`);
    } catch (e) {
      this.showError(e);
    }
  }

  showError(e) {
    if (e.name === "AbortError") return this.say("stopped");
    this.error = e.message;
    this.say("");
  }

  /** Run one piece of work at a time; an error becomes the line of errors. */
  async exclusively(work) {
    if (this.busy || !this.ready) return;
    Object.assign(this, { busy: true, error: "", control: new AbortController() });
    this.say("");
    try {
      await work();
    } catch (e) {
      this.showError(e);
    }
    this.answer = null;
    this.busy = false;
    this.repaint();
  }

  /** The loaded engine. */
  async load() {
    if (this.engine?.is_ready()) return this.engine;
    const { base, files, loader } = await this.runtime();
    const onProgress = ({ stage, loaded, total, plan }) => {
      this.plan = plan ?? this.plan;
      this.say(
        stage === "start" ? "testing the engine" : `loading: ${mb(loaded)} of ${mb(total)}`,
        total ? loaded / total : 0,
      );
    };
    this.engine = await loader.load_quantized_model(base, { onProgress, files, signal: this.control.signal });
    return this.engine;
  }

  /** Load the model if need be, then answer the prompt; the text grows as tokens come. */
  generate() {
    return this.exclusively(async () => {
      Object.assign(this, { text: "", live: {}, given: this.get("chat") ? "" : this.get("prompt") });
      const engine = await this.load();
      const prompt = this.get("prompt");
      const times = [];
      this.say("reading the prompt");
      this.answer = engine.generate(this.get("chat") ? [{ role: "user", content: prompt }] : prompt, {
        maxTokens: this.get("max_tokens"),
        temperature: this.get("temperature"),
        seed: this.get("seed"),
        overflow: "stop",
      });
      if (this.control.signal.aborted) this.answer.cancel();
      for await (const token of this.answer) {
        times.push(token.elapsed_s);
        this.text += token.text;
        const n = times.length;
        const rate = n > 1 ? (n - 1) / (times.at(-1) - times[0]) : NaN;
        this.live = { tokens: n, first_ms: 1000 * times[0], rate };
        this.say("answering");
      }
      const { finish_reason: why, text, timings: t } = await this.answer.result;
      this.text = text;
      if (t.new_tokens) this.live = { tokens: t.new_tokens, first_ms: 1000 * t.ttft_s, rate: t.tokens_per_s };
      const made = count(t.new_tokens, "token");
      this.say(why === "cancelled" ? `stopped after ${made}` : `${made}: ${ENDS[why]}`);
    });
  }

  /** The kernel measures its engine first, where that was not done yet: both at once would disturb each other. */
  async native() {
    if (!this.linked || this.get("native").length) return;
    const { signal } = this.control;
    this.say(""); // what the kernel says is shown
    try {
      await new Promise((resolve, reject) => {
        this.onMeasured = resolve;
        signal.addEventListener("abort", () => reject(new DOMException("stopped", "AbortError")));
        this.send("measure");
      });
    } finally {
      this.onMeasured = null;
      if (signal.aborted) this.send("stop");
    }
  }

  /** The same work that the kernel measures: so many tokens after a short prompt, several times. */
  measure() {
    return this.exclusively(async () => {
      await this.native();
      const engine = await this.load();
      const { prompt, tokens, repeats } = this.get("protocol");
      const rates = [];
      for (let i = 0; i <= repeats; i++) {
        this.say(i ? `measuring: ${i} of ${repeats}` : "measuring: warming up", i / (repeats + 1));
        await engine.reset();
        this.answer = engine.generate(someIds(prompt, i), { maxTokens: tokens, lookup: false }); // a pass a token
        if (this.control.signal.aborted) this.answer.cancel();
        const { finish_reason: why, timings: t } = await this.answer.result;
        if (why === "cancelled") return this.say("stopped");
        if (i && t.itl_s.length) rates.push(t.tokens_per_s);
      }
      if (!rates.length) throw new Error("the model ended each answer at once: there is nothing to measure");
      const { threads, variant, why } = engine.info;
      const agent = navigator.userAgent;
      const others = this.get("measured").filter((r) => r.threads !== threads || r.agent !== agent);
      this.setTrait("measured", [...others, { runner: "browser", threads, variant, why, rates, agent }]);
      this.say(`measured: ${short(median(rates))} tokens/s`);
    });
  }

  /** Stop loading, answering or measuring. */
  stop() {
    this.control?.abort();
    this.answer?.cancel();
  }

  /** The kernel is gone, the page is not. */
  loseKernel() {
    this.lost = true;
    this.onMeasured?.();
  }

  /** Files that were picked: path in the bundle → File. */
  useFiles(list) {
    const files = Object.fromEntries([...list].map((f) => [f.webkitRelativePath.split("/").slice(1).join("/"), f]));
    this.error = files["model_manifest.json"]
      ? ""
      : "that folder holds no model_manifest.json: choose the folder that this page is in";
    if (!this.error) this.files = files;
    this.showCost();
    this.repaint();
  }

  close() {
    this.stop();
    this.engine?.dispose();
  }
}

/** Who is in the chart: [name, tokens/s of each run, class]. */
function contenders(session) {
  const who = (r) => (r.agent === navigator.userAgent ? "this browser" : (r.browser ?? "browser"));
  const native = session.get("native").map((r) => [`native, ${count(r.threads, "thread")}`, r.rates, "lab-native"]);
  const browsers = session
    .get("measured")
    .map((r) => [`${who(r)}, ${count(r.threads, "thread")}`, r.rates, "lab-browser"]);
  const { rate } = session.live;
  const last = Number.isFinite(rate) ? [["the last answer, here", [rate], "lab-browser"]] : [];
  return [...native, ...browsers, ...last];
}

/** Bars of medians, the range of the runs as a line. */
function speeds(rows, width) {
  const left = 158;
  const right = 66;
  const line = 26;
  const top = 4;
  const w = Math.max(width, 280);
  const x1 = w - right;
  const y1 = top + line * rows.length;
  const height = y1 + 34;
  const high = 1.05 * Math.max(...rows.flatMap(([, rates]) => rates));
  const x = (v) => left + (v / high) * (x1 - left);
  const said = rows.map(([name, rates]) => `${name} ${short(median(rates))}`).join("; ");
  const tick = (v) => [svgLine(x(v), x(v), top, y1, "lab-grid"), svgText(x(v), y1 + 13, null, "middle", short(v))];
  const row = ([name, rates, kind], i) => {
    const y = top + line * i,
      [low, most] = [Math.min(...rates), Math.max(...rates)];
    return [
      svgText(left - 8, y + 17, "lab-who", "end", name),
      s("rect", {
        x: left,
        y: y + 5,
        width: Math.max(1, x(median(rates)) - left),
        height: line - 10,
        rx: 2,
        class: kind,
      }),
      rates.length > 1 ? s("path", { d: `M${x(low)} ${y + line / 2}H${x(most)}`, class: "lab-range" }) : null,
      svgText(x(most) + 6, y + 17, "lab-value", "start", short(median(rates))),
    ];
  };
  return svgPicture(
    w,
    height,
    `tokens per second: ${said}`,
    ticks(0, high, 4).map(tick),
    svgText((left + x1) / 2, height - 3, null, "middle", "tokens/s"),
    rows.map(row),
  );
}

/** One sentence about the chart. */
function verdict(session) {
  const native = session.get("native");
  const { prompt, tokens, repeats } = session.get("protocol");
  const here = session.get("measured").find((r) => r.agent === navigator.userAgent);
  const there = here && native.find((r) => r.threads === here.threads);
  const out = [];
  if (there) {
    const share = short((100 * median(here.rates)) / median(there.rates));
    out.push(`With ${count(here.threads, "thread")} this browser decodes ${share} % as fast as the native engine.`);
  }
  if (!there && native.length) out.push("Measure gives this browser's bar.");
  if (!native.length && !here) out.push("Measure decodes with the native engine, then in this browser.");
  if (native.length || here) {
    out.push(`Bars are medians of ${repeats} runs of ${tokens} tokens after ${prompt}, the thin line is their range;`);
    out.push("the last answer is one run.");
  }
  if (native.length) out.push(`Native: ${native[0].variant}, ${session.get("machine")}.`);
  return out.join(" ");
}

/** Where the answer of this page comes from. */
function engineLine({ engine, plan, files }) {
  const info = engine?.info ?? plan;
  if (!info) return "";
  const why = files ? "one thread: a page that was opened as a file may not share memory between threads" : info.why;
  return ` Here: ${info.variant}, ${why}.`;
}

function tiles({ live, engine }) {
  const info = engine?.info;
  const megabytes = (bytes) => (info ? short(bytes / 1e6) : "–");
  return [
    tile("tokens/s", short(live.rate)),
    tile("first token", short(live.first_ms), "ms"),
    tile("tokens", short(live.tokens ?? 0)),
    tile("loaded in", short(info?.load_s), "s"),
    tile("fetched", megabytes(info?.fetched_bytes), "MB"),
    tile("engine's memory", megabytes(info?.memory.total), "MB"),
  ];
}

/** Prompt and settings; what is written here goes to the traits. */
function form(session) {
  const keep = (name, read) => ({ onchange: (e) => session.setTrait(name, read(e.target)) });
  const field = (label, control) => h("label", { class: "lab-field" }, h("span", null, label), control);
  const number = (name, label, attrs) => {
    const read = (input) => (input.reportValidity() ? input.valueAsNumber : session.get(name));
    return field(
      label,
      h("input", { type: "number", value: session.get(name), required: true, ...attrs, ...keep(name, read) }),
    );
  };
  const prompt = h("textarea", { rows: 2, class: "lab-prompt", ...keep("prompt", (t) => t.value) });
  prompt.value = session.get("prompt");
  const mode = h(
    "select",
    keep("chat", (t) => t.value === "chat"),
    h("option", { value: "text" }, "continue the text"),
    h("option", { value: "chat", selected: session.get("chat") }, "answer as an assistant"),
  );
  return h(
    "div",
    { class: "lab-form" },
    field("prompt", prompt),
    h(
      "div",
      { class: "lab-fields" },
      field("the model should", mode),
      number("max_tokens", "answer, tokens", { min: 1, step: 1 }),
      number("temperature", "temperature", { min: 0, max: 100, step: 0.05 }),
      number("seed", "seed", { min: 0, step: 1 }),
    ),
  );
}

function picker(session) {
  const input = h("input", {
    type: "file",
    webkitdirectory: true,
    multiple: true,
    onchange: (e) => session.useFiles(e.target.files),
  });
  return h(
    "div",
    { class: "lab-error lab-picker", role: "note" },
    "This page was opened as a file, and browsers let no file read the files beside it. Choose the folder that it is ",
    "in, and the model runs from there; or serve the folder, and open it by its address: ",
    h("code", null, "python -m http.server"),
    h("p", null, h("label", null, "the bundle's folder ", input)),
  );
}

function render({ model, el }, session) {
  const frame = shell({ model, el }, { onLost: () => session.loseKernel(), onUpdate: () => draw() });
  const button = (text, title, act, kind) => h("button", { type: "button", class: kind, title, onclick: act }, text);
  const go = button("Generate", "Answer the prompt in this page", () => session.generate(), "lab-strong");
  const halt = button("Stop", "Stop with the next token", () => session.stop());
  const measure = button("Measure", "Decode with the native engine, then here, for the chart", () => session.measure());
  const save = button(
    "Save as a page",
    "Write a page into the bundle in which the model answers without a kernel",
    () => session.send("save"),
  );
  const given = h("span", { class: "lab-after" });
  const said = h("span");
  const answer = h("div", { class: "lab-answer", tabindex: "0", role: "region", "aria-label": "Answer" }, given, said);
  const figures = h("div", { class: "lab-figures", role: "list", "aria-label": "figures of the last answer" });
  const title = caption("tokens a second: this browser beside the native engine");
  const chart = h("figure", { class: "lab-speeds" });
  const about = h("p", { class: "lab-legend" });
  const pick = picker(session);
  const empty = h(
    "p",
    { class: "lab-empty" },
    "Generate loads the model into this page, and it answers here without the kernel.",
  );
  const saved = h("p", { class: "lab-note" });
  el.append(
    pick,
    form(session),
    h("div", { class: "lab-actions" }, go, halt, measure, save),
    frame.head,
    frame.error,
    saved,
    empty,
    answer,
    figures,
    title,
    chart,
    about,
  );

  const status = () => {
    if (session.status) return session.status;
    if (frame.lost && !session.ready) return frame.lost;
    const waits = session.needsFiles
      ? "waiting for the bundle's folder"
      : session.ready
        ? ""
        : "the bundle is not there yet";
    return (frame.lost ? "" : model.get("status")) || waits;
  };
  const draw = () => {
    const rows = contenders(session),
      kernel = !frame.lost && model.get("busy"),
      own = session.progress >= 0 || session.status;
    frame.say({
      status: status(),
      error: session.error || model.get("error"),
      busy: session.busy || kernel,
      progress: own ? session.progress : model.get("progress"),
    });
    pick.hidden = !session.needsFiles;
    go.disabled = measure.disabled = session.busy || !session.ready;
    halt.disabled = !session.busy;
    save.hidden = !model.widget_manager;
    save.disabled = !session.linked || kernel || !session.ready;
    saved.textContent =
      frame.lost && session.ready
        ? `${frame.lost} to save or to measure natively; this page answers on`
        : model.get("saved");
    saved.hidden = !saved.textContent;
    el.classList.toggle("lab-flows", session.live.tokens > 0);
    given.textContent = session.given;
    said.textContent = session.text;
    const some = Boolean(session.given || session.text || session.live.tokens);
    empty.hidden = some;
    answer.hidden = figures.hidden = !some;
    figures.replaceChildren(...tiles(session));
    title.hidden = chart.hidden = !rows.length;
    chart.replaceChildren(...(rows.length && el.clientWidth ? [speeds(rows, el.clientWidth - 8)] : []));
    about.textContent = verdict(session) + engineLine(session);
  };
  const watch = ["native", "measured", "path", "url", "saved"].map((name) => `change:${name}`);
  const fresh = () => session.showCost();
  for (const event of watch) model.on(event, draw);
  model.on("change:path", fresh);
  session.views.add(draw);
  const seen = new ResizeObserver(() => session.repaint());
  seen.observe(el);
  draw();
  session.showCost();
  return () => {
    for (const event of watch) model.off(event, draw);
    model.off("change:path", fresh);
    session.views.delete(draw);
    frame.close();
    seen.disconnect();
  };
}

export default () => {
  let session;
  return {
    initialize({ model }) {
      session = new Session(model);
      return () => session.close();
    },
    render: (place) => render(place, session),
  };
};
