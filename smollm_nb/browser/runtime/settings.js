/** How to answer: the fields beside the conversation, read and checked, in the words that stand beside them. */
import { parameterError } from './errors.js';
import { $, megabytes } from './dom.js';

const NUMBERS = ['temperature', 'topK', 'topP', 'minP', 'repetitionPenalty', 'maxTokens'];
const FIELDS = [...NUMBERS, 'seed', 'stopStrings'];
const ESCAPES = { n: '\n', t: '\t', '\\': '\\' };
const SEEDS = 2n ** 64n;

/**
 * Lead to a field that holds something wrong.
 * @param {string} id
 * @param {string} must be
 * @returns {Error}
 */
function wrong(id, must) {
  const field = $(id);
  const [label] = field.labels;
  field.setAttribute('aria-invalid', 'true');
  field.closest('details').open = true;
  return Object.assign(parameterError(`${label.textContent} must be ${must}`), { field });
}

/**
 * @param {string} id
 * @returns {number}
 */
function readNumber(id) {
  const field = $(id);
  const { min, max, step } = field;
  const value = field.valueAsNumber;
  const integer = Number(step) === 1;
  const inside = value >= Number(min) && value <= Number(max || Infinity); // NaN is not
  const range = max ? `from ${min} to ${max}` : `of at least ${min}`;
  if (!inside || (integer && !Number.isInteger(value))) throw wrong(id, `a ${integer ? 'whole ' : ''}number ${range}`);
  return value;
}

/** @returns {number | string} what is written there, or a new one */
function readSeed() {
  const text = $('seed').value.trim();
  if (!text) return crypto.getRandomValues(new Uint32Array(1))[0];
  if (!/^\d+$/.test(text) || BigInt(text) >= SEEDS) throw wrong('seed', 'a whole number from 0 to 2⁶⁴ − 1, or empty');
  return text;
}

/** Stop strings, one a line; a backslash and a letter stand for what a line cannot hold. @param {string} text */
export const readStops = (text) =>
  text
    .split('\n')
    .filter(Boolean)
    .map((line) => line.replace(/\\([nt\\])/g, (_, c) => ESCAPES[c]));

/** @returns {import('./generate.js').Options} checked; an error's `field` is the one to mend */
export function readSettings() {
  for (const id of FIELDS) $(id).removeAttribute('aria-invalid');
  const numbers = Object.fromEntries(NUMBERS.map((id) => [id, readNumber(id)]));
  return { ...numbers, seed: readSeed(), stop: readStops($('stopStrings').value) };
}

/** What the fields hold, to be remembered. @returns {Record<string, string>} */
export const writtenSettings = () => Object.fromEntries(FIELDS.map((id) => [id, $(id).value]));

/** @param {any} written as by `writtenSettings` */
export function restoreSettings(written) {
  for (const id of FIELDS) if (typeof written?.[id] === 'string') $(id).value = written[id];
}

/** @returns {number | undefined} tokens of context; undefined before there is a choice */
export const chosenContext = () => Number($('context').value) || undefined;

/**
 * Offer every context up to what the model knows.
 * @param {{tokens: number, memory: number}[]} contexts and the bytes that they take
 * @param {number} now the one that is chosen
 */
export function offerContexts(contexts, now) {
  const options = contexts.map(({ tokens, memory }) => {
    const text = `${tokens.toLocaleString('en')} tokens, ${megabytes(memory)}`;
    return new Option(text, String(tokens), tokens === now, tokens === now);
  });
  $('context').replaceChildren(...options);
}
