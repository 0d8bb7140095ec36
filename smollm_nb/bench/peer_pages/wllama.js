/** wllama: llama.cpp compiled to WebAssembly. All its defaults, but for context and threads; it chooses the likeliest token, by the shortest of its ways. */
import { now } from './commands.js';

const GREEDY = { temp: 0, top_k: 1, samplers_sequence: ['top_k'] };
let engine, last = 0, asked;

/** Seconds to a model that is ready: from the network, or from what it has kept. */
async function load() {
  const begin = now(), { Wllama } = await import('./wllama/esm/index.js');
  engine = new Wllama({ 'single-thread/wllama.wasm': 'wllama/esm/single-thread/wllama.wasm', 'multi-thread/wllama.wasm': 'wllama/esm/multi-thread/wllama.wasm' }, { suppressNativeLog: true });
  await engine.loadModelFromUrl(new URL('model.gguf', location.href).href, { n_ctx: asked.context, n_threads: asked.threads });
  await engine.samplingInit(GREEDY);
  return now() - begin;
}

/** Read ids; the likeliest id after them. */
async function next(ids) {
  await engine.decode(ids, {});
  return (await engine.samplingSample()).token;
}

export const verbs = {
  async load(how) {
    asked = how;
    const ready_s = await load(), { n_vocab, n_ctx } = engine.getLoadedContextInfo(), threads = engine.getNumThreads();
    const variant = `${how.version}, ${engine.isMultithread() ? 'multi-thread' : 'single-thread'}`;
    return { backend: 'wllama', variant, threads, why: 'its library chose so', context: n_ctx, vocab: n_vocab, kv: null, ready_s };
  },
  async reload() {
    await engine.exit();
    return { seconds: await load() };
  },
  async prefill({ ids, repeats = 1 }) {
    const seconds = [];
    for (let i = 0; i < repeats; i++) {
      await engine.kvClear();
      const begin = now();
      last = await next(ids);
      seconds.push(now() - begin);
    }
    return { seconds };
  },
  async decode({ pos, n }) {
    await engine.kvRemove(pos, -1); // what follows is forgotten
    const stamps = [];
    for (let i = 0; i <= n; i++) {
      last = await next([last]);
      stamps.push(now());
    }
    return { seconds: stamps.slice(1).map((t, i) => t - stamps[i]) };
  },
  /** Its own loop. It reads the last token of an answer for nothing, which is not counted; a token that ends an answer is, as it is for ours. */
  async generate({ prompt, max_tokens }) {
    const stamps = [], begin = now();
    const text = await engine.createCompletion(prompt, { nPredict: max_tokens, sampling: GREEDY, onNewToken: () => { stamps.push(now()); } });
    if (stamps.length < max_tokens) stamps.push(now());
    return { seconds: stamps.at(-1) - begin, tokens: stamps.length, ttft: stamps[0] - begin, itl: stamps.slice(1).map((t, i) => t - stamps[i]), text };
  },
};
