/** A page that waits to be asked: questions come from the server that opened the browser, answers go back to it. */

const post = (record) => fetch('report', { method: 'POST', body: JSON.stringify(record) });

/**
 * The answer to one question, or what went wrong.
 * @param {Record<string, (how: any) => Promise<any>>} verbs @param {{what: string}} question
 */
async function answer(verbs, { what, ...how }) {
  try {
    if (!Object.hasOwn(verbs, what)) throw new Error(`this page cannot ${what}`);
    return await verbs[what](how);
  } catch (e) {
    return { error: e?.message ?? String(e) };
  }
}

/** Seconds since the page began. */
export const now = () => performance.now() / 1000;

/**
 * Answer one question after the other, until the server is gone.
 * @param {Record<string, (how: any) => Promise<any>>} verbs by name
 */
export async function answerQuestions(verbs) {
  await post({ here: navigator.userAgent });
  for (;;) {
    const response = await fetch('next'); // the server lets it wait
    if (response.status === 200) await post(await answer(verbs, await response.json()));
  }
}
