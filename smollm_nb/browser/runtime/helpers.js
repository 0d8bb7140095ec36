/**
 * Workers that help the engine's worker. The page starts them for it: Safari gives the scripts of a worker's own
 * workers to no service worker, so that they would be missing offline. Their messages to each other go over a port of
 * their own: the page would hold on to the memory in them.
 */
import { fromPlain } from './errors.js';

/**
 * @typedef {object} Helper
 * @property {(e: {data: any}) => void} onmessage
 * @property {(error: Error) => void} onerror called for a script that did not start, and for what it throws
 * @property {(data: any, transfer?: Transferable[]) => void} postMessage
 * @property {() => void} terminate
 */

/** @type {Map<number, Helper>} */
const helpers = new Map();
let last = 0;

/**
 * @param {string} file beside this one
 * @returns {Helper}
 */
export function spawn(file) {
  const { port1, port2 } = new MessageChannel();
  const number = ++last;
  const helper = /** @type {Helper} */ ({
    onerror: () => {},
    postMessage: (data, transfer = []) => port1.postMessage(data, transfer),
    set onmessage(handler) {
      port1.onmessage = handler;
    },
    terminate() {
      helpers.delete(number);
      port1.close();
      postMessage({ end: number });
    },
  });
  helpers.set(number, helper);
  postMessage({ spawn: number, file, port: port2 }, { transfer: [port2] });
  return helper;
}

/**
 * The page says that a helper has failed.
 * @param {number} number
 * @param {import('./errors.js').Plain} error
 */
export function helperLost(number, error) {
  helpers.get(number)?.onerror(fromPlain(error));
}

/** @type {MessageChannel} */
let channel;
const waiting = [];

/** Let messages in, such as a cancel. Quicker than setTimeout, which makes one wait 4 ms. */
export function tick() {
  if (!channel) {
    channel = new MessageChannel();
    channel.port1.onmessage = () => waiting.shift()();
  }
  return new Promise((resolve) => {
    waiting.push(resolve);
    channel.port2.postMessage(0);
  });
}
