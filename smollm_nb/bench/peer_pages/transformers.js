/**
 * transformers.js on ONNX Runtime's WebAssembly: eight bits, its own choice there.
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
    library.AutoModelForCausalLM.from_pretrained('model', { dtype: 'q8', device: 'wasm' }),
  ]);
  return now() - begin;
}

const tensor = (ids) => new library.Tensor('int64', BigInt64Array.from(ids, BigInt), [1, ids.length]);

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

export const verbs = {
  async load(how) {
    options = how;
    const ready_s = await load(),
      threads = library.env.backends.onnx.wasm.numThreads;
    const variant = `${how.version}, 8 bits`,
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
  async generate({ prompt, max_tokens }) {
    let text = '';
    const begin = now(),
      inputs = tokenizer(prompt),
      prepared = now() - begin;
    const collect = (more) => {
      text += more;
    };
    const streamer = new library.TextStreamer(tokenizer, { skip_prompt: true, callback_function: collect });
    const [first, ...itl] = await write(inputs, max_tokens, streamer);
    return { seconds: now() - begin, tokens: 1 + itl.length, ttft: prepared + first, itl, text };
  },
};
