/** Loading the model: what it will take, its progress, and what to do where it fails. */
import { WasmModelLoader } from './smollm.js';
import { $, announce, defaultFocus, hideMovingFocus, megabytes, show } from './dom.js';
import { describeKept, describeModel, describePlan, note } from './figures.js';
import { showError, hideError } from './problems.js';
import { chosenContext, offerContexts } from './settings.js';
import { recall, remember, remembers } from './tab.js';

const loader = new WasmModelLoader();
/** @typedef {import('./smollm.js').WasmModel} WasmModel */
/** @type {WasmModel | null} */
let model = null;
/** @type {Promise<WasmModel | null> | null} */
let loading = null;
/** @type {any} what a load would do, as it was shown last */
let plan = null;
/** @type {any} tokens of context that were chosen here; anything else is no choice */
let wanted = recall('context');

/** @returns {number | undefined} tokens that the loaded model sees at once */
export const loadedContext = () => model?.info.context;

/**
 * What a visitor should know.
 * @param {any} facts a plan or a model's info
 * @param {string} trouble with keeping it
 */
function showNotes({ threads, why, notes }, trouble) {
  const single = threads === 1 && !globalThis.crossOriginIsolated;
  const all = [...(notes ?? (single ? [why] : [])), trouble, remembers() ? '' : 'a reload forgets the conversation'];
  note([...new Set(all.filter(Boolean))]);
}

/** @param {import('./smollm.js').Plan} next */
function describe(next) {
  plan = next;
  const chosen = plan.contexts.find((c) => c.tokens === wanted);
  const { memory } = chosen ?? plan;
  const todo = plan.total - plan.cached;
  const here = plan.cached ? ` (${megabytes(plan.cached)} are here already)` : '';
  const source = todo ? `Fetches ${megabytes(todo)}${here}` : 'All of it is here already';
  $('name').textContent = plan.name;
  $('offer').textContent = `${source}; takes about ${megabytes(memory)} of memory.`;
  describePlan(plan, memory);
  offerContexts(plan.contexts, chosen?.tokens ?? plan.context);
  showNotes(plan, plan.trouble);
}

/** @param {import('./smollm.js').Progress} progress */
function onProgress({ stage, loaded, total, fetched, plan: seen }) {
  if (seen) describe(seen);
  $('bar').value = total ? loaded / total : 0;
  const network = fetched ? `, ${megabytes(fetched)} from the network` : '';
  if (stage === 'download') $('offer').textContent = `Loading: ${megabytes(loaded)} of ${megabytes(total)}${network}`;
  if (stage === 'start') $('offer').textContent = 'Testing the engine …';
}

/** Show what a load would take; where that is nothing from the network, load. */
export async function showPlan() {
  show('gate', true);
  try {
    describe(await loader.plan('.'));
    $('load').disabled = false;
    if (plan.cached === plan.total) await ensureModel();
  } catch (error) {
    offerAgain('The model cannot be loaded.');
    showError(error);
  }
}

/** @param {string} why it is not there */
function offerAgain(why) {
  show('gate', true);
  show('load', true);
  $('load').disabled = false;
  $('offer').textContent = why;
}

/** Load the model, once. @returns {Promise<WasmModel | null>} null if that was cancelled or failed */
export async function ensureModel() {
  if (model) return model;
  loading ??= load().finally(() => {
    loading = null;
  });
  return loading;
}

async function load() {
  const control = new AbortController();
  $('abort').onclick = () => control.abort();
  show('gate', true);
  for (const id of ['bar', 'abort']) show(id, true);
  hideMovingFocus($('load'), $('abort'));
  $('context').disabled = true;
  hideError();
  announce('Loading the model');
  try {
    model = await loader.load_quantized_model('.', { onProgress, signal: control.signal, context: chosenContext() });
    ready(model);
  } catch (error) {
    offerAgain(error.name === 'AbortError' ? 'Cancelled. What has arrived is kept.' : 'The model is not loaded.');
    showError(error);
  }
  show('bar', false);
  $('context').disabled = false;
  hideMovingFocus($('abort'), model ? defaultFocus() : $('load'));
  if (model) show('gate', false);
  return model;
}

/** @param {WasmModel} loaded */
function ready(loaded) {
  describeModel(loaded.info);
  announce('The model is ready');
  loaded.kept.then((how) => {
    if (model !== loaded) return; // another one by now
    describeKept(how);
    showNotes(loaded.info, how.trouble);
  });
}

/** Let the model go. @param {string} why there is none now */
export function unload(why) {
  model?.dispose();
  model = null;
  offerAgain(why);
}

/** Another length of context was chosen: a loaded model is loaded again, from what the browser has kept. */
export async function changeContext() {
  wanted = chosenContext();
  remember('context', wanted);
  if (!model) return describe(plan);
  unload('Loading again with another context');
  await ensureModel();
}
