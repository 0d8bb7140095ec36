/** transformers.js on ONNX Runtime's WebAssembly: eight bits, its own choice there, and its own loop, which writes one token after the other. */
import { now } from './commands.js';

let library, tokenizer, model, cache, last = 0, asked;

/** Seconds to a model that is ready: from the network, or from what it has kept. */
async function load() {
  const begin = now(), here = new URL('.', location.href).href, runtime = `${here}onnxruntime-web/dist/ort-wasm-simd-threaded`;
  library = await import('./transformers/dist/transformers.min.js');
  Object.assign(library.env, { allowLocalModels: false, remoteHost: here, remotePathTemplate: '{model}' });
  Object.assign(library.env.backends.onnx.wasm, { numThreads: asked.threads, wasmPaths: { mjs: `${runtime}.mjs`, wasm: `${runtime}.wasm` } });
  [tokenizer, model] = await Promise.all([library.AutoTokenizer.from_pretrained('model'), library.AutoModelForCausalLM.from_pretrained('model', { dtype: 'q8', device: 'wasm' })]);
  return now() - begin;
}

const tensor = (ids) => new library.Tensor('int64', BigInt64Array.from(ids, BigInt), [1, ids.length]);

/** Write up to n tokens after `inputs`, and keep the cache: seconds to the first, and from each to the next. `text` hears of them too. */
async function write(inputs, n, text) {
  const stamps = [], begin = now(), streamer = {
    put(ids) {
      stamps.push(now());
      last = ids[0].at(-1);
      text?.put(ids);
    },
    end() { text?.end(); },
  };
  cache = (await model.generate({ ...inputs, do_sample: false, max_new_tokens: n, return_dict_in_generate: true, streamer })).past_key_values;
  stamps[0] = begin; // what it heard of first was the prompt
  return stamps.slice(1).map((t, i) => t - stamps[i]);
}

/** A cache of the first `n` positions. */
function cut(n) {
  const held = cache.get_seq_length();
  if (n > held) throw new Error(`only ${held} are held`);
  return new library.DynamicCache(Object.fromEntries(Object.entries(cache).map(([name, t]) => [name, t.slice(null, null, [0, n], null)])));
}

export const verbs = {
  async load(how) {
    asked = how;
    const ready_s = await load(), threads = library.env.backends.onnx.wasm.numThreads;
    return { backend: 'transformers.js', variant: `${how.version}, 8 bits`, threads, why: 'its library chose so', context: how.context, vocab: model.config.vocab_size, kv: null, ready_s }; // its cache grows
  },
  async reload() {
    await model.dispose();
    return { seconds: await load() };
  },
  async prefill({ ids, repeats = 1 }) {
    const seconds = [];
    for (let i = 0; i < repeats; i++) seconds.push(...await write({ inputs: tensor(ids) }, 1));
    return { seconds };
  },
  async decode({ pos, n }) {
    const seconds = await write({ inputs: tensor([last]), past_key_values: cut(pos), min_new_tokens: n + 1 }, n + 1); // what follows is forgotten
    return { seconds: seconds.slice(1) };
  },
  async generate({ prompt, max_tokens }) {
    let text = '';
    const begin = now(), inputs = tokenizer(prompt), prepared = now() - begin;
    const [first, ...itl] = await write(inputs, max_tokens, new library.TextStreamer(tokenizer, { skip_prompt: true, callback_function: (more) => { text += more; } }));
    return { seconds: now() - begin, tokens: 1 + itl.length, ttft: prepared + first, itl, text };
  },
};
