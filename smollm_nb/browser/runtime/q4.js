/**
 * The head of a SMOLLM_Q4 file: what the tensors are and where they lie. The file's bytes were verified before; C
 * checks every bound again.
 */
import { bundleError } from './errors.js';

const MAGIC = 'SMOLLM_Q4';
const VERSION = 1;
const HEAD = 50; // bytes: magic 9, version 1, length of the JSON 8, its SHA-256 32
const FORMATS = { f32: 0, 'int8-row-f32': 1, 'int4-book-g128-log8': 2 }; // SM_F32 … of smollm.h
const TENSORS = {
  // SM_EMBED …
  'model.embed_tokens.weight': 0,
  'model.norm.weight': 1,
  'lm_head.weight': 2,
  'input_layernorm.weight': 3,
  'self_attn.q_proj.weight': 4,
  'self_attn.k_proj.weight': 5,
  'self_attn.v_proj.weight': 6,
  'self_attn.o_proj.weight': 7,
  'post_attention_layernorm.weight': 8,
  'mlp.gate_proj.weight': 9,
  'mlp.up_proj.weight': 10,
  'mlp.down_proj.weight': 11,
};

/**
 * @typedef {{tensor: number, layer: number, begin: number, end: number, format: number, offset: number, bytes:
 *   number}} Part an sm_part
 * @typedef {{vocab: number, hidden: number, mlp: number, layers: number, heads: number, kvHeads: number, headDim:
 *   number, positions: number,
 *   tied: boolean, ropeTheta: number, rmsEps: number, bos: number | null, eos: number[]}} Config
 */

/**
 * @param {string} name of a tensor
 * @returns {[number, number]} SM_…, layer
 */
function tensorNumber(name) {
  const [, layer, rest] = /^model\.layers\.(\d+)\.(.+)$/.exec(name) ?? [null, '0', name];
  if (!Object.hasOwn(TENSORS, rest))
    throw bundleError(`the weights hold ${name}, which this engine does not know: export the bundle again`);
  return [TENSORS[rest], Number(layer)];
}

const list = (v) => (v == null ? [] : [v].flat());

/**
 * @param {any} c as in a `config.json`
 * @returns {Config}
 */
export function readConfig(c) {
  return {
    vocab: c.vocab_size,
    hidden: c.hidden_size,
    mlp: c.intermediate_size,
    layers: c.num_hidden_layers,
    heads: c.num_attention_heads,
    kvHeads: c.num_key_value_heads ?? c.num_attention_heads,
    headDim: c.head_dim ?? c.hidden_size / c.num_attention_heads,
    positions: c.max_position_embeddings ?? 2048,
    tied: Boolean(c.tie_word_embeddings),
    ropeTheta: c.rope_theta ?? c.rope_parameters?.rope_theta ?? 1e4,
    rmsEps: c.rms_norm_eps ?? 1e-6,
    bos: list(c.bos_token_id)[0] ?? null,
    eos: list(c.eos_token_id),
  };
}

/**
 * @typedef {{rows: [number, number], format: string, offset: number, bytes: number}} StoredPart
 * @param {{name: string, parts: StoredPart[]}[]} tensors the table of the header
 * @returns {Part[]}
 */
function readParts(tensors) {
  return tensors.flatMap(({ name, parts }) =>
    parts.map((p) => {
      if (!Object.hasOwn(FORMATS, p.format))
        throw bundleError(
          `the weights hold ${name} in ${p.format}, which this engine does not run: export the bundle again`,
        );
      const [tensor, layer] = tensorNumber(name);
      return {
        tensor,
        layer,
        begin: p.rows[0],
        end: p.rows[1],
        format: FORMATS[p.format],
        offset: p.offset,
        bytes: p.bytes,
      };
    }),
  );
}

/**
 * @param {Uint8Array} weights all bytes of the file, or enough of them
 * @returns {{config: Config, parts: Part[]}}
 */
export function readHead(weights) {
  const head = weights.slice(0, HEAD); // a copy: views of shared memory are refused by TextDecoder
  const magic = String.fromCharCode(...head.subarray(0, MAGIC.length));
  if (magic !== MAGIC || head[9] !== VERSION)
    throw bundleError('the weights are no SMOLLM_Q4 file of version 1: export the bundle again');
  const length = Number(new DataView(head.buffer).getBigUint64(10, true));
  let header;
  try {
    header = JSON.parse(new TextDecoder().decode(weights.slice(HEAD, HEAD + length)));
  } catch {
    throw bundleError('the weights have a header that is no JSON: export the bundle again');
  }
  return { config: readConfig(header.config), parts: readParts(header.tensors) };
}
