/**
 * Does what a notebook does with a widget: its script becomes a blob, its traits belong to another side. Then clicks,
 * and reports.
 */
const traits = {
  path: 'a b/bundle',
  url: '',
  plain: false,
  prompt: 'Hello there',
  chat: false,
  max_tokens: 12,
  temperature: 0,
  seed: 0,
  protocol: { prompt: 16, tokens: 8, repeats: 2 },
  native: [],
  measured: [],
  machine: '',
  status: '',
  error: '',
  progress: -1,
};
const model = {
  get: (name) => traits[name],
  set: (name, value) => {
    traits[name] = value;
  },
  save_changes() {},
  on() {},
  off() {},
};

const text = (selector) => document.querySelector(selector)?.textContent ?? '';
async function status(pattern) {
  const end = Date.now() + 120000;
  const pending = () => !pattern.test(text('.lab-status')) && !text('.lab-error[role=alert]');
  while (Date.now() < end && pending()) await new Promise((resolve) => setTimeout(resolve, 50));
}
const press = (name) => [...document.querySelectorAll('button')].find((b) => b.textContent === name).click();

try {
  const script = await (await fetch('widget.js')).blob();
  const view = (await import(URL.createObjectURL(new Blob([script], { type: 'text/javascript' })))).default();
  view.initialize({ model });
  view.render({ model, el: document.getElementById('view') });
  await status(/^Generate loads/);
  press('Generate');
  await status(/tokens: /);
  const answer = text('.lab-answer');
  press('Measure');
  await status(/^measured/);
  await fetch('report', {
    method: 'POST',
    body: JSON.stringify({
      answer,
      about: text('.lab-legend'),
      error: text('.lab-error[role=alert]'),
      measured: traits.measured,
    }),
  });
} catch (e) {
  await fetch('report', { method: 'POST', body: JSON.stringify({ error: `${e.name}: ${e.message}` }) });
}
