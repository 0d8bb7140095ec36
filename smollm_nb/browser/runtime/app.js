/** The page: one conversation with one model. What the model writes is formatted text, never HTML of its own. */
import { Conversation } from './conversation.js';
import { $, announce, defaultFocus, hideMovingFocus, show } from './dom.js';
import { clearFigures, describeAnswer, drawGrowing } from './figures.js';
import { changeContext, ensureModel, loadedContext, showPlan, unload } from './gate.js';
import { isolate } from './isolate.js';
import { follow, openPanel, watchLayout } from './layout.js';
import { catchAll, showError, hideError } from './problems.js';
import { readSettings, restoreSettings, writtenSettings } from './settings.js';
import { recall, remember } from './tab.js';
import { fetchMarkdown, throttled, TurnView } from './turns.js';

/** @typedef {import('./conversation.js').Turn} Turn */

const SAVE_MS = 2000; // between two times that a growing answer is saved
const PLACEHOLDERS = { chat: 'Ask something', text: 'Write the beginning of a text' };
const ENDS = {
  eos: () => '',
  stop: () => 'stopped at a stop string',
  length: (r) =>
    r.truncated
      ? 'the context is full: begin a new conversation, or choose a longer context'
      : `stopped after ${r.ids.length} tokens, the longest answer in the settings`,
  cancelled: () => 'stopped',
};

let conversation = new Conversation(recall('conversation'));
/** @type {Map<Turn, TurnView>} of the conversation that is shown */
const views = new Map();
/** @type {Turn | null} that is waited for */
let waiting = null;
/** @type {{cancel: () => void} | null} the answer that grows */
let growing = null;
/** When the engine is done with an answer that was cancelled. */
let ended = Promise.resolve();
/** When it is clear whether the page loads once more, and what the model takes. */
let settled = Promise.resolve();
/** @type {Turn | null} that is written again */
let edited = null;
/** @type {Promise<typeof import('./inside.js') | null> | null} what shows the inside, once somebody wants to see it */
let inside = null;

/** @returns {import('./conversation.js').Kind} */
const kind = () => ($('modeText').checked ? 'text' : 'chat');

// ---- what is shown, and what is remembered

/** @param {Turn} turn */
function addView(turn) {
  const view = new TurnView(turn, { edit, regenerate: again });
  views.set(turn, view);
  $('turns').append(view.element);
  show('empty', false);
  return view;
}

/** @param {Turn[]} turns */
function removeViews(turns) {
  for (const turn of turns) {
    views.get(turn)?.element.remove();
    views.delete(turn);
  }
  show('empty', !conversation.turns.length);
}

/** @param {boolean} on whether an answer is waited for */
function working(on) {
  document.body.classList.toggle('answering', on);
  $('send').setAttribute('aria-disabled', String(on));
  if (!on) hideMovingFocus($('stop'), defaultFocus());
  show('send', true);
}

/** The answer has begun: Stop takes the place of Send. */
function canStop() {
  show('stop', true);
  hideMovingFocus($('send'), defaultFocus());
}

const save = () => remember('conversation', conversation.turns.length ? conversation.toJSON() : null);

/** What is written, or what was sent and not answered yet. */
function saveDraft() {
  const { value, selectionStart: start, selectionEnd: end } = $('prompt');
  const text = value || (waiting && !waiting.answer ? waiting.text : '');
  remember('draft', { text, start, end, focused: document.activeElement === $('prompt'), mode: kind() });
}

/**
 * Everything that a reload should find again. What is written while the page goes may come too late (Firefox may have
 * started the next page's process by then), so each part is saved when it changes as well.
 */
function saveAll() {
  save();
  saveDraft();
  remember('settings', writtenSettings());
}

/** @param {string} text for the field */
function write(text) {
  $('prompt').value = text;
  saveDraft();
}

function restoreDraft() {
  const draft = recall('draft');
  const prompt = $('prompt');
  if (draft?.mode === 'text') $('modeText').checked = true;
  chooseMode();
  if (typeof draft?.text !== 'string' || prompt.value) return;
  prompt.value = draft.text;
  if (draft.focused) prompt.focus();
  prompt.setSelectionRange(draft.start, draft.end);
}

function restoreAll() {
  restoreSettings(recall('settings'));
  restoreDraft();
  for (const turn of conversation.turns) addView(turn);
  show('empty', !conversation.turns.length);
}

// ---- answers

/**
 * Put tokens into a turn; show and save them now and then.
 * @param {Turn} turn
 * @param {TurnView} view
 * @param {typeof import('./inside.js') | null} panel that shows the inside, where it is open
 */
function collector(turn, view, panel) {
  const times = [];
  const begin = performance.now();
  let saved = begin;
  const painting = throttled(() => {
    view.grow();
    panel?.draw();
    drawGrowing(times, times[0] - begin);
    if (performance.now() < saved + SAVE_MS) return;
    saveAll();
    saved = performance.now();
  });
  const push = (token) => {
    times.push(begin + token.elapsed_s * 1000);
    turn.answer += token.text;
    panel?.add(token);
    painting.soon();
  };
  return { push, stop: painting.stop };
}

/** @returns {Promise<typeof import('./inside.js') | null>} null where it is closed, or cannot be had */
async function openInside() {
  if (!$('inside').open) return null;
  inside ??= import('./inside.js').catch((e) => {
    inside = null;
    showError(e);
    return null;
  });
  return inside;
}

/**
 * Let the model answer a turn, and show it. What comes after "New" belongs to a conversation that nobody sees any more:
 * `current` is false then, and nothing of it is shown.
 * @param {Turn} turn
 * @param {TurnView} view
 * @param {any} settings
 * @param {() => boolean} current
 * @returns {Promise<boolean>} false where no answer came
 */
async function answer(turn, view, settings, current) {
  await settled;
  await ended;
  const model = await ensureModel();
  if (!model || !current()) return false;
  fetchMarkdown();
  const panel = await openInside();
  if (!current()) return false;
  const tokens = collector(turn, view, panel);
  const prompt = conversation.prompt(turn);
  const onToken = (token) => current() && tokens.push(token);
  const lens = panel ? panel.begin(model.info.layers) : false;
  const generation = model.generate(prompt, { ...settings, lens, overflow: 'stop', onToken });
  growing = generation;
  ended = generation.result.then(
    () => {},
    () => {},
  );
  canStop();
  const r = await generation.result.finally(tokens.stop);
  if (!current()) return false;
  panel?.draw();
  Object.assign(turn, { answer: r.text, note: ENDS[r.finish_reason](r), done: true });
  view.finish();
  describeAnswer(/** @type {Required<import('./smollm.js').Timings>} */ (r.timings));
  return true;
}

/**
 * Ask the model, in place of turns that were taken out.
 * @param {import('./conversation.js').Kind} what
 * @param {string} text
 * @param {any} settings
 * @param {Turn[]} removed turns
 * @returns {Promise<boolean>} false where no answer came: then all is as it was before
 */
async function ask(what, text, settings, removed) {
  const mine = conversation;
  const current = () => conversation === mine;
  removeViews(removed);
  const turn = mine.add(what, text);
  const view = addView(turn);
  waiting = turn;
  saveDraft();
  working(true);
  view.busy(true);
  follow();
  let error = null;
  const done = await answer(turn, view, settings, current).catch((e) => {
    error = e;
  });
  if (!current()) return true;
  waiting = growing = null;
  view.busy(false);
  working(false);
  if (!done) {
    removeViews(mine.cut(turn));
    mine.turns.push(...removed);
    removed.forEach(addView);
    if (error) trouble(error);
  } else announce(turn.answer ? `Answer: ${view.body.textContent}` : 'No answer');
  saveAll();
  return Boolean(done);
}

/** @param {any} error of an answer */
function trouble(error) {
  showError(error, loadedContext());
  if (['EngineError', 'ScriptError'].includes(error.name)) unload('The engine stopped: load the model again.');
}

/** @returns {any} the settings; null where one is wrong, which is shown */
function checkedSettings() {
  hideError();
  try {
    return readSettings();
  } catch (error) {
    openPanel(true);
    showError(error);
    return null;
  }
}

/** @param {Event} [event] */
async function send(event) {
  event?.preventDefault();
  const text = $('prompt').value;
  if (!text.trim() || waiting) return;
  const settings = checkedSettings();
  if (!settings) return;
  const removed = edited ? conversation.cut(edited) : [];
  stopEditing();
  openPanel(false);
  write('');
  if (!(await ask(kind(), text, settings, removed))) write($('prompt').value || text);
}

/** Answer a turn once more. @param {Turn} turn the last */
async function again(turn) {
  if (waiting) return;
  const settings = checkedSettings();
  if (!settings) return;
  stopEditing();
  defaultFocus().focus({ preventScroll: true });
  await ask(turn.kind, turn.text, settings, conversation.cut(turn));
}

/** Write a turn once more: it comes back into the field; what followed it goes when it is sent. @param {Turn} turn */
function edit(turn) {
  if (waiting) return;
  stopEditing();
  edited = turn;
  $(turn.kind === 'chat' ? 'modeChat' : 'modeText').checked = true;
  chooseMode();
  write(turn.text);
  show('editing', true);
  const after = conversation.turns.slice(conversation.turns.indexOf(turn));
  for (const t of after) views.get(t)?.element.classList.add('replaced');
  $('prompt').focus();
}

function stopEditing() {
  if (!edited) return;
  edited = null;
  show('editing', false);
  for (const view of views.values()) view.element.classList.remove('replaced');
}

/** A new conversation; what still comes of the one before is dropped. */
function newConversation() {
  growing?.cancel();
  waiting = growing = null;
  conversation = new Conversation();
  removeViews([...views.keys()]);
  stopEditing();
  working(false);
  hideError();
  clearFigures();
  show('lensArea', false);
  show('insideHint', true);
  save();
  openPanel(false);
  $('prompt').focus();
}

// ---- what a visitor does

function chooseMode() {
  $('prompt').placeholder = PLACEHOLDERS[kind()];
}

/** Escape goes back by one step. @param {KeyboardEvent} event */
function onKey(event) {
  if (event.key !== 'Escape' || event.isComposing) return;
  if (growing) growing.cancel();
  else if (edited) cancelEdit();
  else openPanel(false);
}

function cancelEdit() {
  stopEditing();
  write('');
  $('prompt').focus();
}

async function anotherContext() {
  growing?.cancel();
  await ended;
  await changeContext();
}

function listen() {
  $('composer').addEventListener('submit', send);
  $('composer').addEventListener('input', saveDraft);
  $('composer').addEventListener('change', chooseMode);
  $('panel').addEventListener('change', () => remember('settings', writtenSettings()));
  $('prompt').addEventListener('keydown', (e) => {
    if (e.key !== 'Enter' || e.shiftKey || e.isComposing) return;
    e.preventDefault();
    send();
  });
  document.addEventListener('keydown', onKey);
  $('load').onclick = ensureModel;
  $('stop').onclick = () => growing?.cancel();
  $('clear').onclick = newConversation;
  $('keep').onclick = cancelEdit;
  $('context').onchange = anotherContext;
  $('inside').ontoggle = openInside;
  window.addEventListener('pagehide', saveAll);
  document.addEventListener('visibilitychange', () => document.hidden && saveAll());
}

async function main() {
  $('unstarted').remove();
  catchAll();
  watchLayout();
  listen();
  restoreAll();
  settled = isolate(saveAll).then(showPlan);
  await settled;
  fetchMarkdown();
}

main().catch(showError);
