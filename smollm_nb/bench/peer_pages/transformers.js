/**
 * transformers.js on ONNX Runtime's WebAssembly; the type of the weights is chosen by who measures.
 *
 * It has no call that reads tokens and gives the next one, so the loops of commands.js cannot drive it. Its own loop,
 * `generate`, is timed instead, at the streamer that it hands each token to. What that loop does between two tokens
 * is what its users wait for.
 */
import { now } from './commands.js';

let library, tokenizer, model, cache;
let last = 0; // the id that was chosen last
let options = {}; // what it was loaded with

/** Seconds to a model that is ready: from the network, or from what the browser has kept. */
async function load() {
  const begin = now(),
    here = new URL('.', location.href).href;
  const runtime = `${here}onnxruntime-web/dist/ort-wasm-simd-threaded`;
  library = await import('./transformers/dist/transformers.min.js');
  Object.assign(library.env, { allowLocalModels: false, remoteHost: here, remotePathTemplate: '{model}' });
  Object.assign(library.env.backends.onnx.wasm, {
    numThreads: options.threads,
    wasmPaths: { mjs: `${runtime}.mjs`, wasm: `${runtime}.wasm` },
  });
  [tokenizer, model] = await Promise.all([
    library.AutoTokenizer.from_pretrained('model'),
    library.AutoModelForCausalLM.from_pretrained('model', { dtype: options.dtype, device: 'wasm' }),
  ]);
  return now() - begin;
}

/** @param {number[][]} rows of the same length */
const tensor = (...rows) =>
  new library.Tensor('int64', BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0].length]);

/**
 * Write up to n tokens after `inputs`, and keep the cache: seconds to the first, and from each to the next.
 * `text` is a second streamer, which gets the same tokens.
 */
async function write(inputs, n, text) {
  const stamps = [],
    begin = now();
  const streamer = {
    put(ids) {
      stamps.push(now());
      last = ids[0].at(-1);
      text?.put(ids);
    },
    end() {
      text?.end();
    },
  };
  const settings = { do_sample: false, max_new_tokens: n, return_dict_in_generate: true, streamer };
  cache = (await model.generate({ ...inputs, ...settings })).past_key_values;
  stamps[0] = begin; // the first call of the streamer brought the prompt
  return stamps.slice(1).map((t, i) => t - stamps[i]);
}

/** A cache of the first `n` positions. */
function cut(n) {
  const held = cache.get_seq_length();
  if (n > held) throw new Error(`only ${held} are held`);
  const entries = Object.entries(cache).map(([name, t]) => [name, t.slice(null, null, [0, n], null)]);
  return new library.DynamicCache(Object.fromEntries(entries));
}

/** A whole answer, timed from before its prompt was tokenized. */
async function answer(prepare, max_tokens) {
  let text = '';
  const begin = now(),
    inputs = prepare(),
    prepared = now() - begin;
  const collect = (more) => {
    text += more;
  };
  const streamer = new library.TextStreamer(tokenizer, { skip_prompt: true, callback_function: collect });
  const [first, ...itl] = await write(inputs, max_tokens, streamer);
  return { seconds: now() - begin, tokens: 1 + itl.length, ttft: prepared + first, itl, text };
}

export const verbs = {
  async load(how) {
    options = how;
    const ready_s = await load(),
      threads = library.env.backends.onnx.wasm.numThreads;
    const variant = `${how.version}, ${how.dtype}`,
      why = 'its library chose so',
      vocab = model.config.vocab_size;
    // its cache grows, so its size is not known
    return { backend: 'transformers.js', variant, threads, why, context: how.context, vocab, kv: null, ready_s };
  },
  async reload() {
    await model.dispose();
    return { seconds: await load() };
  },
  async prefill({ ids, repeats = 1 }) {
    const seconds = [];
    for (let i = 0; i < repeats; i++) seconds.push(...(await write({ inputs: tensor(ids) }, 1)));
    return { seconds };
  },
  async decode({ pos, n }) {
    // the cache is cut back to `pos`; one token more than is counted
    const inputs = { inputs: tensor([last]), past_key_values: cut(pos), min_new_tokens: n + 1 };
    return { seconds: (await write(inputs, n + 1)).slice(1) };
  },
  generate: ({ prompt, max_tokens }) => answer(() => tokenizer(prompt), max_tokens),
  chat({ message, max_tokens }) {
    const how = { add_generation_prompt: true, return_dict: true };
    return answer(() => tokenizer.apply_chat_template([{ role: 'user', content: message }], how), max_tokens);
  },
  /** Its own batch: prompts of the same length are the rows of one tensor. The first token is not counted. */
  async together({ prompts, steps }) {
    const n = steps + 2;
    return { seconds: (await write({ inputs: tensor(...prompts), min_new_tokens: n }, n)).slice(2) };
  },
};
