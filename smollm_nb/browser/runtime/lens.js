/** The logit lens of an answer: which layers, how many tokens of each, and what these tokens are. */
import { parameterError } from './errors.js';

const TOP = 5; // tokens of a layer by default
const MOST = 64; // SM_MAX_LIKELIEST of csrc/smollm.h
const OWN = ['layers', 'top'];

/** @typedef {import('./smollm.js').Lens} Lens */

const whole = (v, low) => Number.isInteger(v) && v >= low;

/**
 * @param {any} lens the option
 * @returns {{layers?: number[], top: number} | null} checked as far as that goes without a model; null is off
 */
export function readLens(lens) {
  if (lens === false || lens === null) return null;
  if (lens !== true && (typeof lens !== 'object' || Array.isArray(lens)))
    throw parameterError(`lens=${lens} must be true, false, or what to show: { layers, top }`);
  const { layers, top = TOP } = lens === true ? {} : lens;
  const odd = Object.keys(lens).find((k) => !OWN.includes(k));
  if (odd) throw parameterError(`unknown option lens.${odd}; there are ${OWN.join(', ')}`);
  if (!whole(top, 1) || top > MOST) throw parameterError(`lens.top=${top} must be a whole number in 1..${MOST}`);
  if (layers === undefined) return { top };
  const rising = Array.isArray(layers) && layers.length && layers.every((v, i) => whole(v, i ? layers[i - 1] + 1 : 0));
  if (!rising) throw parameterError('lens.layers must be a list of rising whole numbers, 0 for what enters the first');
  return { layers: [...layers], top };
}

/**
 * @param {{layers?: number[], top: number}} lens as from `readLens`
 * @param {{layers: number, vocab: number}} config of the model
 * @returns {{layers: number[], top: number}}
 */
export function fitLens({ layers, top }, config) {
  const all = Array.from({ length: config.layers + 1 }, (_, i) => i);
  const last = layers?.at(-1) ?? 0;
  if (last > config.layers) throw parameterError(`lens.layers: ${last} is not in 0..${config.layers}`);
  return { layers: layers ?? all, top: Math.min(top, config.vocab) };
}

/**
 * @param {import('./text.js').Tokenizer} tokenizer
 * @param {number} id that was chosen
 * @param {number[]} layers
 * @param {{ids: Int32Array, probabilities: Float32Array}} seen (layers, top) each
 * @returns {Lens}
 */
export function describeLens(tokenizer, id, layers, { ids, probabilities }) {
  const top = ids.length / layers.length;
  const rows = layers.map((layer, i) => {
    const mine = Array.from(ids.subarray(i * top, (i + 1) * top));
    const shares = Array.from(probabilities.subarray(i * top, (i + 1) * top));
    return { layer, ids: mine, texts: mine.map((x) => tokenizer.tokenText(x)), probabilities: shares };
  });
  return { text: tokenizer.tokenText(id), layers: rows };
}
