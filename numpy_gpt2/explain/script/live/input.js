// The input line: tokens while typing, the model, and steps to the next token and back.
import { at, DATA, embedded, piece } from "../data.js";
import { $, element, span } from "../elements.js";
import { quantity } from "../numbers.js";
import { settled } from "../sampling.js";
import { choose, chosen, follow, OPENING, READ } from "../state.js";
import { newest } from "./connection.js";

const PAUSE = 20; // milliseconds without a key, after which the page follows
export const SETTINGS = embedded();

// These choices are what the server is asked about. `taken` are the tokens that steps have added to the prompt: their
// ids, with spaces between them.
Object.assign(OPENING, { model: SETTINGS.model, prompt: SETTINGS.prompt, taken: "" });
READ.model = (text) => text;
READ.prompt = (text) => text;
READ.taken = (text) => (/^\d+( \d+)*$/.test(text) ? text : "");
export const takenIds = () => chosen.taken.split(" ").filter(Boolean).map(Number);

let typing; // the timer of a pause
let asking = false; // the first part of an answer is awaited
const waiting = () => asking || typing !== undefined;

// While an answer is awaited, its candidates are not known, so nothing can be taken.
function drawButtons() {
  $("live").setAttribute("aria-busy", waiting());
  for (const id of ["step", "sample", "back"]) {
    $(id).setAttribute("aria-disabled", waiting() || (id === "back" && chosen.taken === ""));
  }
}

export function setAsking(now) {
  asking = now;
  drawButtons();
}

export function say(message, failed = false) {
  $("status").textContent = message;
  $("status").classList.toggle("failed", failed);
}

// The last tokens of the text. `nTaken` of them were added by steps.
function drawTyped(tokens, n, pieces, nTaken = 0) {
  const first = tokens.length - nTaken;
  const spans = tokens.map((id, i) => span(i < first ? "piece" : "piece taken", pieces[id]));
  $("typed").replaceChildren(...(n > tokens.length ? ["… "] : []), ...spans);
}

const askForTokens = newest(
  "tokens",
  ({ tokens, n_prompt, pieces }) => {
    drawTyped(tokens, n_prompt, pieces);
    say(quantity(n_prompt, "token"));
  },
  (message) => say(message, true),
);

function type() {
  askForTokens({ model: chosen.model, prompt: $("text").value });
  clearTimeout(typing);
  typing = setTimeout(useText, PAUSE);
  drawButtons();
}

function useText() {
  clearTimeout(typing);
  typing = undefined;
  choose({ prompt: $("text").value, taken: "" });
  drawButtons();
}

// A choice that the browser's button "Back" undoes.
function chooseAnew(choice) {
  if (waiting()) return;
  history.pushState(null, "", location.href);
  choose(choice);
}

const takeToken = (id) => chooseAnew({ taken: [...takenIds(), id].join(" ") });

// A place among the candidates, with the probabilities that the sliders show.
function sampled() {
  const { p } = settled();
  let rest = Math.random();
  for (let i = 0; i < p.length; i++) {
    rest -= p[i];
    if (rest < 0) return i;
  }
  return 0; // the sum of all p was rounded
}

function takeSample() {
  if (waiting()) return;
  const i = sampled();
  const listed = at("next.tokens").length;
  takeToken(i < listed ? at("next.tokens", i) : at("next.rest", i - listed));
}

const takeBest = () => waiting() || takeToken(at("next.tokens", 0));
const stepBack = () => chosen.taken && chooseAnew({ taken: takenIds().slice(0, -1).join(" ") });

function stepByKey(event) {
  if (event.key !== "Enter" || !event.ctrlKey) return;
  event.preventDefault();
  if (event.shiftKey) stepBack();
  else takeBest();
}

function takeClicked(event) {
  const row = event.target.closest("tr[data-token]");
  if (row) takeToken(Number(row.dataset.token));
}

// What the answer says about the text.
export function drawText() {
  setAsking(false);
  if (typing === undefined && $("text").value !== DATA.typed) $("text").value = DATA.typed;
  drawTyped(DATA.tokens, DATA.n_prompt, DATA.pieces, Math.min(takenIds().length, DATA.tokens.length));
  say(`${quantity(DATA.n_prompt, "token")}; the best next one is ${piece(at("next.tokens", 0))}`);
}

export function drawModel() {
  $("model").value = chosen.model;
}

$("model").replaceChildren(...SETTINGS.models.map((name) => element("option", { value: name }, name)));
$("model").addEventListener("change", () => {
  clearTimeout(typing);
  typing = undefined;
  history.pushState(null, "", location.href);
  choose({ model: $("model").value, prompt: $("text").value, taken: "" });
});
$("text").addEventListener("input", type);
$("text").addEventListener("change", () => typing === undefined || useText());
$("live").addEventListener("submit", (event) => event.preventDefault());
$("step").addEventListener("click", takeBest);
$("sample").addEventListener("click", takeSample);
$("back").addEventListener("click", stepBack);
$("next-table").addEventListener("click", takeClicked);
$("best-table").addEventListener("click", takeClicked);
document.addEventListener("keydown", stepByKey);
follow(["model"], drawModel);
