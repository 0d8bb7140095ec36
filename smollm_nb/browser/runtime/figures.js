/** The figures beside the conversation: how fast, how much memory, what runs; and the line below the field. */
import { drawLatency, median } from './chart.js';
import { $, megabytes, sentence, show } from './dom.js';
import { panelShown } from './layout.js';

const NONE = '–';
const DRAFTED = 1.05; // tokens a pass from which drafts are worth a word
// between two drawings of a chart that grows: nobody reads it faster, and each costs the model time
const CHART_MS = 500;
let drawn = -Infinity;

/**
 * @param {import('./smollm.js').Plan} plan what a load would do
 * @param {number} memory bytes that it would take
 */
export function describePlan(plan, memory) {
  $('model').textContent = `${plan.name}, ${(plan.parameters / 1e6).toFixed(0)} million parameters`;
  $('memory').textContent = `about ${megabytes(memory)}, predicted`;
  $('engine').textContent = `${plan.variant}, ${plan.why}`;
}

/** @param {import('./smollm.js').ModelInfo} info of a loaded model */
export function describeModel(info) {
  const { weights, total } = info.memory;
  $('engine').textContent = `${info.variant}, ${info.why}`;
  $('memory').textContent = `${megabytes(total)} for the engine (${megabytes(weights)} weights)`;
  $('kept').textContent = 'not yet';
  $('live').textContent = `ready in ${info.load_s.toFixed(2)} s`;
  measureMemory(total);
}

/** @param {{kept: boolean, trouble: string}} how */
export function describeKept({ kept, trouble }) {
  $('kept').textContent = kept ? 'yes: the next visit fetches nothing' : `no: ${trouble}`;
}

/**
 * As in Chromium.
 * @typedef {Performance & {measureUserAgentSpecificMemory: () => Promise<{bytes: number}>}} Measuring
 */

/** What the browser itself counts, where it tells. @param {number} reserved bytes */
async function measureMemory(reserved) {
  try {
    const { bytes } = await /** @type {Measuring} */ (performance).measureUserAgentSpecificMemory();
    const engine = `${megabytes(reserved)} of it reserved for the engine`;
    if (bytes) $('memory').textContent = `${megabytes(bytes)} measured; ${engine}`;
  } catch {
    /* only Chromium tells, and only isolated pages */
  }
}

/**
 * Figures while an answer grows.
 * @param {number[]} times of its tokens, ms
 * @param {number} wait ms before the first
 */
export function drawGrowing(times, wait) {
  if (times.length < 2) return;
  const rate = ((times.length - 1) / (times[times.length - 1] - times[0])) * 1000;
  $('live').textContent = `${rate.toFixed(1)} tokens/s · first after ${wait.toFixed(0)} ms`;
  show('latency', true);
  if (!panelShown() || performance.now() < drawn + CHART_MS) return;
  drawn = performance.now();
  drawLatency(
    $('chart'),
    times.slice(1).map((t, i) => t - times[i]),
  );
}

/** Figures of a whole answer. @param {Required<import('./smollm.js').Timings>} t */
export function describeAnswer(t) {
  const ms = t.itl_s.map((s) => s * 1000);
  const drafted = t.tokens_per_pass > DRAFTED;
  const rate = `${t.tokens_per_s.toFixed(1)} tokens/s`;
  // tokens that a pass before has read take no time: a median over them says nothing
  if (ms.length) $('rate').textContent = drafted ? rate : `${rate}, ${median(ms).toFixed(1)} ms a token`;
  show('drafts', drafted);
  $('perPass').textContent = `${t.tokens_per_pass.toFixed(1)} tokens a pass, from the text so far`;
  if (t.new_tokens) $('ttft').textContent = `${(t.ttft_s * 1000).toFixed(0)} ms`;
  if (t.prefill_s) {
    const speed = `${t.prefill_tokens_per_s.toFixed(0)} tokens/s`;
    $('prefill').textContent = `${t.prompt_tokens} tokens, ${t.cached_tokens} known; ${speed}`;
  }
  show('latency', ms.length > 0);
  drawLatency($('chart'), ms);
}

/** Forget the last answer's figures. */
export function clearFigures() {
  for (const id of ['rate', 'ttft', 'prefill']) $(id).textContent = NONE;
  $('live').textContent = '';
  show('latency', false);
  show('drafts', false);
}

/** What a visitor should know before the first answer: nothing kept, one thread. @param {string[]} facts */
export function note(facts) {
  show('note', facts.length > 0);
  $('note').textContent = facts.map((f) => `${sentence(f)}.`).join(' ');
}
