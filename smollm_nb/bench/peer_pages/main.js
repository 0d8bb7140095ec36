/**
 * index.html?peer=NAME: the engine of NAME.js answers the questions that bench.js answers for ours.
 * Its library and its model are served beside this file.
 */
import { answerQuestions } from './asked.js';

const { verbs } = await import(`./${new URLSearchParams(location.search).get('peer')}.js`);
await answerQuestions(verbs);
