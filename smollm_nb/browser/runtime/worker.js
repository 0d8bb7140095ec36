/**
 * The worker that holds the model. smollm.js speaks to it: {id, call, args} in; {id, result}, {id, error}, {id, token}
 * or {progress} out. The page also starts workers for it, see helpers.js.
 */
import { parameterError, stateError, toPlain } from './errors.js';
import { generate, readOptions } from './generate.js';
import { helperLost, tick } from './helpers.js';
import { load } from './load.js';

// what these import, so that one round trip brings all of it and not one for each level of imports
import './kernel.js';
import './lens.js';
import './lookup.js';
import './manifest.js';
import './model.js';
import './q4.js';
import './sha256.js';
import './store.js';
import './text.js';
import './variants.js';
import './vendor/jinja.js';
import './vendor/tokenizers.js';

/**
 * @type {{model: import('./model.js').Model, tokenizer: import('./text.js').Tokenizer, info: any, keep: () =>
 *   Promise<any>}}
 */
let loaded;

/**
 * Answers that are not done, by the id of their call.
 * @type {Map<number, {cancelled: boolean, giveUp: (value?: any) => void}>}
 */
const answers = new Map();

/**
 * @param {any} prompt
 * @returns {boolean} whether it is token ids; an empty list is an empty conversation
 */
const isIds = (prompt) => (Array.isArray(prompt) || ArrayBuffer.isView(prompt)) && typeof prompt[0] === 'number';

/**
 * @param {any} ids
 * @returns {number[]}
 */
function asIds(ids) {
  if (!isIds(ids)) throw parameterError('ids must be a list of token ids, at least one');
  return Array.from(ids);
}

/**
 * @param {import('./smollm.js').Prompt} prompt
 * @param {{special?: boolean}} options
 * @param {boolean} [begun] whether a text gets what the tokenizer puts before every text
 * @returns {number[]}
 */
function encode(prompt, { special } = {}, begun = false) {
  if (!loaded) throw stateError('no model is loaded');
  const { tokenizer } = loaded;
  if (typeof prompt === 'string')
    return begun ? tokenizer.encodePrompt(prompt, special) : tokenizer.encode(prompt, special);
  if (isIds(prompt)) return Array.from(/** @type {number[]} */ (prompt));
  if (!Array.isArray(prompt))
    throw parameterError('the prompt must be a text, a list of messages, or a list of token ids');
  return tokenizer.encodeChat(/** @type {import('./smollm.js').Message[]} */ (prompt));
}

/** Derived figures, named as in Python's `Timings`. */
function complete(t) {
  const { variant, threads, load_s, bytes_per_token, file_sha256 } = loaded.info;
  const spent = t.itl_s.reduce((a, b) => a + b, 0);
  const tokens_per_s = spent ? t.itl_s.length / spent : NaN; // some clocks tick in ms
  const tokens_per_pass = t.passes ? t.new_tokens / t.passes : 1;
  const prefill_tokens_per_s = t.prefill_s ? (t.prompt_tokens - t.cached_tokens) / t.prefill_s : NaN;
  return {
    ...t,
    load_s,
    bytes_per_token,
    peak_rss_bytes: null,
    memory_bytes: loaded.model.kernel.memory.buffer.byteLength,
    backend: 'wasm',
    variant,
    threads,
    file_sha256,
    machine: { browser: navigator.userAgent, cores: navigator.hardwareConcurrency },
    tokens_per_s,
    prefill_tokens_per_s,
    tokens_per_pass,
    gb_per_s: (bytes_per_token * tokens_per_s) / tokens_per_pass / 1e9,
  };
}

/** When the last call on the model is done. @type {Promise<any>} */
let turn = Promise.resolve();

/**
 * One call at a time on the model, in the order in which they came: each finds the cache as it left it itself, or reads
 * again.
 * @template T
 * @param {() => Promise<T>} run
 * @param {Promise<any>} [givenUp] when it settles, `run` need not wait: it touches nothing
 * @returns {Promise<T>}
 */
function alone(run, givenUp) {
  if (!loaded) throw stateError('no model is loaded');
  const mine = (givenUp ? Promise.race([turn, givenUp]) : turn).then(run);
  turn = Promise.allSettled([turn, mine]).then(() => {}); // no chain of results
  return mine;
}

/**
 * @param {number} id of the call
 * @param {import('./smollm.js').Prompt} prompt
 * @param {import('./smollm.js').SamplingOptions} options
 */
async function answer(id, prompt, options) {
  const ids = encode(prompt, options, true);
  readOptions(options); // what is wrong is said at once, not after the answer before
  const mine = { cancelled: false, giveUp: /** @type {(value?: any) => void} */ (() => {}) };
  const givenUp = new Promise((resolve) => {
    mine.giveUp = resolve;
  });
  answers.set(id, mine);
  return alone(async () => {
    const shouldContinue = async () => {
      await tick();
      return !mine.cancelled;
    };
    const growing = generate(loaded.model, loaded.tokenizer, ids, options, shouldContinue);
    for (;;) {
      const { done, value } = await growing.next();
      if (done) return { ...value, timings: complete(value.timings) };
      postMessage({ id, token: value });
    }
  }, givenUp).finally(() => answers.delete(id));
}

/** @param {number} id of a call */
function cancel(id) {
  const mine = answers.get(id);
  if (!mine) return; // it is done
  mine.cancelled = true;
  mine.giveUp();
}

const calls = {
  async load(id, request) {
    loaded = await load(request, (progress) => postMessage({ progress }));
    loaded.keep().then(
      (kept) => postMessage({ kept }),
      (e) => postMessage({ kept: { kept: false, trouble: e.message } }),
    );
    return loaded.info;
  },
  generate: answer,
  next: (id, ids, pos) => alone(() => loaded.model.next(asIds(ids), pos)),
  logits: (id, ids) => alone(() => loaded.model.logits(asIds(ids))),
  reset: () => alone(async () => loaded.model.reset()),
  encode: async (id, prompt, options) => encode(prompt, options),
};

onmessage = async ({ data: { id, call, args, cancel: cancelled, lost, error } }) => {
  if (lost) return helperLost(lost, error);
  if (cancelled !== undefined) return cancel(cancelled);
  try {
    postMessage({ id, result: await calls[call](id, ...args) });
  } catch (e) {
    postMessage({ id, error: toPlain(e) });
  }
};
postMessage({ here: true });
