/** The page's elements by their ids, and the few things that every part of the page does with them. */

/**
 * @param {string} id
 * @returns {any}
 */
export const $ = (id) => document.getElementById(id);

/**
 * @param {string} id
 * @param {boolean} on
 */
export const show = (id, on) => {
  $(id).hidden = !on;
};

/** For screen readers, when they are done with what they read. @param {string} text */
export const announce = (text) => {
  $('say').textContent = text;
};

/** @param {number} bytes */
export const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;

/**
 * @param {string} text
 * @returns {string} the same, as the beginning of a sentence
 */
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/**
 * @param {string} tag
 * @param {Record<string, any>} [properties] of the element; those with a dash are attributes
 * @param {...(Node | string)} children
 * @returns {any} the element
 */
export function make(tag, properties = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes('-') || name === 'role') e.setAttribute(name, value);
    else e[name] = value;
  }
  e.append(...children);
  return e;
}

/** Where the focus goes from a button that goes away. On a phone not into the field: a keyboard would come up. */
export const defaultFocus = () => (matchMedia('(hover: hover)').matches ? $('prompt') : $('log'));

/**
 * Hide what may have the focus, and give the focus to what takes its place: whoever uses a keyboard is not lost.
 * @param {HTMLElement} gone
 * @param {HTMLElement} next
 */
export function hideMovingFocus(gone, next) {
  const focused = gone.contains(document.activeElement);
  gone.hidden = true;
  if (focused) next.focus({ preventScroll: true });
}
