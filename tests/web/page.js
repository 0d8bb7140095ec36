/**
 * Sits in the page itself (the server appends it to app.js) and uses it as a person would. Its steps outlive reloads in
 * sessionStorage.
 */
import { check, equal, ok, post, until } from './check.js';

const $ = (id) => document.getElementById(id);
const violations = [];
document.addEventListener('securitypolicyviolation', (e) => violations.push(`${e.violatedDirective} ${e.blockedURI}`));
const step = sessionStorage.getItem('step') ?? 'first';
sessionStorage.setItem('reloads', String(Number(sessionStorage.getItem('reloads') ?? -1) + 1));

async function send(text) {
  $('prompt').value = text;
  $('prompt').dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', bubbles: true, cancelable: true }));
  await until(working, 'the page to work');
}
/** Fill in fields as a person does: the page hears of it. @param {Record<string, any>} values by id */
function fill(values) {
  for (const [id, value] of Object.entries(values)) {
    $(id).value = value;
    for (const event of ['input', 'change']) $(id).dispatchEvent(new Event(event, { bubbles: true }));
  }
}
const working = () => document.body.classList.contains('answering');
const idle = () => until(() => !working(), 'the answer');
const messages = (kind) => [...document.querySelectorAll(`.message.${kind}`)].map((e) => e.textContent);

async function first() {
  await until(() => !$('load').disabled || $('gate').hidden, 'the offer');
  await check('isolated by the service worker, with one reload', async () => {
    const reloads = Number(sessionStorage.getItem('reloads'));
    ok(crossOriginIsolated && reloads === 1, `isolated: ${crossOriginIsolated}, reloads: ${reloads}`);
  });
  await check('what a load takes is said before', async () => {
    ok(/Fetches .* MB; takes about \d+ MB of memory/.test($('offer').textContent), $('offer').textContent);
    ok($('memory').textContent.includes('predicted'), $('memory').textContent);
  });
  await check('a chat of two turns', async () => {
    fill({ temperature: 0.8, seed: 5, maxTokens: 24, topK: 20, repetitionPenalty: 1 });
    await send('Hello <b>you</b>'); // loads the model first
    await idle();
    ok($('trouble').hidden, $('what').textContent);
    await send('And now?');
    await idle();
    equal(messages('user'), ['Hello <b>you</b>', 'And now?'], 'messages');
    equal(messages('assistant').length, 2, 'answers');
    equal(document.querySelectorAll('#log b').length, 0, 'HTML in the log');
    ok(/, [1-9]\d* known/.test($('prefill').textContent), $('prefill').textContent);
    ok(/^Answer|^No answer/.test($('say').textContent), 'the answer is announced');
  });
  await check('figures and chart', async () => {
    ok(/tokens\/s/.test($('rate').textContent) && /\d ms/.test($('ttft').textContent), $('rate').textContent);
    const chart = $('chart');
    ok(chart.querySelectorAll('rect').length > 5 && / ms/.test(chart.textContent), 'the chart');
    ok(/median/.test(chart.getAttribute('aria-label')), 'the chart in words');
    ok(/threads|one thread/.test($('engine').textContent), $('engine').textContent);
  });
  await check('stopped by Escape', async () => {
    document.querySelector('[value=text]').click();
    fill({ maxTokens: 200, seed: 3 });
    await send('Once upon a time');
    await until(() => messages('text')[0]?.length > 30, 'some text');
    document.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape', bubbles: true }));
    await idle();
    ok(messages('text')[0].startsWith('Once upon a time'), messages('text')[0]);
    return messages('text')[0].endsWith('stopped') ? 'stopped' : 'it was done before';
  });
  await check('painted ten times a second', async () => {
    let paintings = 0;
    const seen = new MutationObserver(() => {
      paintings++;
    });
    const begin = performance.now();
    seen.observe($('chart'), { childList: true });
    await send('Once upon a time');
    await idle();
    seen.disconnect();
    const ms = performance.now() - begin;
    const most = 3 + ms / 100; // the first, the last and the finished chart besides
    ok(paintings > 0 && paintings <= most, `${paintings} paintings in ${ms} ms`);
    return `${paintings} paintings in ${ms.toFixed(0)} ms`;
  });
  await check('what is wrong is shown, and the text comes back', async () => {
    fill({ topP: 7 });
    $('prompt').value = 'again';
    $('composer').requestSubmit();
    await until(() => !$('trouble').hidden, 'the trouble');
    ok(/Top-p must be a number from 0 to 1/.test($('what').textContent), $('what').textContent);
    equal(document.activeElement?.id, 'topP', 'the field that has the focus');
    equal($('prompt').value, 'again', 'the text');
    fill({ topP: 0.9 });
  });
  await check('narrow and accessible', async () => {
    ok(document.documentElement.scrollWidth <= innerWidth, 'nothing sticks out');
    for (const e of document.querySelectorAll('input, textarea, select, button, progress')) {
      ok(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label'), `${e.id || e.name} has no name`);
    }
  });
  await check('no rule of the policy is broken', async () => equal(violations, [], 'violations'));
  sessionStorage.setItem('step', 'back');
  location.href = '/tests/away.html';
}

async function back() {
  await check('back and forward', async () => {
    await until(() => $('gate').hidden, 'the model from the cache');
    await send('Once upon a time');
    await idle();
    ok($('trouble').hidden, $('what').textContent);
  });
  sessionStorage.setItem('step', 'offline');
  await post('report', { kill: true }); // the server goes away now
  await until(
    () =>
      fetch('/report', { cache: 'no-store' }).then(
        () => false,
        () => true,
      ),
    'the end of the server',
  );
  location.reload();
}

async function offline() {
  await until(() => $('gate').hidden || !$('trouble').hidden, 'the model without a server');
  const early = $('what').textContent;
  await send('Once upon a time');
  await idle();
  const said = {
    text: document.querySelector('.turn:last-child .more, .turn:last-child .prose').textContent,
    trouble: early + $('what').textContent,
    isolated: crossOriginIsolated,
    engine: $('engine').textContent,
  };
  // the policy lets no request go there, but a person may
  location.href = `${sessionStorage.getItem('other')}say?${encodeURIComponent(JSON.stringify(said))}`;
}

window.addEventListener('pageshow', (e) => {
  if (e.persisted) back();
});
const other = new URLSearchParams(location.search).get('other');
if (other) sessionStorage.setItem('other', other);
await { first, back, offline }[step]();
