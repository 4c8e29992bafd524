// The input line: tokens while typing, the model, and steps to the next token and back.
import { at, DATA, embedded, piece, sum } from "../data.js";
import { $, element, span } from "../elements.js";
import { quantity } from "../numbers.js";
import { settled } from "../sampling.js";
import { choose, chooseInHistory, chosen, follow, OPENING, READ } from "../state.js";
import { newest } from "./connection.js";

const PAUSE = 20; // milliseconds without a key, after which the page follows
export const SETTINGS = embedded();

// These choices are what the server is asked about. `taken` are the tokens that steps have added to the prompt: their
// ids, with spaces between them. `target` is a token id, or "" for the best token. `picks` is what a click on a candidate does.
Object.assign(OPENING, { model: SETTINGS.model, prompt: SETTINGS.prompt, taken: "", target: "", picks: "take" });
READ.model = (text) => text;
READ.prompt = (text) => text;
READ.taken = (text) => (/^\d+( \d+)*$/.test(text) ? text : "");
READ.target = (text) => (/^\d+$/.test(text) ? text : "");
READ.picks = (text) => (text === "explain" ? "explain" : "take");
export const takenIds = () => chosen.taken.split(" ").filter(Boolean).map(Number);

let typing; // the timer of a pause
let asking = false; // the first part of an answer is awaited
let answered = false; // the page shows the answer, and not an older one because of an error
const waiting = () => asking || typing !== undefined;
export const isAnswered = () => answered && !waiting();

// While an answer is awaited, its candidates are not known, so nothing can be taken.
function drawButtons() {
  $("live").setAttribute("aria-busy", waiting());
  for (const id of ["step", "sample"]) $(id).setAttribute("aria-disabled", !isAnswered());
  $("back").setAttribute("aria-disabled", waiting() || chosen.taken === "");
}

export function setAsking(now) {
  asking = now;
  answered = false;
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
  const target = asking || answered ? chosen.target : ""; // it may be what caused an error
  choose({ prompt: $("text").value, taken: "", target });
  drawButtons();
}

export function chooseAnew(choice) {
  if (!waiting()) chooseInHistory(choice);
}

function takeToken(id) {
  if (!isAnswered()) return;
  if (DATA.unused.includes(id)) say(`The model has no token ${id}: it is an unused row of its table.`, true);
  else chooseAnew({ taken: [...takenIds(), id].join(" ") });
}

// The id of a place among the candidates.
function candidate(i) {
  const listed = at("next.tokens").length;
  return i < listed ? at("next.tokens", i) : at("next.rest", i - listed);
}

// A candidate, with the probabilities that the sliders show. Rows without a token are never drawn.
function sampled() {
  const unused = new Set(DATA.unused);
  const p = settled().p.map((share, i) => (unused.has(candidate(i)) ? 0 : share));
  let rest = Math.random() * sum(p);
  const i = p.findIndex((share) => {
    rest -= share;
    return rest < 0;
  });
  return candidate(i < 0 ? 0 : i); // the sum of all p was rounded, or only unused rows remain
}

const best = () => Array.from(at("next.tokens")).find((id) => !DATA.unused.includes(id));
const takeSample = () => isAnswered() && takeToken(sampled());
const takeBest = () => isAnswered() && takeToken(best());
const stepBack = () => chosen.taken && chooseAnew({ taken: takenIds().slice(0, -1).join(" ") });

function stepByKey(event) {
  if (event.key !== "Enter" || !event.ctrlKey) return;
  event.preventDefault();
  if (event.shiftKey) stepBack();
  else takeBest();
}

function takeClicked(event) {
  const row = event.target.closest("tr[data-token]");
  if (row && chosen.picks === "take") takeToken(Number(row.dataset.token));
}

// What the answer says about the text.
export function drawText() {
  asking = false;
  answered = true;
  drawButtons();
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
  chooseInHistory({ model: $("model").value, prompt: $("text").value, taken: "", target: "" });
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
