// Causal tracing: a map of blocks × positions that grows row by row while the server computes it.
import { L, token } from "../data.js";
import { $, legend, painted, ramp } from "../elements.js";
import { percent } from "../numbers.js";
import { follow } from "../state.js";
import { newest } from "./connection.js";
import { drawCells, patch, question } from "./second.js";

let traced = ""; // what the map belongs to
let rows = [];
let start;

// The part of a question that the map depends on.
const subject = () => ({ ...question(), interventions: [] });

function use(part) {
  if (JSON.stringify(subject()) !== traced) return;
  if (part.ends) start = part;
  else rows.push({ name: `before h.${rows.length}`, values: part.row });
  $("trace-progress").value = rows.length / L;
  $("trace-progress").hidden = rows.length === L;
  drawTrace();
}

function fail(message) {
  $("trace-progress").hidden = true;
  $("trace-output").textContent = message;
}

const askForTrace = newest("trace", use, fail);

function trace() {
  clear();
  traced = JSON.stringify(subject());
  $("trace-progress").hidden = false;
  askForTrace(subject());
}

function drawTrace() {
  const { answer, ends } = start;
  $("trace-output").textContent =
    `The answer of the second prompt is ${answer}: p = ${percent(ends[1])} there, and ${percent(ends[0])} after the ` +
    "first prompt.";
  if (rows.length === 0) return;
  const most = Math.max(...ends, ...rows.flatMap(({ values }) => values));
  drawCells("trace-table", "Causal tracing", rows, (p, layer, t) => ({
    style: painted(ramp("blue", p / most)),
    "data-tip": `${token(t)} before block ${layer}, from the second prompt\np(${answer}) = ${percent(p)}`,
    onclick: () => patch(`h.${layer}.resid_pre`, t, t),
  }));
  $("trace-scale").hidden = false;
  legend("trace-legend", "0 %", percent(most), (share) => ramp("blue", share));
}

// The map belongs to both prompts. When one of them changes, it is cleared.
function clear() {
  traced = "";
  rows = [];
  $("trace-progress").value = 0;
  for (const id of ["trace-progress", "trace-scale"]) $(id).hidden = true;
  $("trace-table").replaceChildren();
  $("trace-output").textContent = "";
}

function follows() {
  if (traced && traced !== JSON.stringify(subject())) clear();
  else if (rows.length > 0) drawTrace();
}

$("trace").addEventListener("click", trace);
follow(["data", "second", "theme"], follows);
