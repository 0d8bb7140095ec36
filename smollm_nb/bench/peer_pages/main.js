/**
 * index.html?peer=NAME: the engine of NAME.js runs the commands that bench.js runs for ours.
 * Its library and its model are served beside this file.
 */
import { serveCommands } from './commands.js';

const { verbs } = await import(`./${new URLSearchParams(location.search).get('peer')}.js`);
await serveCommands(verbs);
