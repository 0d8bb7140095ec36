// The model inside the page: the bundle's own engine answers in workers, no kernel takes part. In a notebook's output, and on the page that `save_html` writes.
import { h, s, short, ticks } from "./common.js";

const ENTRIES = ["smollm.js", "worker.js", "loader.js", "compute.js"]; // what the page and its workers start with
// imports of modules beside a module, also in small copies; what JSDoc imports is left alone
const IMPORTS = /(?<!^ \*.*)(\bfrom\s*["'])(\.\/[\w/-]+\.js)/gm;
const ENDS = { eos: "the model ended", stop: "a stop string", length: "the length that was asked for" };
const mb = (bytes) => `${short(bytes / 1e6)} MB`;
const count = (n, thing) => `${n} ${thing}${n === 1 ? "" : "s"}`;
const median = (xs) => [...xs].sort((a, b) => a - b).reduce((sum, v, i, all) => sum + (i === all.length >> 1 || i === (all.length - 1) >> 1 ? v : 0), 0) / (xs.length % 2 ? 1 : 2);

// a script as a URL of its own. Blobs act for the page that made them, and so may fetch; a page that was opened as a file is nobody, and lets workers read data: alone
const blobUrl = (text) => URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
const dataUrl = (text) => `data:text/javascript;base64,${btoa(Array.from(new TextEncoder().encode(text), (b) => String.fromCharCode(b)).join(""))}`;

// JupyterLab hands scripts out as if they came from nowhere, and a page that was opened as a file may read none: so each module gets a URL that imports such URLs
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

// one file of the bundle as text
function reader(base, files) {
  return async (path) => {
    if (files) {
      if (!files[path]) throw new Error(`${path} is not in the folder that was chosen: choose the whole bundle`);
      return files[path].text();
    }
    const response = await fetch(new URL(path, base), { cache: "no-cache" });
    if (!response.ok) throw new Error(`${path}: the server said ${response.status}: is the bundle still where it was? Run the cell again`);
    return response.text();
  };
}

// the bundle's folder as this page reaches it
function whereIs(model) {
  if (model.get("url")) return new URL(model.get("url"), document.baseURI);
  const config = document.getElementById("jupyter-config-data");
  if (!config) throw new Error("this page is no JupyterLab, so it cannot reach the bundle: save it as a page, and serve that with `smollm serve`");
  const path = model.get("path").split("/").map(encodeURIComponent).join("/");
  return new URL(`${JSON.parse(config.textContent).baseUrl}files/${path}/`, location.href);
}

const PAINT_MS = 100; // between two paintings, each of which takes a core from the model where no graphics card does it

// ids that look like text as little as any others: no figure depends on them
const someIds = (n, from) => Array.from({ length: n }, (_, i) => 300 + ((from + 37 * i) % 150));

// what all views of one widget share: the loaded model, the answer, the figures
class Session {
  constructor(model) {
    Object.assign(this, { model, views: new Set(), engine: null, answer: null, loading: null, files: null, busy: false, status: "", error: "", progress: -1, text: "", live: {}, given: "", waiting: 0, drawn: -Infinity });
  }

  get(name) { return this.model.get(name); }

  // remembered by the kernel, as long as there is one
  put(name, value) {
    this.model.set(name, value);
    const manager = this.model.widget_manager;
    if (!manager || !("kernel" in manager) || manager.kernel) this.model.save_changes(); // JupyterLab has none once the kernel was shut down; the page goes on
  }

  tell() {
    this.waiting ||= setTimeout(requestAnimationFrame, this.drawn + PAINT_MS - performance.now(), () => {
      this.waiting = 0;
      this.drawn = performance.now();
      this.views.forEach((draw) => draw());
    });
  }

  say(status, progress = -1) {
    Object.assign(this, { status, progress });
    this.tell();
  }

  get needsFiles() { return location.protocol === "file:" && !this.files; }
  get ready() { return Boolean(this.get("path") || this.get("url")) && !this.needsFiles; }

  // the bundle's runtime; once for each place
  async runtime() {
    const base = whereIs(this.model);
    if (this.loader?.base === base.href) return this.loader;
    const plain = this.get("plain") && !this.files; // scripts beside this page can simply be imported
    const urls = plain ? null : await scripts(reader(base, this.files), this.files ? dataUrl : blobUrl);
    const { WasmModelLoader } = await import(plain ? new URL("smollm.js", base).href : urls.get("./smollm.js"));
    this.loader = { base: base.href, files: this.files ?? undefined, loader: plain ? new WasmModelLoader() : new WasmModelLoader((file) => urls.get(file)) };
    return this.loader;
  }

  // what a load would take
  async offer() {
    if (!this.ready || this.engine || this.busy) return;
    try {
      const { base, files, loader } = await this.runtime(), plan = await loader.plan(base, { files }), todo = plan.total - plan.cached;
      if (this.busy || this.engine) return;
      this.plan = plan;
      this.say(`Generate loads the model: ${files ? `${mb(plan.total)} of files` : todo ? `${mb(todo)} to fetch` : "it is here already"}, about ${mb(plan.memory)} of memory`);
    } catch (e) {
      this.fail(e);
    }
  }

  fail(e) {
    if (e.name === "AbortError") return this.say("stopped");
    this.error = e.message;
    this.say("");
  }

  // one thing at a time; whatever goes wrong is one line
  async alone(work) {
    if (this.busy || !this.ready) return;
    Object.assign(this, { busy: true, error: "", control: new AbortController() });
    this.say("");
    try {
      await work();
    } catch (e) {
      this.fail(e);
    }
    this.answer = null;
    this.busy = false;
    this.tell();
  }

  // the loaded engine
  async load() {
    if (this.engine?.is_ready()) return this.engine;
    const { base, files, loader } = await this.runtime();
    const onProgress = ({ stage, loaded, total, plan }) => {
      this.plan = plan ?? this.plan;
      this.say(stage === "start" ? "testing the engine" : `loading: ${mb(loaded)} of ${mb(total)}`, total ? loaded / total : 0);
    };
    this.engine = await loader.load_quantized_model(base, { onProgress, files, signal: this.control.signal });
    return this.engine;
  }

  generate() {
    return this.alone(async () => {
      Object.assign(this, { text: "", live: {}, given: this.get("chat") ? "" : this.get("prompt") });
      const engine = await this.load(), prompt = this.get("prompt"), times = [];
      this.say("reading the prompt");
      this.answer = engine.generate(this.get("chat") ? [{ role: "user", content: prompt }] : prompt,
        { maxTokens: this.get("max_tokens"), temperature: this.get("temperature"), seed: this.get("seed"), overflow: "stop" });
      if (this.control.signal.aborted) this.answer.cancel();
      for await (const token of this.answer) {
        times.push(token.elapsed_s);
        this.text += token.text;
        this.live = { tokens: times.length, first_ms: 1000 * times[0], rate: times.length > 1 ? (times.length - 1) / (times.at(-1) - times[0]) : NaN };
        this.say("answering");
      }
      const { finish_reason: why, text, timings: t } = await this.answer.result;
      this.text = text;
      if (t.new_tokens) this.live = { tokens: t.new_tokens, first_ms: 1000 * t.ttft_s, rate: t.tokens_per_s };
      this.say(why === "cancelled" ? `stopped after ${count(t.new_tokens, "token")}` : `${count(t.new_tokens, "token")}: ${ENDS[why]}`);
    });
  }

  // the very thing that the kernel measured: so many tokens after a short prompt, several times
  measure() {
    return this.alone(async () => {
      const engine = await this.load(), { prompt, tokens, repeats } = this.get("protocol"), rates = [];
      for (let i = 0; i <= repeats; i++) {
        this.say(i ? `measuring: ${i} of ${repeats}` : "measuring: warming up", i / (repeats + 1));
        await engine.reset();
        this.answer = engine.generate(someIds(prompt, i), { maxTokens: tokens });
        if (this.control.signal.aborted) this.answer.cancel();
        const { finish_reason: why, timings: t } = await this.answer.result;
        if (why === "cancelled") return this.say("stopped");
        if (i && t.itl_s.length) rates.push(t.tokens_per_s);
      }
      if (!rates.length) throw new Error("the model ended each answer at once: there is nothing to measure");
      const { threads, variant, why } = engine.info, record = { runner: "browser", threads, variant, why, rates, agent: navigator.userAgent };
      this.put("measured", [...this.get("measured").filter((r) => r.threads !== threads || r.agent !== record.agent), record]);
      this.say(`measured: ${short(median(rates))} tokens/s`);
    });
  }

  stop() {
    this.control?.abort();
    this.answer?.cancel();
  }

  // files that were picked: path in the bundle → File
  choose(list) {
    const files = Object.fromEntries([...list].map((f) => [f.webkitRelativePath.split("/").slice(1).join("/"), f]));
    this.error = files["model_manifest.json"] ? "" : "that folder holds no model_manifest.json: choose the folder that this page is in";
    if (!this.error) this.files = files;
    this.offer();
    this.tell();
  }

  close() {
    this.stop();
    this.engine?.dispose();
  }
}

// who is in the chart: [name, tokens/s of each run, class]
function contenders(session) {
  const rows = session.get("native").map((r) => [`native, ${count(r.threads, "thread")}`, r.rates, "lab-native"]);
  for (const r of session.get("measured")) rows.push([`${r.agent === navigator.userAgent ? "this browser" : r.browser ?? "browser"}, ${count(r.threads, "thread")}`, r.rates, "lab-browser"]);
  if (Number.isFinite(session.live.rate)) rows.push(["the last answer, here", [session.live.rate], "lab-browser"]);
  return rows;
}

// bars of medians, the range of the runs as a line
function speeds(rows, width) {
  const left = 158, right = 66, line = 26, top = 4, w = Math.max(width, 280), x1 = w - right, y1 = top + line * rows.length, height = y1 + 34;
  const high = 1.05 * Math.max(...rows.flatMap(([, rates]) => rates)), x = (v) => left + (v / high) * (x1 - left);
  const said = rows.map(([name, rates]) => `${name} ${short(median(rates))}`).join("; ");
  return s("svg", { width: w, height, viewBox: `0 0 ${w} ${height}`, role: "img", "aria-label": `tokens per second: ${said}` },
    ticks(0, high, 4).map((v) => [s("line", { x1: x(v), x2: x(v), y1: top, y2: y1, class: "lab-grid" }), s("text", { x: x(v), y: y1 + 13, "text-anchor": "middle" }, short(v))]),
    s("text", { x: (left + x1) / 2, y: height - 3, "text-anchor": "middle" }, "tokens/s"),
    rows.map(([name, rates, kind], i) => [s("text", { x: left - 8, y: top + line * i + 17, "text-anchor": "end", class: "lab-who" }, name),
      s("rect", { x: left, y: top + line * i + 5, width: Math.max(1, x(median(rates)) - left), height: line - 10, rx: 2, class: kind }),
      rates.length > 1 ? s("path", { d: `M${x(Math.min(...rates))} ${top + line * i + line / 2}H${x(Math.max(...rates))}`, class: "lab-range" }) : null,
      s("text", { x: x(Math.max(...rates)) + 6, y: top + line * i + 17, class: "lab-value" }, short(median(rates)))]));
}

// one sentence about the chart
function verdict(session) {
  const native = session.get("native"), { prompt, tokens, repeats } = session.get("protocol");
  const here = session.get("measured").find((r) => r.agent === navigator.userAgent), there = here && native.find((r) => r.threads === here.threads);
  const how = `Bars are medians of ${repeats} runs of ${tokens} tokens after ${prompt}, the thin line is their range; the last answer is one run. `;
  if (!native.length) return "The native engine has not been measured yet. ";
  return (there ? `With ${count(here.threads, "thread")} this browser decodes ${short((100 * median(here.rates)) / median(there.rates))} % as fast as the native engine. ` : "Measure gives this browser's bar. ") + how + `Native: ${native[0].variant}, ${session.get("machine")}. `;
}

const tile = (name, value, unit) => h("div", { class: "lab-figure", role: "listitem" }, h("div", null, name), h("b", null, value), " ", h("small", null, unit));

function tiles({ live, engine }) {
  const info = engine?.info;
  return [tile("tokens/s", short(live.rate), ""), tile("first token", short(live.first_ms), "ms"), tile("tokens", short(live.tokens ?? 0), ""), tile("loaded in", short(info?.load_s), "s"),
    tile("fetched", info ? short(info.fetched_bytes / 1e6) : "–", "MB"), tile("engine's memory", info ? short(info.memory.total / 1e6) : "–", "MB")];
}

// prompt and settings; what is written here goes to the traits
function form(session) {
  const keep = (name, read) => ({ onchange: (e) => session.put(name, read(e.target)), onkeydown: (e) => e.stopPropagation() }); // JupyterLab would take the keys
  const number = (name, label, attrs) => h("label", null, `${label} `, h("input", { type: "number", value: session.get(name), ...attrs, ...keep(name, (t) => (t.reportValidity() ? t.valueAsNumber : session.get(name))) }));
  const prompt = h("textarea", { rows: 2, class: "lab-prompt", "aria-label": "Prompt", ...keep("prompt", (t) => t.value) });
  prompt.value = session.get("prompt");
  const mode = h("select", keep("chat", (t) => t.value === "chat"), h("option", { value: "text" }, "continue the text"), h("option", { value: "chat", selected: session.get("chat") }, "answer as an assistant"));
  return h("div", { class: "lab-form" }, prompt, h("div", { class: "lab-fields" }, h("label", null, "the model should ", mode), number("max_tokens", "most tokens", { min: 1, step: 1, required: true }),
    number("temperature", "temperature", { min: 0, max: 100, step: 0.05, required: true }), number("seed", "seed", { min: 0, step: 1, required: true })));
}

function picker(session) {
  const input = h("input", { type: "file", webkitdirectory: true, multiple: true, onchange: (e) => session.choose(e.target.files) });
  return h("div", { class: "lab-error lab-picker", role: "note" }, "This page was opened as a file, and browsers let no file read the files beside it. Choose the folder that it is in, and the model runs from there; or serve the folder, and open it by its address: ",
    h("code", null, "python -m http.server"), h("p", null, h("label", null, "the bundle's folder ", input)));
}

function render({ model, el }, session) {
  const status = h("div", { class: "lab-status", role: "status", "aria-live": "polite" }), error = h("div", { class: "lab-error", role: "alert" }), bar = h("progress", { class: "lab-progress", max: 1, "aria-label": "progress" });
  const button = (text, title, act, kind) => h("button", { type: "button", class: kind, title, onclick: act }, text);
  const go = button("Generate", "Answer the prompt in this page", () => session.generate(), "lab-strong"), halt = button("Stop", "Stop with the next token", () => session.stop());
  const measure = button("Measure", "Decode as the native engine was measured, for the chart", () => session.measure());
  const answer = h("div", { class: "lab-answer", tabindex: "0", role: "region", "aria-label": "Answer" }), figures = h("div", { class: "lab-figures", role: "list", "aria-label": "figures of the last answer" });
  const chart = h("figure", { class: "lab-speeds" }), about = h("p", { class: "lab-legend" }), pick = picker(session), given = h("span", { class: "lab-after" }), said = h("span");
  el.classList.add("lab");
  el.append(pick, form(session), h("div", { class: "lab-head" }, h("div", { class: "lab-actions" }, go, halt, measure), status, bar), error, answer, figures, h("figcaption", null, "tokens a second: this browser beside the native engine"), chart, about);
  const draw = () => {
    const rows = contenders(session), trouble = session.error || model.get("error"), waits = !session.ready && !session.needsFiles;
    pick.hidden = !session.needsFiles;
    status.textContent = session.status || model.get("status") || (session.needsFiles ? "waiting for the bundle's folder" : waits ? "the bundle is not there yet" : "");
    error.textContent = trouble;
    error.hidden = !trouble;
    const progress = session.busy ? session.progress : session.status ? -1 : model.get("progress");
    bar.hidden = progress < 0;
    bar.value = Math.max(0, progress);
    go.disabled = measure.disabled = session.busy || !session.ready;
    halt.disabled = !session.busy;
    el.classList.toggle("lab-busy", session.busy);
    el.classList.toggle("lab-flows", session.live.tokens > 0);
    given.textContent = session.given;
    said.textContent = session.text;
    answer.replaceChildren(...(session.given || session.text ? [given, said] : []));
    figures.replaceChildren(...tiles(session));
    chart.replaceChildren(...(rows.length && el.clientWidth ? [speeds(rows, el.clientWidth - 8)] : []));
    const info = session.engine?.info ?? session.plan;
    about.textContent = verdict(session) + (info ? `Here: ${info.variant}, ${session.files ? "one thread: a page that was opened as a file may not share memory between threads" : info.why}.` : "");
  };
  const watch = ["status", "error", "progress", "native", "measured", "path", "url"].map((name) => `change:${name}`), fresh = () => session.offer();
  for (const event of watch) model.on(event, draw);
  model.on("change:path", fresh);
  session.views.add(draw);
  const seen = new ResizeObserver(() => session.tell());
  seen.observe(el);
  draw();
  session.offer();
  return () => {
    for (const event of watch) model.off(event, draw);
    model.off("change:path", fresh);
    session.views.delete(draw);
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
