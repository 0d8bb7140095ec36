/** A page that a measuring server drives: commands come from the server, results go back to it. */

const post = (record) => fetch('report', { method: 'POST', body: JSON.stringify(record) });

/**
 * Run one command.
 * @param {Record<string, (options: any) => Promise<any>>} verbs by name
 * @param {{what: string}} command what to do, and its options
 * @returns {Promise<any>} the result, or what went wrong
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
 * Run one command after the other, until the server is gone.
 * @param {Record<string, (options: any) => Promise<any>>} verbs by name
 */
export async function serveCommands(verbs) {
  await post({ here: navigator.userAgent });
  for (;;) {
    const response = await fetch('next'); // the server answers when it has a command
    if (response.status === 200) await post(await run(verbs, await response.json()));
  }
}
