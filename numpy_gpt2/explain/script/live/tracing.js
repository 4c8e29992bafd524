// Causal tracing: a map of blocks × positions that grows row by row while the server computes it.
import { L, token } from "../data.js";
import { $, legend, painted, signColor } from "../elements.js";
import { fixed, percent } from "../numbers.js";
import { follow } from "../state.js";
import { newest } from "./connection.js";
import { drawCells, patch, question } from "./second.js";

let traced = ""; // what the map belongs to
let traceRows = [];
let traceAnswer; // the first object: the answer, and its probability after each prompt

// The part of a question that the map depends on.
const traceSubject = () => ({ ...question(), target: null, interventions: [] });

function useRow(part) {
  if (JSON.stringify(traceSubject()) !== traced) return;
  if (part.ends) traceAnswer = part;
  else traceRows.push({ name: `before h.${traceRows.length}`, values: part.row });
  $("tracing-progress").value = traceRows.length / L;
  $("tracing-progress").hidden = traceRows.length === L;
  drawTracing();
}

function failTrace(message) {
  $("tracing-progress").hidden = true;
  $("tracing-output").textContent = message;
}

const askForTrace = newest("trace", useRow, failTrace);

function trace() {
  clearTrace();
  traced = JSON.stringify(traceSubject());
  $("tracing-progress").hidden = false;
  askForTrace(traceSubject());
}

function drawTracing() {
  const { answer: text, ends } = traceAnswer;
  $("tracing-output").textContent =
    `The answer of the second prompt is ${text}: p = ${percent(ends[1])} there, and ${percent(ends[0])} after the ` +
    "first prompt.";
  if (traceRows.length === 0) return;
  const [without, whole] = ends;
  const most = Math.max(
    ...[whole, ...traceRows.flatMap(({ values }) => values)].map((p) => Math.abs(p - without)),
    1e-9,
  );
  const back = (p) =>
    whole === without ? "" : `, ${fixed((100 * (p - without)) / (whole - without), 0)} % of the difference`;
  drawCells("tracing-table", "Causal tracing", traceRows, (p, layer, t) => ({
    style: painted(signColor((p - without) / most)),
    "data-tip": `${token(t)} before block ${layer}, from the second prompt\np(${text}) = ${percent(p)}${back(p)}`,
    onclick: () => patch(`h.${layer}.resid_pre`, t, t),
  }));
  $("tracing-scale").hidden = false;
  legend("tracing-legend", percent(without - most), percent(without + most), (share) => signColor(2 * share - 1));
}

// The map belongs to both prompts. When one of them changes, it is cleared.
function clearTrace() {
  askForTrace.cancel();
  traced = "";
  traceRows = [];
  $("tracing-progress").value = 0;
  for (const id of ["tracing-progress", "tracing-scale"]) $(id).hidden = true;
  $("tracing-table").replaceChildren();
  $("tracing-output").textContent = "";
}

function followPrompts() {
  if (traced && traced !== JSON.stringify(traceSubject())) clearTrace();
  else if (traceRows.length > 0) drawTracing();
}

$("tracing-start").addEventListener("click", trace);
follow(["data", "second", "theme"], followPrompts);
