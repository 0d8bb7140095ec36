/** Errors that a user can mend: one line that names the thing and says how. They travel between threads as plain records. */

export class SmolLMError extends Error {
  /** @param {string} message @param {string} [name] the kind: FetchError, BundleError, ParameterError, InvalidStateError, … */
  constructor(message, name = 'SmolLMError') {
    super(message);
    this.name = name;
  }
}

/** @param {string} name @returns {(message: string) => SmolLMError} */
const kind = (name) => (message) => new SmolLMError(message, name);
export const fetchError = kind('FetchError');
export const bundleError = kind('BundleError');
export const parameterError = kind('ParameterError');
export const stateError = kind('InvalidStateError');
export const engineError = kind('EngineError');
export const tokenizerError = kind('TokenizerError');
export const overflowError = kind('ContextOverflowError');

/** @returns {DOMException} what a cancelled load throws, as `fetch` does */
export const aborted = () => new DOMException('cancelled', 'AbortError');

/** @param {any} error @returns {{name: string, message: string}} for `postMessage` */
export const toPlain = (error) => ({ name: error?.name ?? 'Error', message: String(error?.message ?? error) });

/** @param {{name: string, message: string}} plain @returns {Error} the error that `toPlain` took apart */
export const fromPlain = ({ name, message }) => (name === 'AbortError' ? aborted() : new SmolLMError(message, name));
