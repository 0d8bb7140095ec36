/** Where things stand: the newest line in sight, room for a phone's keyboard, the panel of a narrow page. */
import { $, show } from './dom.js';

const NEAR_PX = 32; // from the end: as good as at it
const KEYBOARD_PX = 80; // that the visible part lacks: a keyboard covers the page
const NARROW = '(max-width: 50rem)'; // as in style.css
const PINCHED = 1.05; // a page that was zoomed by two fingers is not covered

let following = true;
let top = 0;

const toEnd = () => {
  const log = $('log');
  if (following) log.scrollTop = log.scrollHeight;
  top = log.scrollTop;
};

/** Show the end of the conversation, and follow it from now on. */
export function follow() {
  following = true;
  show('latest', false);
  toEnd();
}

/** Whoever scrolls up reads; whoever comes back to the end wants to follow. */
function onScroll() {
  const log = $('log');
  const left = log.scrollHeight - log.clientHeight - log.scrollTop;
  if (left < NEAR_PX) following = true;
  else if (log.scrollTop < top - 1) following = false;
  top = log.scrollTop;
  show('latest', !following);
}

/** Keep the page in the part of the window that a keyboard leaves. */
function fit() {
  const view = /** @type {VisualViewport} */ (window.visualViewport);
  const { style } = document.documentElement;
  const covered = view.scale < PINCHED && window.innerHeight - view.height > KEYBOARD_PX;
  style.setProperty('--height', covered ? `${view.height}px` : '100dvh');
  style.setProperty('--top', covered ? `${view.offsetTop}px` : '0px');
}

/** Whether the figures are seen: known without laying the page out. */
export const panelShown = () => document.body.classList.contains('panel') || !matchMedia(NARROW).matches;

/** On a narrow page the figures take the place of the conversation. @param {boolean} [open] */
export function openPanel(open = $('more').getAttribute('aria-expanded') !== 'true') {
  $('more').setAttribute('aria-expanded', String(open));
  document.body.classList.toggle('panel', open);
  if (!open) toEnd();
}

export function watchLayout() {
  const grown = new ResizeObserver(toEnd);
  for (const id of ['log', 'turns']) grown.observe($(id));
  $('log').addEventListener('scroll', onScroll, { passive: true });
  $('latest').onclick = () => {
    follow();
    $('log').focus({ preventScroll: true });
  };
  $('more').onclick = () => openPanel();
  for (const event of ['resize', 'scroll']) window.visualViewport?.addEventListener(event, fit);
}
