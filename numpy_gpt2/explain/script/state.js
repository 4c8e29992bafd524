// What the reader has chosen. A change redraws only what depends on it, and the address keeps it for links.
import { at, clamp, D, DATA, H, has, L, largest, range, T, weightsOf } from "./data.js";

// The head with the largest effect on the target: by its removal, or else by what it adds to the target's logit.
function mostInteresting() {
  const effects = has("ablation.heads")
    ? at("ablation.heads")
    : range(L * H).map((i) => at("direct.heads")[i * T + T - 1]);
  const sizes = Array.from(effects, Math.abs);
  const best = sizes.indexOf(largest(sizes));
  const [layer, head] = [Math.floor(best / H), best % H];
  const weights = weightsOf(layer, head, T - 1);
  return { layer, head, key: weights.indexOf(largest(weights)) };
}

// (query, key) is the pinned cell of the attention map, (row, position) that of the lens, where row L is the output.
const opening = () => ({
  ...mostInteresting(),
  position: T - 1,
  query: T - 1,
  channel: 0,
  row: L,
  objective: T - 1,
  view: "pattern",
  kind: "logit",
  norm: "ln_1",
  temperature: 1,
  topK: 0,
  topP: 1,
  more: false,
  code: true,
  step: "",
});
export const chosen = {};
export let OPENING = {};
export const READ = {}; // more choices: by their name, a function of their text in the address

const counts = () => ({
  layer: L,
  head: H,
  position: T,
  query: T,
  key: T,
  channel: D,
  row: L + 1,
  objective: T,
  topK: DATA?.most_candidates + 1,
});
const WORDS = {
  view: ["pattern", "scores"],
  kind: ["logit", "length", "previous", "first", "duplicate", "induction"],
  norm: ["ln_1", "ln_2"],
};

// The choice that an address holds, such as #layer=3&head=2. Parts that make no sense are left out.
function choiceOf(hash) {
  const choice = {};
  const COUNTS = counts();
  for (const [name, text] of new URLSearchParams(hash.slice(1))) {
    if (name in Object.prototype) continue; // a name of every object
    const x = Number(text);
    if (name in READ) choice[name] = READ[name](text);
    else if (name in COUNTS && Number.isInteger(x) && clamp(x, COUNTS[name]) === x) choice[name] = x;
    else if (WORDS[name]?.includes(text)) choice[name] = text;
    else if (name === "temperature" && x >= 0 && x <= 2) choice[name] = x;
    else if (name === "topP" && x > 0 && x <= 1) choice[name] = x;
    else if (typeof OPENING[name] === "boolean") choice[name] = text === "true";
    else if (name === "step" && document.getElementById(text)?.matches("section, h3")) choice[name] = text;
  }
  return choice;
}

const followers = [];

// Call `draw` whenever one of these properties has changed. "theme" and "width" are those of the window.
// Nothing is drawn while `exists` returns false.
export function follow(properties, draw, exists = () => true) {
  followers.push({ properties, draw, exists });
}

export function redraw(changed) {
  const isChanged = (name) => changed.includes(name);
  for (const { properties, draw, exists } of followers) if (properties.some(isChanged) && exists()) draw();
}

function change(choice) {
  const changed = Object.keys(choice).filter((name) => chosen[name] !== choice[name]);
  Object.assign(chosen, choice);
  redraw(changed);
  return changed;
}

// A new position is also the query of the attention map.
export function choose(choice) {
  const complete = "position" in choice ? { query: choice.position, key: Math.min(chosen.key, choice.position) } : {};
  if (change({ ...complete, ...choice }).length > 0) writeAddress();
}

export function goTo(step) {
  document.getElementById(step).scrollIntoView();
  choose({ step });
}

// In a notebook's frame, the address is the notebook's.
const framed = location.protocol === "about:";

// A head is one of a block: the address has both, or none.
const isDifferent = (name) => chosen[name] !== OPENING[name];
const isHead = (name) => (name === "layer" || name === "head") && (isDifferent("layer") || isDifferent("head"));

// Browsers refuse more than 100 changes of the address in 30 seconds, and a slider makes 60 a second. So the address is
// written after a pause. Until then, `address` is what it will be.
const ADDRESS_PAUSE = 400; // milliseconds
let address = location.hash;
let written = -ADDRESS_PAUSE;
let writing; // the timer of the pause

function useAddress() {
  clearTimeout(writing);
  writing = undefined;
  written = performance.now();
  history.replaceState(null, "", address || location.href);
}

function writeAddress() {
  if (framed) return;
  const different = Object.entries(chosen).filter(([name]) => isDifferent(name) || isHead(name));
  address = `#${new URLSearchParams(different)}`;
  const pause = written + ADDRESS_PAUSE - performance.now();
  if (pause <= 0) useAddress();
  else writing ??= setTimeout(useAddress, pause);
}

// Make a choice that the browser's button "Back" undoes.
export function chooseInHistory(choice) {
  if (writing) useAddress();
  history.pushState(null, "", location.href);
  choose(choice);
  if (writing) useAddress();
}

export const inAddress = () => ({ ...OPENING, ...(framed ? {} : choiceOf(address)) });

// Draw everything. Choices that the address holds are kept, and the others are made anew for the data.
export function renew() {
  OPENING = { ...OPENING, ...opening() };
  Object.assign(chosen, inAddress());
  redraw([...Object.keys(chosen).filter((name) => !(name in READ)), "data", "theme"]);
}

const goToChosen = () => chosen.step && document.getElementById(chosen.step).scrollIntoView();

// Draw everything for the first time, and follow the address from then on.
export function start() {
  renew();
  goToChosen();
  if (framed) return;
  addEventListener("hashchange", () => {
    clearTimeout(writing);
    writing = undefined;
    address = location.hash;
    change(inAddress());
    goToChosen();
  });
}
