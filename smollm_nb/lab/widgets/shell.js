// What every view has around its drawing: status, progress and error; the end of its kernel; keys and focus.
import { h } from "./common.js";

const AGAIN = "run the cell again";
// by the kernel's status
const GONE = {
  restarting: "the kernel was restarted",
  autorestarting: "the kernel was restarted", // by itself, after it had died
  dead: "the kernel died",
  terminating: "the kernel was shut down",
  terminated: "the kernel was shut down",
};

/**
 * Calls `lost` once, with the reason, when the kernel that made a widget is gone; returns what ends the watch.
 * JupyterLab tells the models of a restart; of a kernel that died or was shut down only its session knows.
 */
export function watchKernel(model, el, lost) {
  const session = model.widget_manager?.context?.sessionContext;
  const cut = () => Boolean(el.closest(".jupyter-widgets-disconnected"));
  let why = "";
  const report = (reason) => {
    if (why || !reason) return;
    why = reason;
    lost(`${reason}: ${AGAIN}`);
  };
  const live = () => cut() && report("the kernel was restarted");
  const status = (_, now) => report(GONE[now]);
  const changed = (_, { oldValue, newValue }) => {
    if (oldValue && oldValue.id !== newValue?.id) report(`the kernel was ${newValue ? "changed" : "shut down"}`);
  };
  model.on("comm_live_update", live);
  session?.statusChanged?.connect(status);
  session?.kernelChanged?.connect(changed);
  const first = requestAnimationFrame(() => cut() && report("this view was saved without its kernel")); // once placed
  return () => {
    cancelAnimationFrame(first);
    model.off("comm_live_update", live);
    session?.statusChanged?.disconnect(status);
    session?.kernelChanged?.disconnect(changed);
  };
}

const CONTROLS = "button, input, select, textarea";

/** The controls of ipywidgets above a box, for good. */
function switchOff(el) {
  const panel = el.closest(".lab-panel");
  if (!panel) return;
  for (const part of panel.querySelectorAll(CONTROLS)) {
    if (!el.contains(part)) part.disabled = true;
  }
  for (const part of panel.querySelectorAll(".widget-inline-hbox")) part.inert = true; // sliders are no form controls
}

/** Ipywidgets gives no name to the handle of a slider, nor to its number, which can be written into. */
function nameSliders(panel) {
  for (const part of panel?.querySelectorAll(":is(.noUi-handle, .widget-readout):not([aria-label])") ?? []) {
    const name = part.closest(".widget-hslider").querySelector(".widget-label").textContent;
    const number = part.classList.contains("widget-readout");
    if (number) part.setAttribute("role", "textbox");
    part.setAttribute("aria-label", number ? `${name}, as a number` : name);
  }
}

/**
 * A plain key is meant for the control that has the focus, not for the notebook around it. A button that is
 * disabled while it has the focus would leave the next key to the notebook, so its neighbour takes the focus.
 */
function keepKeys(panel) {
  let last = null;
  let byKey = false;
  const key = (e) => {
    byKey = true;
    if (!e.ctrlKey && !e.metaKey && !e.altKey && !e.shiftKey && e.key !== "Tab" && e.key !== "Escape")
      e.stopPropagation();
  };
  const focus = (e) => {
    last = e.target;
  };
  const point = () => {
    byKey = false;
  };
  const refocus = () => {
    const free = document.activeElement === document.body || document.activeElement === last;
    if (!byKey || !free || !last?.isConnected || !last.disabled) return;
    last.parentElement.querySelector("button:enabled")?.focus();
  };
  const seen = new MutationObserver(refocus);
  panel.addEventListener("keydown", key);
  panel.addEventListener("focusin", focus);
  panel.addEventListener("pointerdown", point);
  seen.observe(panel, { attributes: true, attributeFilter: ["disabled"], subtree: true });
  return () => {
    panel.removeEventListener("keydown", key);
    panel.removeEventListener("focusin", focus);
    panel.removeEventListener("pointerdown", point);
    seen.disconnect();
  };
}

/** The saved form of a view is for pages without the live one. */
function hideSaved(key) {
  const id = `lab-live-${key}`;
  const saved = `.lab-saved[data-of="${key}"]`;
  if (!key || document.getElementById(id)) return;
  document.head.append(h("style", { id }, `${saved}, .jp-OutputArea-child:has(${saved}) { display: none; }`));
}

/**
 * The frame of a view: `head` and `error` to be placed, and `lost`, why there is no kernel any more, or "". `onLost` is
 * called once when that happens, `onUpdate` whenever there is something new to say; it calls `say`. `close` removes
 * every listener.
 */
export function shell({ model, el }, { onLost = () => {}, onUpdate = null } = {}) {
  const status = h("div", { class: "lab-status", role: "status", "aria-live": "polite" });
  const bar = h("progress", { class: "lab-progress", max: "1", "aria-label": "progress" });
  const error = h("div", { class: "lab-error", role: "alert" });
  const frame = { head: h("div", { class: "lab-head" }, status, bar), error, lost: "" };
  const watched = ["status", "error", "busy", "progress"].map((name) => `change:${name}`);
  const update = onUpdate ?? (() => frame.say());
  for (const event of watched) model.on(event, update);
  const unwatch = watchKernel(model, el, (why) => {
    frame.lost = why;
    onLost(why);
    switchOff(el);
    update();
  });
  let release = () => {};
  const placed = requestAnimationFrame(() => {
    // once it is in the page
    release = keepKeys(el.closest(".lab-panel") ?? el);
    nameSliders(el.closest(".lab-panel"));
  });
  el.classList.add("lab");
  hideSaved(model.get("key"));

  /** Show status, progress and error: the model's own, or those that the page has in their place. */
  frame.say = (own = {}) => {
    const busy = own.busy ?? (model.get("busy") && !frame.lost);
    const progress = own.progress ?? model.get("progress");
    status.textContent = own.status ?? (frame.lost || model.get("status"));
    error.textContent = own.error ?? model.get("error");
    error.hidden = !error.textContent;
    bar.hidden = !busy || progress < 0; // one without a value moves, and takes the time of tokens
    bar.value = Math.max(0, progress);
    nameSliders(el.closest(".lab-panel"));
    el.classList.toggle("lab-busy", Boolean(busy));
    el.classList.toggle("lab-lost", Boolean(frame.lost) && status.textContent === frame.lost);
  };
  frame.close = () => {
    for (const event of watched) model.off(event, update);
    unwatch();
    cancelAnimationFrame(placed);
    release();
  };
  return frame;
}
