/**
 * Figures of this browser: bench.html?threads=2&repeats=5 measures by itself and shows a table. bench.html?remote does
 * what the server says: the same verbs, in the same units, as smollm_nb/bench/worker.py has for other backends.
 */
import { median } from './chart.js';
import { now, serveCommands, timedDecode, timedPrefill } from './commands.js';
import { $ } from './dom.js';
import { explain } from './problems.js';

/** @type {import('./smollm.js').WasmModel} */
let model;
let last = 0; // the last token id
let loadOptions = {}; // with which the model was loaded
const FACTS = [
  'variant',
  'threads',
  'why',
  'context',
  'vocab',
  'bytes_per_token',
  'load_s',
  'file_sha256',
  'fetched_bytes',
];

async function load() {
  const begin = now();
  const { WasmModelLoader } = await import('./smollm.js');
  model = await new WasmModelLoader().load_quantized_model('.', loadOptions);
  return now() - begin;
}

const engine = {
  reset: () => model.reset(),
  async next(ids, pos) {
    last = await model.next(ids, pos);
    return last;
  },
};

const verbs = {
  /**
   * Seconds from nothing to a model that is ready, and facts about it. When it answers, nothing is left to be done
   * behind its back.
   */
  async load(how) {
    loadOptions = how;
    const ready_s = await load();
    const { memory, ...info } = model.info;
    const kept = await model.kept;
    const facts = Object.fromEntries(FACTS.map((name) => [name, info[name]]));
    return { backend: 'wasm', ...facts, kv: memory.kv, kept, ready_s };
  },
  /** Seconds to load it again from what the browser has kept. */
  async reload() {
    model.dispose();
    return { seconds: await load() };
  },
  /** Seconds from an empty cache to the token after `ids`. */
  prefill: (how) => timedPrefill(engine, how),
  /** Seconds for each of n tokens after position `pos`, one more not counted before them. */
  decode: (how) => timedDecode(engine, { last, ...how }),
  /** What a user waits for: text in, text out. */
  generate: ({ prompt, max_tokens }) => answer(prompt, max_tokens),
  /** The answer to a message, put into the model's chat template. */
  chat: ({ message, max_tokens }) => answer([{ role: 'user', content: message }], max_tokens),
  /** Several sequences read together: the page has one. */
  together: async () => ({ lacks: 'no sequences together' }),
};

/**
 * A whole answer, timed from before its prompt was tokenized.
 * @param {import('./smollm.js').Prompt} prompt
 * @param {number} maxTokens
 */
async function answer(prompt, maxTokens) {
  await model.reset();
  const begin = now();
  const { ids, timings } = await model.generate(prompt, { maxTokens }).result;
  return { seconds: now() - begin, tokens: ids.length, ttft: timings.ttft_s, itl: timings.itl_s };
}

// ---- for a visitor
const DECODED = 48;
const PREFILL = 128;
const SHORT = 5; // tokens

/** Token ids to read; no figure depends on which. */
const syntheticIds = (n, from) => Array.from({ length: n }, (_, i) => 300 + ((from + 37 * i) % 150));

/**
 * @param {{threads?: number}} how
 * @param {number} repeats
 * @param {(text: string) => void} report
 */
async function measure(how, repeats, report) {
  const facts = await verbs.load(how);
  /** @type {Record<'decode' | 'prefill' | 'ttft' | 'warm', number[]>} */
  const rows = { decode: [], prefill: [], ttft: [], warm: [] };
  for (let i = 1; i <= repeats; i++) {
    report(`measuring, ${i} of ${repeats} …`);
    const [seconds] = (await verbs.prefill({ ids: syntheticIds(PREFILL, i) })).seconds;
    rows.prefill.push(PREFILL / seconds);
    const decoded = (await verbs.decode({ pos: PREFILL, n: DECODED })).seconds;
    rows.decode.push(DECODED / decoded.reduce((a, b) => a + b));
    rows.ttft.push(1000 * (await verbs.prefill({ ids: syntheticIds(SHORT, i) })).seconds[0]);
  }
  for (let i = 0; i < repeats && facts.kept.kept; i++) rows.warm.push(1000 * (await verbs.reload()).seconds);
  return { facts, rows };
}

/**
 * One row: what, its median, its least and largest.
 * @param {string} name
 * @param {number[]} xs
 * @param {string} unit
 */
function line(name, xs, unit) {
  const range = `${Math.min(...xs).toFixed(1)} … ${Math.max(...xs).toFixed(1)}`;
  return `${name.padEnd(26)} ${median(xs).toFixed(1).padStart(8)} ${unit}   (${range}, n = ${xs.length})`;
}

/** @returns {string} */
function table({ facts, rows }) {
  const first = facts.fetched_bytes ? 'load, first visit' : 'load, not the first visit';
  return [
    `${facts.variant}, ${facts.why}`,
    '',
    line(`decode after ${PREFILL}`, rows.decode, 'tokens/s'),
    line(`prefill of ${PREFILL}`, rows.prefill, 'tokens/s'),
    line(`first token after ${SHORT}`, rows.ttft, 'ms'),
    line(first, [1000 * facts.ready_s], 'ms'),
    ...(rows.warm.length ? [line('load, from the cache', rows.warm, 'ms')] : []),
    '',
    navigator.userAgent,
  ].join('\n');
}

/** @param {URLSearchParams} query */
async function show(query) {
  const out = $('out');
  const report = (text) => {
    out.textContent = text;
  };
  try {
    const threads = Number(query.get('threads')) || undefined;
    const repeats = Number(query.get('repeats')) || 5;
    report(table(await measure({ threads }, repeats, report)));
  } catch (error) {
    report(explain(error));
  }
}

$('unstarted').remove();
const query = new URLSearchParams(location.search);
await (query.has('remote') ? serveCommands(verbs) : show(query));
