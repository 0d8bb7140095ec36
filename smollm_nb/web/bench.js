/** Figures of this browser: bench.html?threads=2&repeats=5. With `report` they are also posted to the server, once after the load and once at the end. */
import { median } from './chart.js';
import { WasmModelLoader } from './smollm.js';

const asked = new URLSearchParams(location.search), repeats = Number(asked.get('repeats') ?? 5), threads = Number(asked.get('threads') ?? 0) || undefined;
const DECODED = 64, PREFILL = 126, SHORT = 5; // tokens

/** Ids that look like text as little as any others: no figure depends on them. */
const someIds = (n, from) => Array.from({ length: n }, (_, i) => 300 + ((from + 37 * i) % 150));

const report = (record) => asked.has('report') && fetch('report', { method: 'POST', body: JSON.stringify(record) });

async function timed(run) {
  const begin = performance.now();
  return { value: await run(), seconds: (performance.now() - begin) / 1000 };
}

const load = () => timed(() => new WasmModelLoader().load_quantized_model('.', { threads }));

/** @param {any} model @param {number} n tokens of the prompt @param {number} from varies it @param {number} maxTokens */
async function once(model, n, from, maxTokens) {
  await model.reset();
  return (await model.generate(someIds(n, from), { maxTokens }).result).timings;
}

async function measure() {
  const cold = await load(), model = cold.value, out = { decode: [], prefill: [], ttft_s: [], warm_s: [] };
  await once(model, 16, 0, DECODED);
  await report({ loaded: true });
  for (let i = 1; i <= repeats; i++) {
    out.decode.push((await once(model, 16, i, DECODED)).tokens_per_s);
    out.prefill.push((await once(model, PREFILL, i, 1)).prefill_tokens_per_s);
    out.ttft_s.push((await once(model, SHORT, i, 1)).ttft_s);
  }
  const { variant, why, isolated, memory } = model.info, kept = await model.kept;
  model.dispose();
  for (let i = 0; i < repeats && kept.kept; i++) {
    const warm = await load();
    out.warm_s.push(warm.seconds);
    warm.value.dispose();
  }
  return { ...out, cold_s: cold.seconds, threads: model.info.threads, variant, why, isolated, engine_bytes: memory.total, fetched_bytes: model.info.fetched_bytes, kept, agent: navigator.userAgent };
}

function table(r) {
  const line = (name, xs, unit, scale = 1) => `${name.padEnd(26)} ${(median(xs) * scale).toFixed(1).padStart(8)} ${unit}   (${(Math.min(...xs) * scale).toFixed(1)} … ${(Math.max(...xs) * scale).toFixed(1)}, n = ${xs.length})`;
  return [
    `${r.variant}, ${r.why}`, '', line('decode', r.decode, 'tokens/s'), line(`prefill of ${PREFILL}`, r.prefill, 'tokens/s'),
    line(`first token after ${SHORT}`, r.ttft_s, 'ms', 1000), line('load, first visit', [r.cold_s], 'ms', 1000), ...(r.warm_s.length ? [line('load, from the cache', r.warm_s, 'ms', 1000)] : []), '', r.agent,
  ].join('\n');
}

try {
  const result = await measure();
  document.getElementById('out').textContent = table(result);
  await report(result);
} catch (error) {
  document.getElementById('out').textContent = error.message;
  await report({ error: error.message });
}
