// The last step: a second prompt beside the first one, and ways to patch its vectors into the first one.
import { at, DATA, H, has, L, largest, piece, positions, range, T, token, weightsOf } from "../data.js";
import {
  $,
  addStep,
  element,
  fillTable,
  legend,
  painted,
  ramp,
  reachable,
  signColor,
  td,
  th,
  tr,
  weightColor,
} from "../elements.js";
import { fixed, percent, show, signed } from "../numbers.js";
import { choose, chosen, follow, OPENING, READ } from "../state.js";
import { SETTINGS, takenIds } from "./input.js";
import { inForce, intervene } from "./interventions.js";

const SECOND_PAUSE = 150; // milliseconds without a key, after which the page follows

READ.second = (text) => text;
OPENING.second = "";

// What the server is asked.
export const question = () => ({
  model: chosen.model,
  prompt: chosen.prompt,
  taken: takenIds(),
  target: chosen.target === "" ? null : Number(chosen.target),
  second: chosen.second || null,
  interventions: inForce(),
});

const SECOND = "second.";
const length = () => at("second.tokens").length;
const secondToken = (position) => piece(at("second.tokens", position));
const shared = () => range(Math.min(T, length()));
const readName = (row) => (row === 0 ? "embeddings" : `after h.${row - 1}`);

function drawPresence() {
  if (document.activeElement !== $("second-prompt")) $("second-prompt").value = chosen.second;
  $("second-parts").hidden = !has("second.tokens");
  $("second-missing").hidden = has("second.tokens");
}

function drawBothTokens() {
  const rows = range(Math.max(T, length())).map((t) => {
    const [here, there] = [t < T, t < length()];
    const bits = (name, exists) => td(exists && t > 0 ? fixed(at(name, t), 2) : "");
    const both = here && there && t > 0;
    const difference = both ? signed(at("second.surprisal", t) - at("surprisal", t)) : "";
    const kind = here && there && DATA.tokens[t] === at("second.tokens", t) ? "piece" : "piece differs";
    return tr(
      td(t),
      td(here ? token(t) : "", kind),
      bits("surprisal", here),
      td(there ? secondToken(t) : "", kind),
      bits("second.surprisal", there),
      td(difference),
    );
  });
  fillTable("second-tokens", rows);
}

// A table of rows × positions, with a color and a tip in each cell.
export function drawCells(id, label, rows, cell) {
  const head = tr(th("read"), ...range(rows[0].values.length).map((t) => th(token(t))));
  const body = rows.map(({ name, values }, row) =>
    tr(th(name), ...Array.from(values, (value, t) => td("", "", cell(value, row, t)))),
  );
  reachable($(id), `${label}; the arrow keys move from cell to cell, Enter chooses one`, rows[0].values.length);
  $(id).replaceChildren(element("thead", {}, head), element("tbody", {}, ...body));
}

function drawDistance() {
  const n = shared().length;
  const values = at("second.distance");
  const most = Math.max(largest(values), 1e-6);
  const rows = range(L + 1).map((row) => ({ name: readName(row), values: values.subarray(row * n, (row + 1) * n) }));
  drawCells("distance-table", "Difference of the residual streams", rows, (value, row, t) => ({
    style: painted(ramp("blue", value / most)),
    "data-tip": `${readName(row)}, position ${t}: ${token(t)} and ${secondToken(t)}\n1 − cosine = ${show(value, 4)}`,
    onclick: () => choose({ row, position: t, layer: Math.max(row - 1, 0) }),
  }));
  legend("distance-legend", "0", show(most, 2), (share) => ramp("blue", share));
}

function drawLensDifference() {
  const n = shared().length;
  const values = at("second.lens.difference");
  const best = (prompt, row, t) =>
    `${piece(at(`${prompt}lens.tokens`, row, t, 0))} ${percent(at(`${prompt}lens.probabilities`, row, t, 0))}`;
  const rows = range(L + 1).map((row) => ({ name: readName(row), values: values.subarray(row * n, (row + 1) * n) }));
  drawCells("lens-difference-table", "Difference of the lenses", rows, (value, row, t) => ({
    style: painted(ramp("blue", value)),
    "data-tip":
      `${readName(row)}, position ${t}: ${token(t)} and ${secondToken(t)}\ndifference ${percent(value)}\n` +
      `best: ${best("", row, t)} and ${best(SECOND, row, t)}`,
    onclick: () => choose({ row, position: t, layer: Math.max(row - 1, 0) }),
  }));
  legend("lens-difference-legend", "0 %", "100 %", (share) => ramp("blue", share));
}

function drawSecondLens() {
  const position = Math.min(chosen.position, length() - 1);
  $("second-position").textContent = position;
  const best = (prompt, row) => {
    const id = at(`${prompt}lens.tokens`, row, position, 0);
    return [td(piece(id), "piece"), td(percent(at(`${prompt}lens.probabilities`, row, position, 0)))];
  };
  if (!has("lens.tokens")) return;
  fillTable(
    "second-lens",
    range(L + 1).map((row) => tr(td(readName(row), "soft"), ...best("", row), ...best(SECOND, row))),
  );
}

// ==== Attention maps: one pixel for each cell, enlarged by the browser

const weightIn = (prompt, query, key) => (key > query ? 0 : weightsOf(chosen.layer, chosen.head, query, prompt)[key]);

function paint(id, side, rowOf, color) {
  Object.assign($(id), { width: side, height: side });
  const context = $(id).getContext("2d");
  const image = context.createImageData(side, side);
  for (const query of range(side)) {
    rowOf(query).forEach((x, key) => {
      image.data.set([...color(x), 255], 4 * (query * side + key));
    });
  }
  context.putImageData(image, 0, 0);
}

function drawMaps() {
  const { layer, head } = chosen;
  const [first, second] = ["", SECOND].map((prompt) => (query) => weightsOf(layer, head, query, prompt));
  paint("map-first", T, first, weightColor);
  paint("map-second", length(), second, weightColor);
  const difference = (query) => second(query).map((x, key) => x - first(query)[key]);
  const most = Math.max(...shared().map((query) => largest(difference(query).map(Math.abs))), 1e-6);
  paint("map-difference", shared().length, difference, (x) => signColor(x / most));
  $("map-most-different").textContent = `up to ±${show(most, 2)}`;
}

function describeWeights() {
  const { layer, head, query, key } = chosen;
  const place = `Head ${head} of block ${layer}, query ${query}, key ${key}: weight ${fixed(weightIn("", query, key), 4)}`;
  const other = Math.max(query, key) < length() ? weightIn(SECOND, query, key) : undefined;
  $("second-output").textContent =
    other === undefined
      ? `${place}. The second prompt ends before.`
      : `${place}, and ${fixed(other, 4)} in the second prompt.`;
}

function chooseCell(event) {
  const box = event.target.getBoundingClientRect();
  const side = event.target.width;
  const query = Math.floor(((event.clientY - box.top) / box.height) * side);
  const key = Math.floor(((event.clientX - box.left) / box.width) * side);
  if (query < T && key < T) choose({ query, key });
}

// ==== Patches and directions

const options = (labels, prefix = "") =>
  labels.map((label, value) => element("option", { value }, `${prefix}${label}`));
const hasHeads = () => SETTINGS.head_vectors.some((name) => $("patch-name").value.endsWith(name));

function drawPatchHead() {
  $("patch-head").disabled = !hasHeads();
}

function drawPatch() {
  const names = [...SETTINGS.vectors.map((name) => `h.${chosen.layer}.${name}`), "embed", "ln_f"];
  const before = $("patch-name").selectedIndex;
  $("patch-name").replaceChildren(...names.map((name) => element("option", {}, name)));
  $("patch-name").selectedIndex = before < 0 ? 0 : before;
  const head = $("patch-head").selectedIndex;
  $("patch-head").replaceChildren(element("option", { value: "" }, "all heads"), ...options(range(H), "head "));
  $("patch-head").selectedIndex = head > 0 && head <= H ? head : 0;
  drawPatchHead();
  $("patch-position").replaceChildren(...options(positions.map((t) => `${t} ${token(t)}`)));
  $("patch-source").replaceChildren(...options(range(length()).map((t) => `${t} ${secondToken(t)}`)));
  $("patch-position").value = chosen.position;
  $("patch-source").value = Math.min(chosen.position, length() - 1);
  $("direction-layer").textContent = `h.${chosen.layer}`;
  $("add-direction-here").textContent = `Add at position ${chosen.position}`;
}

export const patch = (name, position, from, one = {}) => intervene({ kind: "patch", name, position, from, ...one });

function addPatch() {
  const one = hasHeads() && $("patch-head").value ? { head: Number($("patch-head").value) } : {};
  patch($("patch-name").value, Number($("patch-position").value), Number($("patch-source").value), one);
}

const addDirection = (position) => intervene({ kind: "direction", layer: chosen.layer, position, factor: 1 });

let typingSecond; // the timer of a pause

addStep("second", "A second prompt");
$("second-prompt").addEventListener("input", () => {
  clearTimeout(typingSecond);
  typingSecond = setTimeout(() => choose({ second: $("second-prompt").value }), SECOND_PAUSE);
});
$("patch-name").addEventListener("change", drawPatchHead);
$("add-patch").addEventListener("click", addPatch);
$("add-direction").addEventListener("click", () => addDirection(null));
$("add-direction-here").addEventListener("click", () => addDirection(chosen.position));
for (const id of ["map-first", "map-second", "map-difference"]) $(id).addEventListener("click", chooseCell);
legend("distance-legend", "0", "1", (share) => ramp("blue", share));

// Call `draw` when one of these properties changes, as long as there is a second prompt.
const followBoth = (properties, draw) => {
  follow([...properties, "data", "second.tokens"], draw, () => has("second.tokens"));
};
follow(["second", "data", "second.tokens"], drawPresence);
followBoth([], drawBothTokens);
followBoth(["theme"], drawDistance);
followBoth(["position", "lens.tokens"], drawSecondLens);
follow(["second.lens.difference", "theme"], drawLensDifference, () => has("second.lens.difference"));
followBoth(["layer", "head", "theme"], drawMaps);
followBoth(["layer", "head", "query", "key"], describeWeights);
followBoth(["layer", "position"], drawPatch);
