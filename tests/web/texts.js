/** Tokenizers and templates that differ from the tiny model's: where answers end, and how prompts begin. */
import { check, equal, ok, post } from './check.js';
import { expected, using } from './models.js';

const options = { temperature: 3, maxTokens: 200 };
const texts = new Map(Object.entries(expected.special).map(([text, id]) => [id, text]));

/**
 * An answer with such a token in it, and more behind.
 * @param {any} model
 * @param {(id: number) => boolean} wanted
 */
async function answerWith(model, wanted) {
  for (let seed = 1; seed < 60; seed++) {
    const { ids } = await model.generate('Hello', { ...options, seed }).result;
    const at = ids.findIndex(wanted);
    if (at >= 0 && at < ids.length - 1) return { seed, ids, at };
  }
  throw new Error('no answer held such a token');
}

export async function run() {
  const [found, gap] = await using('bundle', {}, async (model) => {
    return [await answerWith(model, (id) => texts.has(id)), await answerWith(model, (id) => id === expected.gap)];
  });
  const token = texts.get(found.ids[found.at]);
  for (const [what, site] of [
    ["the tokenizer's own end token", 'ends'],
    ['the token that ends a turn in the chat template', 'turns'],
  ]) {
    await check(`${what} ends an answer`, async () => {
      await post('control', { site, value: token });
      await using(site, {}, async (model) => {
        const r = await model.generate('Hello', { ...options, seed: found.seed }).result;
        equal([r.finish_reason, r.ids], ['eos', found.ids.slice(0, found.at + 1)], `at ${token}`);
      });
      return token;
    });
  }
  await check('a begin-of-text token that the tokenizer asks for', () =>
    using('begun', {}, async (model) => {
      for (const { text, ids, plain } of expected.begun) {
        const r = await model.generate(text, { maxTokens: 1 }).result;
        equal([r.prompt_ids, await model.encode(text)], [ids, plain], `ids of ${JSON.stringify(text)}`);
      }
      const [{ messages, ids }] = expected.chats;
      equal((await model.generate(messages, { maxTokens: 1 }).result).prompt_ids, ids, 'a chat has its own');
    }),
  );
  await check('ids that no token has', () =>
    using('padded', {}, async (model) => {
      for (let seed = 1; seed <= gap.seed; seed++) {
        const { ids, text } = await model.generate('Hello', { ...options, seed }).result;
        ok(!ids.includes(expected.gap) && (text || ids.length === 1), `${expected.gap} was chosen, seed ${seed}`);
      }
      return `${gap.seed} answers`;
    }),
  );
}
