/**
 * wllama from its version 3 on: llama.cpp's server compiled to WebAssembly. All its defaults, but for context, threads
 * and places for eight requests at once; on the processor, as all that is measured here.
 *
 * It has no call that reads tokens and gives the next one, so the loops of commands.js cannot drive it: its stream of
 * tokens is timed instead. Each part of the stream says how many tokens there are so far, because a token that ends
 * within a character comes together with the next one; the time between two parts is shared by their tokens.
 *
 * Nor does it take token ids, but text. So each id that shall be read stands for a word that is one token, and its
 * server counts them: a prompt of another length is an error.
 */
import { now } from './commands.js';

const GREEDY = { temperature: 0, top_k: 1, samplers: ['top_k'] };
const SEQUENCES = 8; // at once
let wllama;
let words; // that are one token each
let held = []; // ids of the prompt that was read last
let options = {}; // what it was loaded with

/** Seconds to a model that is ready: from the network, or from what the browser has kept. */
async function load() {
  const begin = now(),
    { Wllama } = await import('./wllama/esm/index.js');
  const wasm = new URL('wllama/esm/wasm/wllama.wasm', location.href).href;
  wllama = new Wllama({ default: wasm }, { suppressNativeLog: true });
  wllama.setCompat(null); // its other build would come from another server
  await wllama.loadModelFromUrl(new URL('model.gguf', location.href).href, {
    n_ctx: options.context,
    n_threads: options.threads,
    n_gpu_layers: 0,
    n_parallel: SEQUENCES,
  });
  return now() - begin;
}

/** Words that are one token each, with the space before them, from the model's tokenizer. */
async function readWords() {
  const { model } = await (await fetch('tokenizer.json')).json();
  return Object.keys(model.vocab)
    .filter((token) => /^Ġ[a-z]{2,}$/.test(token))
    .map((token) => token.replace('Ġ', ' '));
}

/** As many tokens as there are ids. */
const textOf = (ids) => ids.map((id) => words[id % words.length]).join('');

/**
 * Write up to `max_tokens` tokens: how many there were, and when.
 * @param {object} request for its server: a prompt of text or ids, or messages
 */
async function write(request) {
  const seen = [];
  let text = '';
  let read = 0; // tokens of the prompt
  const onData = ({ timings, choices }) => {
    read = timings?.prompt_n ?? read;
    text += choices?.[0]?.text ?? choices?.[0]?.delta?.content ?? '';
    const count = timings?.predicted_n ?? 0;
    if (count > (seen.at(-1)?.count ?? 0)) seen.push({ count, time: now() });
  };
  const all = { cache_prompt: false, ...GREEDY, ...request, timings_per_token: true, stream: true, onData };
  await (request.messages ? wllama.createChatCompletion(all) : wllama.createCompletion(all));
  if (!seen.length) throw new Error('it wrote no token');
  return { seen, text, read };
}

/** Read as many tokens as there are ids, and write some; raises an error if the prompt had another length. */
async function readIds(ids, request) {
  const out = await write({ prompt: textOf(ids), ignore_eos: true, ...request });
  if (!request.cache_prompt && out.read !== ids.length) throw new Error(`${out.read} tokens for ${ids.length}`);
  return out;
}

/** Seconds from each token to the next. */
const gaps = (seen) =>
  seen.slice(1).flatMap(({ count, time }, i) => {
    const n = count - seen[i].count;
    return Array(n).fill((time - seen[i].time) / n);
  });

const mean = (xs) => xs.reduce((a, b) => a + b, 0) / xs.length;

/** A whole answer, timed from before its prompt was given. */
async function answer(request) {
  const begin = now(),
    { seen, text } = await write(request);
  const ttft = seen[0].time - begin;
  return { seconds: seen.at(-1).time - begin, tokens: seen.at(-1).count, ttft, itl: gaps(seen), text };
}

export const verbs = {
  async load(how) {
    options = how;
    words ??= await readWords();
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
  async prefill({ ids, repeats = 1 }) {
    const seconds = [];
    held = ids;
    for (let i = 0; i < repeats; i++) {
      const begin = now(),
        { seen } = await readIds(ids, { id_slot: 0, max_tokens: 1 });
      seconds.push(seen[0].time - begin);
    }
    return { seconds };
  },
  async decode({ pos, n }) {
    if (pos > held.length) throw new Error(`only ${held.length} are held`);
    // the cache is kept as far as the prompt is the same; the first token is not counted
    const how = { id_slot: 0, max_tokens: n + 1, cache_prompt: true };
    const { seen } = await readIds([...held.slice(0, pos), 0], how);
    return { seconds: Array(n).fill(mean(gaps(seen))) };
  },
  generate: ({ prompt, max_tokens }) => answer({ prompt, max_tokens }),
  chat: ({ message, max_tokens }) => answer({ messages: [{ role: 'user', content: message }], max_tokens }),
  /**
   * As many requests at once. Their streams are read one after the other, so the parts tell little; what counts is how
   * much longer all of it takes than the same requests for one token each.
   */
  async together({ prompts, steps }) {
    if (prompts.length > SEQUENCES) return { lacks: `no more than ${SEQUENCES} sequences together` };
    const seconds = [];
    for (const max_tokens of [1, steps + 1]) {
      const begin = now();
      await Promise.all(prompts.map((ids, i) => readIds(ids, { id_slot: i, max_tokens })));
      seconds.push(now() - begin);
    }
    return { seconds: Array(steps).fill((seconds[1] - seconds[0]) / steps) };
  },
};
