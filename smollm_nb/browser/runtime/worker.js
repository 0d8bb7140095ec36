/**
 * The worker that holds the model. smollm.js speaks to it: {id, call, args} in; {id, result}, {id, error}, {id, token} or {progress} out.
 * The page also starts workers for it, see helpers.js.
 */
import { stateError, toPlain } from './errors.js';
import { generate } from './generate.js';
import { helperLost, tick } from './helpers.js';
import { load } from './load.js';

/** @type {{model: import('./model.js').Model, tokenizer: import('./text.js').Tokenizer, info: any, keep: () => Promise<any>}} */
let loaded;
let busy = false;
const cancelled = new Set(); // ids of calls

/** @param {string | import('./text.js').Message[] | number[]} prompt @param {{special?: boolean}} options @returns {number[]} */
function encode(prompt, { special } = {}) {
  if (typeof prompt === 'string') return loaded.tokenizer.encode(prompt, special);
  return Array.isArray(prompt) && prompt.every(Number.isInteger) ? prompt : loaded.tokenizer.encodeChat(prompt);
}

/** Derived figures, named as in Python's `Timings`. */
function complete(t) {
  const { variant, threads, load_s, bytes_per_token, file_sha256, memory } = loaded.info;
  const spent = t.itl_s.reduce((a, b) => a + b, 0), tokens_per_s = t.itl_s.length / spent;
  return {
    ...t, load_s, bytes_per_token, peak_rss_bytes: null, memory_bytes: memory.total, backend: 'wasm', variant, threads, file_sha256,
    machine: { browser: navigator.userAgent, cores: navigator.hardwareConcurrency },
    tokens_per_s, prefill_tokens_per_s: (t.prompt_tokens - t.cached_tokens) / t.prefill_s, gb_per_s: (bytes_per_token * tokens_per_s) / 1e9,
  };
}

/** One call at a time on the model. @template T @param {() => Promise<T>} run @returns {Promise<T>} */
async function alone(run) {
  if (!loaded) throw stateError('no model is loaded');
  if (busy) throw stateError('the model is answering: wait for it, or cancel it first');
  busy = true;
  try {
    return await run();
  } finally {
    busy = false;
  }
}

const calls = {
  async load(id, request) {
    loaded = await load(request, (progress) => postMessage({ progress }));
    loaded.keep().then((kept) => postMessage({ kept }), (e) => postMessage({ kept: { kept: false, trouble: e.message } }));
    return loaded.info;
  },
  generate: (id, prompt, options) => alone(async () => {
    const goOn = async () => (await tick(), !cancelled.has(id));
    const answer = generate(loaded.model, loaded.tokenizer, encode(prompt, options), options, goOn);
    for (;;) {
      const { done, value } = await answer.next();
      if (done) return { ...value, timings: complete(value.timings) };
      postMessage({ id, token: value });
    }
  }),
  next: (id, ids, pos) => alone(() => loaded.model.next(ids, pos)),
  logits: (id, ids) => alone(() => loaded.model.logits(ids)),
  reset: () => alone(async () => loaded.model.reset()),
  encode: async (id, prompt, options) => encode(prompt, options),
};

onmessage = async ({ data: { id, call, args, cancel, lost, message } }) => {
  if (lost) return helperLost(lost, message);
  if (cancel !== undefined) return cancelled.add(cancel);
  try {
    postMessage({ id, result: await calls[call](id, ...args) });
  } catch (e) {
    postMessage({ id, error: toPlain(e) });
  } finally {
    cancelled.delete(id);
  }
};
