// The page that `save_html` writes: the widget's traits are in the page, and no kernel reads them.
// `view` is runner.js, pasted in front.
const traits = JSON.parse(document.getElementById("traits").textContent);
const listeners = new Map();
const model = {
  get: (name) => traits[name],
  set(name, value) {
    traits[name] = value;
    listeners.get(`change:${name}`)?.forEach((f) => f());
  },
  save_changes() {},
  on: (event, f) => listeners.set(event, (listeners.get(event) ?? new Set()).add(f)),
  off: (event, f) => listeners.get(event)?.delete(f),
};
const dark = matchMedia("(prefers-color-scheme: dark)");
const setTheme = () => {
  document.documentElement.dataset.jpThemeLight = String(!dark.matches);
};
setTheme();
dark.addEventListener("change", setTheme);
const { initialize, render: show } = view();
initialize({ model });
show({ model, el: document.getElementById("view") });
