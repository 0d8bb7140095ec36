/**
 * Errors that a user can mend: one line that names the thing and says how. They travel between threads as plain
 * records.
 */

export class SmolLMError extends Error {
  /**
   * @param {string} message
   * @param {string} [name] the kind: FetchError, BundleError, ScriptError, ParameterError, InvalidStateError,
   *   EngineError,
   *   NonFiniteError, TokenizerError or ContextOverflowError
   */
  constructor(message, name = 'SmolLMError') {
    super(message);
    this.name = name;
  }
}

/**
 * @param {string} name
 * @returns {(message: string) => SmolLMError}
 */
const kind = (name) => (message) => new SmolLMError(message, name);
export const fetchError = kind('FetchError');
export const bundleError = kind('BundleError');
export const scriptError = kind('ScriptError');
export const parameterError = kind('ParameterError');
export const stateError = kind('InvalidStateError');
export const engineError = kind('EngineError');
export const nonFiniteError = kind('NonFiniteError');
export const tokenizerError = kind('TokenizerError');
export const overflowError = kind('ContextOverflowError');

/** @returns {DOMException} what a cancelled load throws, as `fetch` does */
export const aborted = () => new DOMException('cancelled', 'AbortError');

/** @typedef {{name: string, message: string}} Plain */

/**
 * What the browser itself throws becomes an error of the engine, its own words included.
 * @param {any} error
 * @returns {Plain} for `postMessage`
 */
export function toPlain(error) {
  if (error instanceof SmolLMError || error?.name === 'AbortError') return { name: error.name, message: error.message };
  const words = String(error?.message ?? error).split('\n')[0];
  return { name: 'EngineError', message: error?.name ? `the browser refused: ${error.name}: ${words}` : words };
}

/**
 * @param {Plain} plain
 * @returns {Error} the error that `toPlain` took apart
 */
export const fromPlain = ({ name, message }) => (name === 'AbortError' ? aborted() : new SmolLMError(message, name));
