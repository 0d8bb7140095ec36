/** What the test pages share: checks that report to the server one by one, and two kinds of surprise. */

export const post = (path, record) => fetch(`/${path}`, { method: 'POST', body: JSON.stringify(record) });

export function equal(got, want, what = '') {
  const [a, b] = [JSON.stringify(got), JSON.stringify(want)];
  if (a !== b) throw new Error(`${what} is ${a?.slice(0, 300)}, not ${b?.slice(0, 300)}`);
}

export function ok(truth, what) {
  if (!truth) throw new Error(what);
}

/**
 * @param {Promise<any>} promise
 * @param {string | string[]} name of the error, or several
 * @param {RegExp} message
 */
export async function fails(promise, name, message) {
  const error = await promise.then(
    () => null,
    (e) => e,
  );
  ok(error, `no error; ${name} was expected`);
  ok([name].flat().includes(error.name), `the error is ${error.name}: ${error.message}, not ${name}`);
  ok(message.test(error.message), `the message is "${error.message}"`);
  ok(!/\n/.test(error.message) && error.message.length < 300, 'the message is one line');
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** @param {() => any} look until it is true */
export async function until(look, what, ms = 120000) {
  for (const end = performance.now() + ms; performance.now() < end; await sleep(20)) if (await look()) return;
  throw new Error(`waited ${ms} ms for ${what}`);
}

/**
 * @param {string} name
 * @param {() => Promise<any>} run
 */
export async function check(name, run, ms = 180000) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${ms} ms`)), ms);
  });
  const begin = performance.now();
  try {
    const detail = await Promise.race([run(), late]);
    await post('report', { name, ok: true, detail: detail ?? '', ms: performance.now() - begin });
  } catch (e) {
    await post('report', { name, ok: false, detail: `${e.name}: ${e.message}\n${e.stack ?? ''}` });
  } finally {
    clearTimeout(timer);
  }
}
