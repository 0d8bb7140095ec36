/**
 * wllama's version 2: llama.cpp compiled to WebAssembly. All its defaults, but for context and threads.
 * It chooses the likeliest token by the shortest chain of samplers that it has.
 */
import { now, timedDecode, timedPrefill } from './commands.js';

const GREEDY = { temp: 0, top_k: 1, samplers_sequence: ['top_k'] };
const BINARIES = {
  'single-thread/wllama.wasm': 'wllama/esm/single-thread/wllama.wasm',
  'multi-thread/wllama.wasm': 'wllama/esm/multi-thread/wllama.wasm',
};
let wllama;
let last = 0; // the id that was chosen last
let options = {}; // what it was loaded with

/** Seconds to a model that is ready: from the network, or from what the browser has kept. */
async function load() {
  const begin = now(),
    { Wllama } = await import('./wllama/esm/index.js');
  wllama = new Wllama(BINARIES, { suppressNativeLog: true });
  const url = new URL('model.gguf', location.href).href;
  await wllama.loadModelFromUrl(url, { n_ctx: options.context, n_threads: options.threads });
  await wllama.samplingInit(GREEDY);
  return now() - begin;
}

const engine = {
  reset: () => wllama.kvClear(),
  /** Read ids; the likeliest id after them. */
  async next(ids) {
    await wllama.decode(ids, {});
    last = (await wllama.samplingSample()).token;
    return last;
  },
};

/**
 * Its own loop. It reads the last token of an answer although nothing follows: that is not counted.
 * A token that ends an answer is counted, as it is for ours.
 */
async function answer(prompt, max_tokens) {
  const stamps = [],
    begin = now();
  const text = await wllama.createCompletion(prompt, {
    nPredict: max_tokens,
    sampling: GREEDY,
    onNewToken: () => {
      stamps.push(now());
    },
  });
  if (stamps.length < max_tokens) stamps.push(now());
  const itl = stamps.slice(1).map((t, i) => t - stamps[i]);
  return { seconds: stamps.at(-1) - begin, tokens: stamps.length, ttft: stamps[0] - begin, itl, text };
}

export const verbs = {
  async load(how) {
    options = how;
    const ready_s = await load(),
      { n_vocab, n_ctx } = wllama.getLoadedContextInfo();
    const variant = `${how.version}, ${wllama.isMultithread() ? 'multi-thread' : 'single-thread'}`;
    const threads = wllama.getNumThreads(),
      why = 'its library chose so';
    return { backend: 'wllama', variant, threads, why, context: n_ctx, vocab: n_vocab, kv: null, ready_s };
  },
  async reload() {
    await wllama.exit();
    return { seconds: await load() };
  },
  prefill: (how) => timedPrefill(engine, how),
  async decode(how) {
    await wllama.kvRemove(how.pos, -1); // the cache is cut back to `pos`
    return timedDecode(engine, { last, ...how });
  },
  generate: ({ prompt, max_tokens }) => answer(prompt, max_tokens),
  async chat({ message, max_tokens }) {
    return answer(await wllama.formatChat([{ role: 'user', content: message }], true), max_tokens);
  },
  together: async () => ({ lacks: 'no sequences together' }),
};
