/** The page: one conversation with one model. Answers are put in as text, never as HTML. */
import { drawLatency, median } from './chart.js';
import { WasmModelLoader } from './smollm.js';

const CONTROLLER_MS = 4000; // for the service worker to take over
const $ = (id) => /** @type {any} */ (document.getElementById(id));
const show = (id, on) => { $(id).hidden = !on; };
const say = (text) => { $('say').textContent = text; }; // for screen readers
const mb = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;

const state = { model: null, loading: null, loader: new WasmModelLoader(), messages: [], answer: null };

function fail(error) {
  if (error.name === 'AbortError') return;
  $('trouble').textContent = error.message;
  show('trouble', true);
}

/** Register the service worker. Where the host sends no isolating headers it adds them, from the next load on: so load once more, once. */
async function isolate() {
  if (!navigator.serviceWorker) return;
  const registered = navigator.serviceWorker.register('sw.js');
  registered.catch(() => {}); // the page works without, only not offline
  if (window.crossOriginIsolated) return sessionStorage.removeItem('isolating');
  if (sessionStorage.getItem('isolating')) return;
  const controlled = new Promise((resolve) => {
    if (navigator.serviceWorker.controller) resolve(true);
    navigator.serviceWorker.addEventListener('controllerchange', () => resolve(true));
    registered.catch(() => resolve(false));
    setTimeout(resolve, CONTROLLER_MS, false);
  });
  if (!(await controlled)) return;
  sessionStorage.setItem('isolating', 'once');
  location.reload();
  await new Promise(() => {});
}

function describe(plan) {
  $('name').textContent = plan.name;
  $('facts').textContent = `${(plan.parameters / 1e6).toFixed(0)} million parameters, in this page. Nothing you write leaves it.`;
  const todo = plan.total - plan.cached;
  const source = todo ? `Fetches ${mb(todo)}${plan.cached ? ` (${mb(plan.cached)} are here already)` : ''}` : 'All of it is here already';
  $('offer').textContent = `${source}; takes about ${mb(plan.memory)} of memory. ${plan.trouble ? `Note: ${plan.trouble}.` : ''}`;
  $('memory').textContent = `about ${mb(plan.memory)}, predicted`;
  $('engine').textContent = `${plan.variant}, ${plan.why}`;
}

function onProgress({ stage, loaded, total, plan }) {
  if (plan) describe(plan);
  $('bar').value = total ? loaded / total : 0;
  if (stage === 'download') $('offer').textContent = `Loading: ${mb(loaded)} of ${mb(total)}`;
  if (stage === 'start') $('offer').textContent = 'Testing the engine …';
}

/** Load the model, once. @returns {Promise<any>} the model; null if that was cancelled or failed */
function ensureModel() {
  if (state.model) return state.model;
  state.loading ??= load().finally(() => { state.loading = null; });
  return state.loading;
}

async function load() {
  const control = new AbortController();
  $('abort').onclick = () => control.abort();
  for (const id of ['bar', 'abort']) show(id, true);
  show('load', false), show('trouble', false);
  say('Loading the model');
  try {
    state.model = await state.loader.load_quantized_model('.', { onProgress, signal: control.signal });
    ready(state.model);
    return state.model;
  } catch (error) {
    $('offer').textContent = error.name === 'AbortError' ? 'Cancelled. What has arrived is kept.' : 'The model is not loaded.';
    show('load', true);
    $('load').disabled = false;
    fail(error);
    return null;
  } finally {
    show('bar', false), show('abort', false);
  }
}

function ready({ info, kept }) {
  show('gate', false);
  const { weights, total } = info.memory;
  $('engine').textContent = `${info.variant}, ${info.why}`;
  $('memory').textContent = `${mb(total)} for the engine (${mb(weights)} weights)`;
  $('live').textContent = `ready in ${info.load_s.toFixed(2)} s`;
  say('The model is ready');
  kept.then(({ trouble }) => { if (trouble) $('live').textContent += `; ${trouble}`; });
  measureMemory();
}

/** What the browser itself counts, where it tells. */
async function measureMemory() {
  try {
    const { bytes } = await performance.measureUserAgentSpecificMemory();
    if (bytes) $('memory').textContent = `${mb(bytes)} measured; ${mb(state.model.info.memory.total)} of it reserved for the engine`;
  } catch { /* only Chromium tells, and only isolated pages */ }
}

function readSettings() {
  const settings = {};
  for (const id of ['temperature', 'topK', 'topP', 'minP', 'repetitionPenalty', 'maxTokens']) settings[id] = $(id).valueAsNumber;
  settings.seed = $('seed').value.trim() || crypto.getRandomValues(new Uint32Array(1))[0];
  if ($('stopString').value) settings.stop = $('stopString').value;
  return settings;
}

/** @param {string} role @param {string} text @returns {HTMLElement} */
function bubble(role, text) {
  const e = document.createElement('div');
  e.className = `message ${role}`;
  e.textContent = text;
  $('log').append(e);
  e.scrollIntoView({ block: 'end' });
  return e;
}

const PAINT_MS = 100; // where no graphics card paints, each time takes a core from the model

/** Put tokens on the page ten times a second, not once a token. @param {HTMLElement} out */
function painter(out) {
  const text = out.appendChild(document.createElement('span')), begin = performance.now(), times = [];
  let unseen = '', due = false, first = 0, last = -Infinity;
  const paint = () => {
    due = false;
    last = performance.now();
    const log = $('log'), follow = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    text.append(unseen);
    unseen = '';
    if (times.length > 1) $('live').textContent = `${((times.length - 1) / (times.at(-1) - first) * 1000).toFixed(1)} tokens/s · first after ${(first - begin).toFixed(0)} ms`;
    show('latency', times.length > 1);
    drawLatency($('chart'), times.slice(1).map((t, i) => t - times[i]));
    if (follow) log.scrollTop = log.scrollHeight;
  };
  return { paint, push(token) {
    first ||= performance.now();
    times.push(begin + token.elapsed_s * 1000);
    unseen += token.text;
    if (!due) due = true, setTimeout(requestAnimationFrame, last + PAINT_MS - performance.now(), () => due && paint());
  } };
}

const ENDS = { eos: '', stop: 'stopped at the stop string', length: 'the longest answer that was asked for', cancelled: 'stopped' };

function finish(out, r) {
  const { timings: t } = r;
  if (ENDS[r.finish_reason]) out.append(Object.assign(document.createElement('span'), { className: 'note', textContent: ENDS[r.finish_reason] + (r.truncated ? ': the context is full' : '') }));
  if (t.itl_s.length) $('rate').textContent = `${t.tokens_per_s.toFixed(1)} tokens/s, ${(median(t.itl_s) * 1000).toFixed(1)} ms a token`;
  if (t.new_tokens) $('ttft').textContent = `${(t.ttft_s * 1000).toFixed(0)} ms`;
  if (t.prefill_s) $('prefill').textContent = `${t.prompt_tokens} tokens, ${t.cached_tokens} known; ${t.prefill_tokens_per_s.toFixed(0)} tokens/s`;
  drawLatency($('chart'), t.itl_s.map((s) => s * 1000));
  say(r.text ? `Answer: ${r.text}` : 'No answer');
}

/** @param {string | any[]} prompt @param {HTMLElement} out @param {any} settings @returns {Promise<string | null>} the text; null after an error */
async function answer(prompt, out, settings) {
  const model = await ensureModel();
  if (!model) return null;
  const paint = painter(out);
  out.classList.add('busy');
  $('stop').disabled = false;
  try {
    state.answer = model.generate(prompt, { ...settings, overflow: 'stop', onToken: paint.push });
    const result = await state.answer.result;
    paint.paint();
    finish(out, result);
    return result.text;
  } catch (error) {
    fail(error);
    return null;
  } finally {
    state.answer = null;
    out.classList.remove('busy');
    $('stop').disabled = true;
  }
}

async function chat(text, settings) {
  const said = bubble('user', text), out = bubble('assistant', ''), turn = { role: 'user', content: text };
  const reply = await answer([...state.messages, turn], out, settings);
  if (reply !== null) state.messages.push(turn, { role: 'assistant', content: reply });
  else [said, out].forEach((e) => e.remove()), $('prompt').value ||= text;
}

async function goOn(text, settings) {
  const out = bubble('text', '');
  out.append(Object.assign(document.createElement('span'), { className: 'given', textContent: text }));
  if ((await answer(text, out, settings)) === null) out.remove(), $('prompt').value ||= text;
}

async function send(event) {
  event.preventDefault();
  const text = $('prompt').value, mode = new FormData($('composer')).get('mode');
  if (!text.trim() || state.sending) return;
  show('trouble', false);
  $('prompt').value = '';
  state.sending = true;
  $('send').disabled = true;
  await (mode === 'chat' ? chat : goOn)(text, readSettings()).finally(() => {
    state.sending = false;
    $('send').disabled = false;
  });
}

function listen() {
  $('composer').addEventListener('submit', send);
  $('composer').addEventListener('change', (e) => {
    if (e.target.name === 'mode') $('prompt').placeholder = e.target.value === 'chat' ? 'Ask something' : 'Write the beginning of a text';
  });
  $('load').onclick = ensureModel;
  $('stop').onclick = () => state.answer?.cancel();
  $('clear').onclick = () => {
    state.answer?.cancel();
    state.messages = [];
    $('log').replaceChildren();
    $('prompt').focus();
  };
  $('prompt').addEventListener('keydown', (e) => {
    if (e.key !== 'Enter' || e.shiftKey || e.isComposing) return;
    e.preventDefault();
    $('composer').requestSubmit();
  });
  document.addEventListener('keydown', (e) => { if (e.key === 'Escape') state.answer?.cancel(); });
}

async function main() {
  listen();
  await isolate();
  try {
    const plan = await state.loader.plan('.');
    describe(plan);
    $('load').disabled = false;
    if (plan.cached === plan.total) await ensureModel();
  } catch (error) {
    $('offer').textContent = 'The model cannot be loaded.';
    $('load').disabled = false;
    fail(error);
  }
}

main();
