/**
 * Sits in the page itself, as page.js does, and looks at what a visitor sees of it. `frames.html` has it in a frame,
 * which is given the sizes of screens: a page sees of its frame what it would see of a window.
 */
import { check, equal, ok, post, sleep, until } from './check.js';

const SIZES = [
  [360, 740],
  [360, 400],
  [700, 900],
  [1280, 800],
];
const $ = (id) => document.getElementById(id);
const answering = () => document.body.classList.contains('answering');
const idle = () => until(() => !answering(), 'the end of the answer');
/** Whether the answer that is being written is longer than so many characters. @param {number} length */
const grown = (length) => () => document.querySelector('.busy .prose')?.textContent.length > length;
const box = (e) => e.getBoundingClientRect();
const NEAR = 40; // px from the end
const ENDLESS = 3000; // tokens: seconds, whatever the machine; every such answer is stopped

/** @param {Record<string, any>} values of fields, by id */
function fill(values) {
  for (const [id, value] of Object.entries(values)) {
    $(id).value = value;
    for (const event of ['input', 'change']) $(id).dispatchEvent(new Event(event, { bubbles: true }));
  }
}

/** @param {string} text */
function send(text) {
  fill({ prompt: text });
  $('composer').requestSubmit();
  ok(answering(), 'the page does not begin');
}

/**
 * Where the last line of a message is.
 * @param {Element} e
 * @returns {DOMRect}
 */
function lastLine(e) {
  const range = document.createRange();
  range.selectNodeContents(e);
  return [...range.getClientRects()].at(-1) ?? box(e);
}

/** That the last line of the answer stands between the header and the field. */
function seen(what) {
  const last = [...document.querySelectorAll('.turn .prose')].at(-1);
  const line = lastLine(last);
  const log = box($('log'));
  const field = box($('composer'));
  const header = box(document.querySelector('header'));
  const place = `${what}: the last line, from ${line.top} to ${line.bottom} px,`;
  ok(line.bottom <= field.top, `${place} is behind the field, which begins at ${field.top}`);
  const inside = line.bottom <= log.bottom + 1 && line.top >= log.top - 1;
  ok(inside, `${place} is not in the log, ${log.top} to ${log.bottom}`);
  ok(field.bottom <= innerHeight && header.top >= 0, `${what}: the page sticks out`);
  ok(document.documentElement.scrollWidth <= innerWidth, `${what}: ${document.documentElement.scrollWidth} px wide`);
}

/** Look at the answer while it grows. @param {string} what */
async function watch(what) {
  let looks = 0;
  for (; answering(); await sleep(60)) {
    await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame); // what was drawn is laid out
    if (document.querySelector('.busy .prose')?.textContent) (seen(`${what}, growing`), looks++);
  }
  await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  seen(`${what}, whole`);
  return looks;
}

const load = () =>
  check('the model is loaded', async () => {
    await until(() => !$('load').disabled || $('gate').hidden, `the offer; the page says ${$('offer').textContent}`);
    if (!$('gate').hidden) $('load').click();
    await until(() => $('gate').hidden || !$('trouble').hidden, 'the model');
    ok($('trouble').hidden, $('what').textContent);
  });

/**
 * @param {number} width
 * @param {number} height
 */
async function geometry(width, height) {
  const size = `${width}x${height}`;
  Object.assign(window.frameElement, { width, height });
  await until(() => innerWidth === width && innerHeight === height, 'the size');
  $('clear').click();
  fill({ temperature: 0, maxTokens: 60, repetitionPenalty: 1 });
  await check(`${size}: the last line is seen over four turns`, async () => {
    const looks = [];
    for (const turn of [1, 2, 3, 4]) {
      send(`Question ${turn}\n`.repeat(6)); // high enough that four turns fill a large window
      looks.push(await watch(`turn ${turn}`));
    }
    ok($('log').scrollHeight > $('log').clientHeight, 'the conversation does not fill the window: nothing was shown');
    return `looks while they grew: ${looks}`;
  });
  await check(`${size}: whoever scrolls up is left there`, async () => {
    fill({ maxTokens: ENDLESS });
    send('Once more');
    await until(grown(5), 'some text');
    $('log').scrollTop = 0;
    await until(() => !$('latest').hidden, 'the way back to the end');
    await until(grown(document.querySelector('.busy .prose').textContent.length + 20), 'more text');
    equal($('log').scrollTop, 0, 'the place while it grows');
    $('stop').click();
    await idle();
    await sleep(100);
    equal($('log').scrollTop, 0, 'the place');
    $('latest').click();
    await until(() => $('latest').hidden, 'the end');
    const { scrollHeight, scrollTop, clientHeight } = $('log');
    ok(scrollHeight - scrollTop - clientHeight < NEAR, 'not at the end');
    seen('back at the end');
  });
  await check(`${size}: the figures can be reached`, async () => {
    const narrow = innerWidth <= 800;
    equal(box($('more')).width > 0, narrow, 'the button for them');
    if (narrow) $('more').click();
    const there = box($('rate'));
    const panel = box($('panel'));
    ok(there.width > 0 && there.bottom <= panel.bottom && panel.bottom <= innerHeight, 'the figures are not seen');
    ok(/tokens\/s/.test($('rate').textContent), $('rate').textContent);
    if (narrow) {
      ok(panel.bottom <= box($('composer')).top, 'the figures reach behind the field');
      $('more').click();
      seen('after the figures');
    }
  });
}

/** The figure "so many tokens" of the last prompt. */
const promptTokens = () => Number(/^(\d+) tokens/.exec($('prefill').textContent)?.[1]);
const turns = () => document.querySelectorAll('.turn').length;

async function conversation() {
  $('clear').click();
  fill({ temperature: 0, repetitionPenalty: 1 });
  await check('a new conversation knows nothing of the one before', async () => {
    fill({ maxTokens: 4 });
    send('Alone');
    await idle();
    const alone = promptTokens();
    fill({ maxTokens: ENDLESS });
    send('A question that is answered at length');
    await until(grown(5), 'some text');
    $('clear').click();
    equal(turns(), 0, 'turns');
    ok(!answering(), 'the page still works');
    fill({ maxTokens: 4 });
    send('Alone'); // at once, while the answer before is still being stopped
    await idle();
    ok($('trouble').hidden, $('what').textContent);
    equal(turns(), 1, 'turns');
    equal(promptTokens(), alone, 'tokens of the prompt');
    const saved = JSON.parse(sessionStorage.getItem('smollm_nb /visited/ conversation'));
    equal(
      saved.map((t) => t.text),
      ['Alone'],
      'what is remembered',
    );
  });
  await check('what comes late of the one before is dropped', async () => {
    fill({ maxTokens: ENDLESS });
    send('At length');
    await until(grown(5), 'some text');
    $('clear').click();
    const figures = () => ['rate', 'ttft', 'prefill', 'live', 'what', 'say'].map((id) => $(id).textContent);
    const before = figures();
    await sleep(600); // the answer has ended by now
    equal(figures(), before, 'the figures');
    equal(turns(), 0, 'turns');
    ok($('trouble').hidden && $('latency').hidden, 'something of it is shown');
  });
  await check('the conversation is told to screen readers once', async () => {
    let said = 0;
    const heard = new MutationObserver(() => {
      said++;
    });
    heard.observe($('say'), { childList: true });
    fill({ maxTokens: 40 });
    send('Hello');
    await idle();
    await sleep(50);
    heard.disconnect();
    equal(said, 1, 'times');
    equal($('log').getAttribute('aria-live'), 'off', 'the log');
  });
}

/** Where the browser keeps nothing: it answers all the same, and says so. */
const blocked = () =>
  check('nothing is kept', async () => {
    let denied = '';
    try {
      sessionStorage.getItem('x');
    } catch (e) {
      denied = e.name;
    }
    equal(denied, 'SecurityError', 'access to the storage of the tab');
    fill({ maxTokens: 3 });
    send('Hello');
    await idle();
    ok($('trouble').hidden, $('what').textContent);
    equal(turns(), 1, 'turns');
    ok($('note').textContent.includes('A reload forgets the conversation.'), $('note').textContent);
    await until(() => /^no: /.test($('kept').textContent), `what is kept: ${$('kept').textContent}`);
    return $('note').textContent;
  });

await load();
if (window.frameElement) {
  for (const [width, height] of SIZES) await geometry(width, height);
  await conversation();
} else await blocked();
await post('report', { done: true });
