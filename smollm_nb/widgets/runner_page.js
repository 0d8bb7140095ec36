// The page that `save_html` writes: the widget's traits are in the page, and nobody listens.
// `view` is runner.js, pasted in front.
const traits = JSON.parse(document.getElementById("traits").textContent);
const heard = new Map();
const model = {
  get: (name) => traits[name],
  set(name, value) {
    traits[name] = value;
    heard.get(`change:${name}`)?.forEach((f) => f());
  },
  save_changes() {},
  on: (event, f) => heard.set(event, (heard.get(event) ?? new Set()).add(f)),
  off: (event, f) => heard.get(event)?.delete(f),
};
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => {
  document.documentElement.dataset.jpThemeLight = String(!dark.matches);
};
follow();
dark.addEventListener("change", follow);
const { initialize, render: show } = view();
initialize({ model });
show({ model, el: document.getElementById("view") });
