/** What went wrong, in one line that names a way out. */
import { SmolLMError } from './errors.js';
import { $, sentence, show } from './dom.js';

/** Kinds whose messages are written for whoever uses the page. */
const PLAIN = [
  'FetchError',
  'BundleError',
  'ScriptError',
  'ParameterError',
  'InvalidStateError',
  'EngineError',
  'NonFiniteError',
  'TokenizerError',
  'SmolLMError',
];

/**
 * @param {any} error
 * @param {number} [context] tokens that the model sees at once
 * @returns {string}
 */
export function explain(error, context) {
  if (error?.name === 'ContextOverflowError') {
    const limit = context ? `the ${context.toLocaleString('en')} tokens of its context` : 'its context';
    const ways = 'begin a new one, write less, or choose a longer context in the settings';
    return `The conversation is longer than ${limit}: ${ways}`;
  }
  const message = String(error?.message ?? error)
    .replace(/\s+/g, ' ')
    .trim();
  if (error instanceof SmolLMError && PLAIN.includes(error.name)) return sentence(message);
  return `Something in this page failed (${[error?.name, message].filter(Boolean).join(': ')}): load the page again`;
}

/**
 * Show what went wrong; what was cancelled is no trouble.
 * @param {any} error
 * @param {number} [context]
 */
export function showError(error, context) {
  if (error?.name === 'AbortError') return;
  $('what').textContent = explain(error, context);
  show('trouble', true);
  error?.field?.focus();
}

export const hideError = () => show('trouble', false);

/** Whatever nobody caught is shown. A worker's error comes here without its object: smollm.js tells of those. */
export function catchAll() {
  window.addEventListener('error', ({ error }) => error != null && showError(error));
  window.addEventListener('unhandledrejection', (e) => showError(e.reason));
  $('dismiss').onclick = hideError;
}
