/**
 * What this tab remembers over a reload: the conversation, the draft, the settings. It goes when the tab does. A
 * browser that keeps nothing may throw on any access to its storage: then nothing is remembered.
 */
const FOLDER = new URL('.', location.href).pathname; // several bundles may share an origin

/**
 * @param {string} name
 * @returns {any} null where nothing is known
 */
export function recall(name) {
  try {
    return JSON.parse(sessionStorage.getItem(`smollm_nb ${FOLDER} ${name}`) ?? 'null');
  } catch {
    return null;
  }
}

/**
 * @param {string} name
 * @param {unknown} value null forgets it
 * @returns {boolean} whether it is remembered
 */
export function remember(name, value) {
  try {
    if (value === null) sessionStorage.removeItem(`smollm_nb ${FOLDER} ${name}`);
    else sessionStorage.setItem(`smollm_nb ${FOLDER} ${name}`, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/** @returns {boolean} whether this browser lets the page remember anything */
export function remembers() {
  return remember('works', true) && remember('works', null);
}
