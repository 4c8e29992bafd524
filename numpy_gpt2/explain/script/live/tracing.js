// Causal tracing: a map of blocks × positions that grows row by row while the server computes it.
import { L, token } from "../data.js";
import { $, legend, painted, ramp } from "../elements.js";
import { percent } from "../numbers.js";
import { follow } from "../state.js";
import { newest } from "./connection.js";
import { drawCells, patch, question } from "./second.js";

let traced = ""; // what the map belongs to
let traceRows = [];
let traceAnswer; // the first object: the answer, and its probability after each prompt

// The part of a question that the map depends on.
const traceSubject = () => ({ ...question(), interventions: [] });

function useRow(part) {
  if (JSON.stringify(traceSubject()) !== traced) return;
  if (part.ends) traceAnswer = part;
  else traceRows.push({ name: `before h.${traceRows.length}`, values: part.row });
  $("trace-progress").value = traceRows.length / L;
  $("trace-progress").hidden = traceRows.length === L;
  drawTracing();
}

function failTrace(message) {
  $("trace-progress").hidden = true;
  $("trace-output").textContent = message;
}

const askForTrace = newest("trace", useRow, failTrace);

function trace() {
  clearTrace();
  traced = JSON.stringify(traceSubject());
  $("trace-progress").hidden = false;
  askForTrace(traceSubject());
}

function drawTracing() {
  const { answer: text, ends } = traceAnswer;
  $("trace-output").textContent =
    `The answer of the second prompt is ${text}: p = ${percent(ends[1])} there, and ${percent(ends[0])} after the ` +
    "first prompt.";
  if (traceRows.length === 0) return;
  const most = Math.max(...ends, ...traceRows.flatMap(({ values }) => values));
  drawCells("trace-table", "Causal tracing", traceRows, (p, layer, t) => ({
    style: painted(ramp("blue", p / most)),
    "data-tip": `${token(t)} before block ${layer}, from the second prompt\np(${text}) = ${percent(p)}`,
    onclick: () => patch(`h.${layer}.resid_pre`, t, t),
  }));
  $("trace-scale").hidden = false;
  legend("trace-legend", "0 %", percent(most), (share) => ramp("blue", share));
}

// The map belongs to both prompts. When one of them changes, it is cleared.
function clearTrace() {
  traced = "";
  traceRows = [];
  $("trace-progress").value = 0;
  for (const id of ["trace-progress", "trace-scale"]) $(id).hidden = true;
  $("trace-table").replaceChildren();
  $("trace-output").textContent = "";
}

function followPrompts() {
  if (traced && traced !== JSON.stringify(traceSubject())) clearTrace();
  else if (traceRows.length > 0) drawTracing();
}

$("trace").addEventListener("click", trace);
follow(["data", "second", "theme"], followPrompts);
