/** A page that a measuring server drives: commands come from the server, results go back to it. */

/** @typedef {Record<string, (options: any) => Promise<object | void>>} Verbs commands by name */

/** @param {object | void} record */
const post = (record) => fetch('report', { method: 'POST', body: JSON.stringify(record) });

/**
 * Run one command.
 * @param {Verbs} verbs
 * @param {{what: string}} command what to do, and its options
 * @returns {Promise<object | void>} the result, or what went wrong
 */
async function run(verbs, { what, ...options }) {
  try {
    if (!Object.hasOwn(verbs, what)) throw new Error(`this page cannot ${what}`);
    return await verbs[what](options);
  } catch (e) {
    return { error: e?.message ?? String(e) };
  }
}

/** Seconds since the page began. */
export const now = () => performance.now() / 1000;

/**
 * Seconds from an empty cache to the token after `ids`, `repeats` times: the loop of `timed_prefill` in worker.py,
 * for every engine that reads tokens when it is told to.
 * @param {{reset: () => Promise<unknown>, next: (ids: number[], pos?: number) => Promise<number>}} engine
 * @param {{ids: number[], repeats?: number}} how
 */
export async function timedPrefill(engine, { ids, repeats = 1 }) {
  const seconds = [];
  for (let i = 0; i < repeats; i++) {
    await engine.reset();
    const begin = now();
    await engine.next(ids);
    seconds.push(now() - begin);
  }
  return { seconds };
}

/**
 * Seconds from one token to the next, n times after position `pos`; one token before them is not counted.
 * As `timed_decode` in worker.py.
 * @param {{next: (ids: number[], pos?: number) => Promise<number>}} engine
 * @param {{last: number, pos: number, n: number}} how `last`: the id that was chosen last
 */
export async function timedDecode(engine, { last, pos, n }) {
  const stamps = [];
  for (let i = pos; i <= pos + n; i++) {
    last = await engine.next([last], i);
    stamps.push(now());
  }
  return { seconds: stamps.slice(1).map((t, i) => t - stamps[i]) };
}

/**
 * Run one command after the other, until the server is gone.
 * @param {Verbs} verbs
 */
export async function serveCommands(verbs) {
  await post({ here: navigator.userAgent });
  for (;;) {
    const response = await fetch('next'); // the server answers when it has a command
    if (response.status === 200) await post(await run(verbs, await response.json()));
  }
}
