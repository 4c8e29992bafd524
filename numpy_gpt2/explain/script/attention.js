// Step 3, attention: queries and keys, and the map of one head.
import { at, clamp, DATA, largest, positions, score, scoresOf, T, token, weight, weightsOf } from "./data.js";
import {
  $,
  announceTip,
  element,
  legend,
  pixelOf,
  signColor,
  span,
  stepOf,
  themed,
  weightColor,
  widthOf,
} from "./elements.js";
import { percent, show } from "./numbers.js";
import { choose, chosen, follow } from "./state.js";

export const tokenSpan = (position) => span("piece", token(position));

function drawQueries() {
  const { layer, head, position } = chosen;
  const [q, k, v] = ["q", "k", "v"].map((name) => show(at(`norm.attn.${name}`, layer, head, position)));
  $("scale").textContent = show(DATA.scales[layer], 4);
  $("qkv-output").replaceChildren(
    `In head ${head} of block ${layer}, at position ${position}, `,
    tokenSpan(position),
    `: the query has length ${q}, the key ${k}, the value ${v}. `,
    `The score of this query and this key is ${show(score(layer, head, position, position))}.`,
  );
}

const size = (score) => (score === -Infinity ? 0 : Math.abs(score));

function largestScore(layer, head) {
  return largest(positions.map((query) => largest(scoresOf(layer, head, query).map(size))));
}

// The attention map has four canvases: labels of rows, which stay in place when the map scrolls, labels of columns, the
// cells, and bars for the vectors that the head adds. The cells are one pixel each, and the browser enlarges them. Sizes
// on the page in pixels.
export const MAP = { left: 0, top: 92, bars: 0, cell: 0 };

// An empty canvas of this size, at the resolution of the screen.
function cleared(canvas, width, height) {
  const ratio = Math.min(devicePixelRatio, 16000 / Math.max(width, height)); // the limit of browsers
  Object.assign(canvas, { width: width * ratio, height: height * ratio });
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.textBaseline = "middle";
  context.font = `${Math.min(13, MAP.cell)}px ${themed("--mono")}`;
  context.fillStyle = themed("--ink");
  return context;
}

function layOut() {
  Object.assign(MAP, innerWidth > 900 ? { left: 104, bars: 92 } : { left: 72, bars: 78 });
  MAP.cell = Math.max(11, Math.min(34, Math.floor((widthOf($("map-frame")) - MAP.left - MAP.bars) / T)));
}

function drawRowLabels() {
  const { left, top, cell } = MAP;
  const context = cleared($("map-labels"), left, top + cell * T + 4);
  context.textAlign = "right";
  for (const t of positions)
    context.fillText(shortened(token(t), left - 12, context), left - 6, top + (t + 0.5) * cell);
}

function drawColumnLabels() {
  const { top, bars, cell } = MAP;
  const context = cleared($("map-columns"), cell * T + bars, top);
  context.rotate(-Math.PI / 2);
  for (const t of positions) context.fillText(shortened(token(t), top - 12, context), 6 - top, (t + 0.5) * cell);
}

// One pixel for each cell. The stripes behind the map show through where cells are masked.
function drawMap() {
  const { layer, head, view } = chosen;
  const side = `${MAP.cell * T}px`;
  Object.assign($("map"), { width: T, height: T });
  Object.assign($("map").style, { width: side, height: side });
  const context = $("map").getContext("2d");
  const image = context.createImageData(T, T);
  const pixels = new Uint32Array(image.data.buffer);
  const most = Math.max(largestScore(layer, head), 1e-9);
  const color = view === "pattern" ? weightColor : (score) => signColor(score / most);
  for (const query of positions) {
    const row = view === "pattern" ? weightsOf(layer, head, query) : scoresOf(layer, head, query);
    row.forEach((x, key) => {
      if (x === -Infinity) return;
      pixels[query * T + key] = pixelOf(color(x));
    });
  }
  context.putImageData(image, 0, 0);
  if (view === "pattern") legend("map-legend", "weight 0", "1", weightColor);
  else legend("map-legend", `score −${show(most, 2)}`, `+${show(most, 2)}`, (share) => signColor(2 * share - 1));
  $("map-legend").append(span("ramp masked", ""), "masked");
  document.querySelector(`input[name=view][value=${view}]`).checked = true;
}

// Beside each row, the length of the vector that the head adds to the residual stream.
function drawBars() {
  const { bars, cell, top } = MAP;
  const lengths = at("heads.norm", chosen.layer, chosen.head);
  const most = largest(lengths, 1e-9);
  const context = cleared($("map-bars"), bars - 10, cell * T);
  context.fillStyle = themed("--blue");
  lengths.forEach((length, t) => {
    context.fillRect(0, t * cell + 1, ((bars - 14) * length) / most, Math.max(1, cell - 3));
  });
  Object.assign($("map-bars").style, { left: `${cell * T + 10}px`, top: `${top}px` });
  $("map-most").textContent = `length added, up to ${show(most, 2)}`;
  $("map-most").style.left = `${cell * T + 10}px`;
}

function shortened(text, room, context) {
  let characters = [...text];
  while (characters.length > 1 && context.measureText(characters.join("")).width > room) {
    characters = [...characters.slice(0, -2), "…"];
  }
  return characters.join("");
}

// Frames around the pinned cell, its row and its column.
function drawFrames() {
  const { query, key } = chosen;
  const { cell } = MAP;
  const place = (id, left, top, width, height) => {
    Object.assign($(id).style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
  };
  place("row", 0, MAP.top + query * cell, T * cell, cell);
  place("column", key * cell, MAP.top, cell, T * cell);
  place("cell", key * cell, MAP.top + query * cell, cell, cell);
}

// The positions with the four largest weights: " the (3) 61.2 %, …".
function strongest(weights) {
  const order = positions.filter((t) => weights[t] > 0).sort((a, b) => weights[b] - weights[a]);
  return order.slice(0, 4).flatMap((t, i) => [i ? ", " : " ", tokenSpan(t), ` (${t}) ${percent(weights[t])}`]);
}

function describeCell(query, key) {
  const { layer, head } = chosen;
  const numbers = `: score ${show(score(layer, head, query, key))}, weight ${show(weight(layer, head, query, key), 4)}.`;
  const masked = ": it comes later, so the score is −∞ and the weight 0.";
  return [` looks at ${key} `, tokenSpan(key), key > query ? masked : numbers];
}

function describeRowAndColumn(position) {
  const { layer, head } = chosen;
  const column = positions.map((t) => weight(layer, head, t, position));
  const adds = `; the head adds a vector of length ${show(at("heads.norm", layer, head, position))} there.`;
  const row = weightsOf(layer, head, position);
  return [" looks most at", ...strongest(row), "; it gets the largest weights from", ...strongest(column), adds];
}

function description(query, key, label) {
  const { layer, head } = chosen;
  const rest = label ? describeRowAndColumn(query) : describeCell(query, key);
  return [`Block ${layer}, head ${head}: position ${query} `, tokenSpan(query), ...rest];
}

function describeMap() {
  $("map-output").replaceChildren(...description(chosen.query, chosen.key, false));
}

// The cell under the pointer. On a label, both are the label's position.
function cellAt(event) {
  const box = $("map").getBoundingClientRect();
  const inside = (t) => (t >= 0 && t < T ? t : null);
  const query = inside(Math.floor((event.clientY - box.top) / MAP.cell));
  const key =
    event.clientX < $("map-labels").getBoundingClientRect().right
      ? null
      : Math.floor((event.clientX - box.left) / MAP.cell);
  const column = key === null ? null : inside(key);
  if (query === null && column === null) return null;
  return { query: query ?? column, key: column ?? query, label: query === null || column === null };
}

function tipOfMap(cell) {
  if (cell === null) delete $("map-frame").dataset.tip;
  else {
    const text = element("p", {}, ...description(cell.query, cell.key, cell.label));
    $("map-frame").dataset.tip = text.textContent;
  }
}

function pin(event) {
  const cell = cellAt(event);
  if (cell) choose({ query: cell.query, key: cell.key });
}

function moveOnMap(event) {
  const step = stepOf(event);
  if (!step) return;
  choose({ query: clamp(chosen.query + step[0], T), key: clamp(chosen.key + step[1], T) });
  $("cell").scrollIntoView({ block: "nearest", inline: "nearest" });
  const box = $("cell").getBoundingClientRect();
  tipOfMap({ query: chosen.query, key: chosen.key, label: false });
  announceTip($("map-frame"), box.right, box.bottom);
}

$("map-frame").addEventListener("pointermove", (event) => tipOfMap(cellAt(event)));
$("map-frame").addEventListener("pointerdown", (event) => tipOfMap(cellAt(event)));
$("map-frame").addEventListener("click", pin);
$("map").addEventListener("keydown", moveOnMap);
for (const radio of document.querySelectorAll("input[name=view]")) {
  radio.addEventListener("change", () => choose({ view: radio.value }));
}
follow(["layer", "head", "position"], drawQueries);
follow(["data", "width"], layOut);
follow(["theme", "width"], drawRowLabels);
follow(["theme", "width"], drawColumnLabels);
follow(["layer", "head", "view", "theme", "width"], drawMap);
follow(["layer", "head", "theme", "width"], drawBars);
follow(["query", "key", "width"], drawFrames);
follow(["layer", "head", "query", "key"], describeMap);
