// Draws the page of `python -m numpy_gpt2.explain`. page.py puts this script, page.css and the data into page.html.
"use strict";

// ==== Data: the arrays of page_arrays() in page.py, by name

const DATA = JSON.parse(document.getElementById("data").textContent);
const { T, L, H, V } = DATA.dimensions;

function unpack({ dtype, shape, data }) {
  const characters = atob(data);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return { shape, values: dtype === "<u4" ? new Uint32Array(bytes.buffer) : new Float32Array(bytes.buffer) };
}

const ARRAYS = Object.fromEntries(Object.entries(DATA.arrays).map(([name, array]) => [name, unpack(array)]));

// One number of an array. With fewer indices than axes: all numbers with these indices, flat.
function at(name, ...index) {
  const { shape, values } = ARRAYS[name];
  const size = shape.slice(index.length).reduce((a, b) => a * b, 1);
  const start = index.reduce((sum, i, axis) => sum * shape[axis] + i, 0) * size;
  return index.length === shape.length ? values[start] : values.subarray(start, start + size);
}

// Attention's maps hold only the cells that are not masked, row after row.
const inTriangle = (query, key) => (query * (query + 1)) / 2 + key;
const score = (layer, head, query, key) =>
  key > query ? -Infinity : at("scores", layer, head, inTriangle(query, key));
const weight = (layer, head, query, key) => (key > query ? 0 : at("pattern", layer, head, inTriangle(query, key)));

const piece = (id) => DATA.pieces[id];
const token = (position) => piece(DATA.tokens[position]);
const positions = DATA.tokens.map((_, position) => position);
const range = (n) => Array.from({ length: n }, (_, i) => i);
const largest = (values, least = 0) => values.reduce((a, b) => Math.max(a, b), least);
const clamp = (x, n) => Math.min(Math.max(x, 0), n - 1);
const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

// The step of an arrow key, [down, right]; undefined for other keys.
function stepOf(event) {
  const step = ARROWS[event.key];
  if (step) event.preventDefault();
  return step;
}

// The reader's choices. On the attention map (query, key) is a cell. With `label`, the pointer is on a token's label:
// then query and key are the same, and the token's row and column are described.
const chosen = {
  layer: 0,
  head: 0,
  position: T - 1,
  view: "pattern",
  query: T - 1,
  key: 0,
  label: false,
  lens: [L, T - 1],
};

// ==== Numbers as text

function fixed(x, digits = 3) {
  return x.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits }).replace("-", "−");
}

// Fixed digits, or an exponent for numbers that are very small or very large.
function show(x, digits = 3) {
  const tooSmallOrLarge = x !== 0 && (Math.abs(x) < 10 ** -digits || Math.abs(x) >= 1e6);
  return Number.isFinite(x) && tooSmallOrLarge ? x.toExponential(2).replaceAll("-", "−") : fixed(x, digits);
}

function percent(p) {
  const x = 100 * p;
  let text = x.toExponential(1);
  if (p >= 0.0995) text = x.toFixed(1);
  else if (p >= 1e-3 || p === 0) text = x.toFixed(2);
  else if (p >= 1e-5) text = x.toPrecision(2);
  return `${text.replace("-", "−")} %`;
}

const integer = (n) => n.toLocaleString("en");
const quantity = (n, noun) => `${integer(n)} ${noun}${n === 1 ? "" : "s"}`;
const signed = (x) => (x > 0 ? "+" : "") + fixed(x);

// ==== Elements. Text is always inserted as text, never as HTML.

const $ = (id) => document.getElementById(id);
const SVG_TAGS = new Set(["svg", "path", "line", "circle", "rect", "text", "polyline"]);

function element(tag, properties = {}, ...children) {
  const namespace = SVG_TAGS.has(tag) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
  const node = document.createElementNS(namespace, tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const span = (kind, text) => element("span", { class: kind }, text);
const tokenSpan = (position) => span("piece", token(position));
const tr = (...cells) => element("tr", {}, ...cells);
const th = (text, kind = "") => element("th", { class: kind }, text);
const td = (content, kind = "number", properties = {}) => element("td", { class: kind, ...properties }, content);
const bar = (width, kind = "bar") => element("span", { class: kind, style: `width: ${width}` });
const fillTable = (id, rows) => $(id).tBodies[0].replaceChildren(...rows);
const barRow = (label, share, value) => tr(td(label, "piece"), td(bar(`${100 * share}%`), "wide"), td(value));

// ==== Colors: one hue from light to dark (or back, on a dark page). Orange and blue are the two signs.

const dark = matchMedia("(prefers-color-scheme: dark)");
const RAMPS = {
  blue: {
    light: shades("251 250 248", "178 208 232", "60 132 188", "8 48 107"),
    dark: shades("30 33 37", "22 74 122", "58 144 208", "224 241 255"),
  },
  orange: {
    light: shades("251 250 248", "253 208 162", "230 110 30", "127 39 4"),
    dark: shades("30 33 37", "112 46 8", "220 110 30", "255 226 184"),
  },
};

// 256 colors that pass through these stops.
function shades(...stops) {
  const rgb = stops.map((stop) => stop.split(" ").map(Number));
  return range(256).map((shade) => {
    const place = (shade / 255) * (rgb.length - 1);
    const i = Math.min(Math.floor(place), rgb.length - 2);
    return rgb[i].map((low, channel) => Math.round(low + (place - i) * (rgb[i + 1][channel] - low)));
  });
}

function ramp(hue, share) {
  return RAMPS[hue][dark.matches ? "dark" : "light"][Math.round(255 * Math.min(Math.max(share, 0), 1))];
}

const weightColor = (x) => ramp("blue", Math.sqrt(x)); // the square root makes small weights visible
const signColor = (share) => ramp(share < 0 ? "orange" : "blue", 0.85 * Math.abs(share));
const css = (rgb) => `rgb(${rgb.join(" ")})`;
const themed = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// A background, and black or white text on it: the one with more contrast, by WCAG's relative luminance.
function painted(rgb) {
  const [r, g, b] = rgb.map((x) => (x <= 10 ? x / 3294.6 : ((x / 255 + 0.055) / 1.055) ** 2.4));
  return `background: ${css(rgb)}; color: ${0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff"}`;
}

function legend(id, low, high, color) {
  const gradient = `background: linear-gradient(90deg, ${range(9).map((i) => css(color(i / 8)))})`;
  $(id).replaceChildren(low, element("span", { class: "ramp", style: gradient }), high);
}

// ==== Source code. CSS writes the numbers of this prompt after each comment that is a shape.

const KEYWORDS = "def|return|for|in|if|else|is|not|and|or|None|True|False|raise|lambda|while|with|try|except";
const SYNTAX = new RegExp(
  `(?<string>"""[^]*?"""|f?"[^"\\n]*")|(?<comment>#.*)|(?<defined>(?<=def )\\w+)|(?<keyword>\\b(?:${KEYWORDS})\\b)`,
  "g",
);

// "# (B, H, T, S)" -> "(1, 4, 9, 9)"
function numbers(comment) {
  const letters = comment.match(/\((\.\.\., )?\d?[BTSCHDVL](, \d?[BTSCHDVL])*,?\)/);
  const number = (size, factor, letter) => (size === "4C" ? DATA.inner : (factor || 1) * DATA.dimensions[letter]);
  return letters?.[0].replace(/(\d?)([A-Z])/g, number);
}

function highlighted(code) {
  const parts = [];
  let end = 0;
  for (const match of code.matchAll(SYNTAX)) {
    const kind = Object.keys(match.groups).find((name) => match.groups[name]);
    const shape = kind === "comment" ? numbers(match[0]) : undefined;
    parts.push(code.slice(end, match.index), element("span", { class: kind, "data-numbers": shape }, match[0]));
    end = match.index + match[0].length;
  }
  return [...parts, code.slice(end)];
}

function drawSources() {
  for (const place of document.querySelectorAll("[data-source]")) {
    const { name, code, where, equation } = DATA.sources[place.dataset.source];
    const summary = element("summary", {}, span("name", name), span("does", equation), span("soft", where));
    const source = element("pre", {}, element("code", {}, ...highlighted(code)));
    const open = "open" in place.dataset ? "" : undefined;
    place.replaceWith(element("details", { class: "source", open }, summary, source));
  }
  for (const place of document.querySelectorAll("[data-equation]")) {
    place.textContent = DATA.sources[place.dataset.equation].equation;
  }
  for (const place of document.querySelectorAll("[data-shape]")) {
    place.replaceChildren(span("mono", place.dataset.shape), span("shape", ` = ${numbers(place.dataset.shape)}`));
  }
}

const MEANINGS = {
  B: "batch",
  T: "tokens",
  S: "keys",
  C: "channels",
  H: "heads",
  D: "channels of a head",
  V: "vocabulary",
  L: "layers",
};

function drawHeader() {
  document.title = `GPT-2, step by step: ${DATA.text.slice(0, 60)}`;
  $("prompt").textContent = DATA.text;
  $("prompt").classList.toggle("long", DATA.text.length > 120);
  $("facts").textContent = `in the model ${DATA.facts}`;
  $("notice").textContent = DATA.notice;
  $("notice").hidden = !DATA.notice;
  const dimensions = Object.entries(DATA.dimensions).map(([letter, n]) =>
    element("li", {}, element("b", {}, letter), ` = ${integer(n)} `, span("soft", MEANINGS[letter])),
  );
  $("dimensions").replaceChildren(...dimensions);
}

// ==== 1: tokens

function bits(position) {
  if (position === 0) return "none, because nothing precedes it";
  const surprisal = at("surprisal", position);
  return `${show(surprisal, 2)} bits, p = ${percent(2 ** -surprisal)}`;
}

function drawTokens() {
  for (const label of $("token-strip").querySelectorAll("label")) label.remove();
  for (const t of positions) {
    const radio = element("input", { type: "radio", name: "token", value: t, onchange: () => choose({ position: t }) });
    const style = painted(ramp("orange", t && at("surprisal", t) / DATA.most_bits));
    const tip = `position ${t}, id ${DATA.tokens[t]}\nsurprisal: ${bits(t)}`;
    $("token-strip").append(element("label", { style, "data-tip": tip }, radio, token(t)));
  }
  legend("surprisal-legend", "0", `${DATA.most_bits} bits and more`, (share) => ramp("orange", share));
}

function drawTokenTable() {
  const rows = positions.map((t) => {
    const surprisal = at("surprisal", t);
    const unexpected = t ? [td(fixed(surprisal, 2)), td(percent(2 ** -surprisal))] : [td(""), td("")];
    return tr(td(t), td(token(t), "piece"), ...unexpected, td(DATA.tokens[t]), td(DATA.bytes[t], "mono"));
  });
  fillTable("token-table", rows);
}

function drawToken() {
  const t = chosen.position;
  for (const radio of document.querySelectorAll("input[name=token]")) radio.checked = Number(radio.value) === t;
  const mean = at("surprisal").reduce((sum, x, i) => (i ? sum + x : 0), 0) / (T - 1);
  const loss = `a loss of ${show(mean * Math.LN2, 2)} nats per token`;
  const average = T > 1 ? ` The average of the prompt is ${show(mean, 2)} bits, ${loss}.` : "";
  $("token-output").replaceChildren(
    `Position ${t}: `,
    tokenSpan(t),
    ` is token ${DATA.tokens[t]}, bytes `,
    span("mono", DATA.bytes[t] || "none"),
    `; surprisal: ${bits(t)}.${average}`,
  );
  drawMerges();
}

// The merges of the piece that the chosen token belongs to: one row for each step, one column for each byte.
function drawMerges() {
  const holder = DATA.merges.findLast(({ start }) => start <= chosen.position);
  const steps = holder?.steps ?? [];
  const rows = steps.map((step, i) => {
    const label = i === 0 ? "bytes" : `merge ${i}`;
    return tr(th(label), ...step.map(([id, length], place) => mergeCell(id, length, i > 0 && isNew(steps, i, place))));
  });
  $("merge-table").replaceChildren(...rows);
  reachable($("merge-table"), "Merges; the arrow keys move from part to part");
  $("merge-output").replaceChildren(...describeMerges(holder));
}

// Whether a merge made this part: it is the first one that differs from the step before.
function isNew(steps, i, place) {
  return place === steps[i].findIndex(([id], k) => id !== steps[i - 1][k][0]);
}

function mergeCell(id, length, merged) {
  const tip = `token ${id}, ${quantity(length, "byte")}${merged ? "\nmerged in this step" : ""}`;
  return td(piece(id), merged ? "piece merged" : "piece", { colspan: length, "data-tip": tip });
}

function describeMerges(holder) {
  if (!holder) return ["There are no merges to show for this token."];
  const { text, steps } = holder;
  if (steps.length === 0) return ["The piece that holds this token is too long to show its merges."];
  const [bytes, tokens] = [steps[0], steps.at(-1)];
  const sizes = [quantity(bytes.length, "byte"), quantity(steps.length - 1, "merge"), quantity(tokens.length, "token")];
  const end = tokens.length > 1 ? " No two neighbors of the last row form a token, so merging ends." : "";
  return ["The piece ", span("piece", text), `: ${sizes.join(", ")}.${end}`];
}

// ==== 2: embeddings

function drawEmbeddings() {
  const columns = [at("norm.embed"), at("norm.pos_embed"), at("norm.resid_pre", 0)];
  const most = largest(columns.map((column) => largest(column)));
  const rows = positions.map((t) => {
    const lengths = columns.map((column) => {
      const cell = td(bar(`${(4 * column[t]) / most}rem`), "");
      cell.append(show(column[t], 2));
      return cell;
    });
    return tr(td(t), td(token(t), "piece"), ...lengths, nearestCell(t));
  });
  fillTable("embedding-table", rows);
}

function nearestCell(position) {
  const cell = td("", "nearest");
  at("nearest.tokens", position).forEach((id, i) => {
    cell.append(span("piece", piece(id)), span("soft", ` ${show(at("nearest.cosines", position, i), 2)}   `));
  });
  return cell;
}

// ==== 3: blocks

// An svg as wide as its place, and the edges of the area to draw in.
function chart(place, label, height, left, bottom) {
  const width = Math.max(place.clientWidth, 240);
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "application" });
  reachable(svg, `${label}; the arrow keys move from mark to mark`);
  place.replaceChildren(svg);
  const draw = (tag, properties, ...children) => svg.append(element(tag, properties, ...children));
  return { draw, left, right: width - 12, bottom: height - bottom, top: 12 };
}

// Let the arrow keys show the tips inside an element, one after another. Up and down move by a whole row of `columns`.
function reachable(container, label, columns = 1) {
  container.tabIndex = 0;
  container.setAttribute("aria-label", label);
  let mark = -1;
  container.onkeydown = (event) => {
    const step = stepOf(event);
    if (!step) return;
    const marks = container.querySelectorAll("[data-tip]");
    mark = clamp(mark + columns * step[0] + step[1], marks.length);
    marks[mark].scrollIntoView({ block: "nearest", inline: "nearest" });
    const { right, bottom } = marks[mark].getBoundingClientRect();
    placeTip(marks[mark], right, bottom);
  };
}

// The residual stream's length before the first block, and then after each attention and each MLP.
const streamOf = (position) => [
  at("norm.resid_pre", 0, position),
  ...range(L).flatMap((layer) => [at("norm.resid_mid", layer, position), at("norm.resid_post", layer, position)]),
];

// The vertical range of the chart, as exponents of 10. It includes every length above 0.
function logRange(lengths) {
  const positive = lengths.filter((x) => x > 0);
  const most = largest(positive, 1e-30);
  const least = positive.reduce((a, b) => Math.min(a, b), most);
  return [Math.log10(least) - 0.05, Math.log10(most) + 0.05];
}

// The lengths that the vertical axis marks. The more powers of ten it spans, the fewer marks each power gets.
function ticks(low, high) {
  let factors = range(18).map((i) => 1 + i / 2);
  if (high - low > 0.5) factors = [1, 2, 5];
  if (high - low > 1.5) factors = [1];
  const powers = range(Math.floor(high) - Math.floor(low) + 1).map((i) => 10 ** (Math.floor(low) + i));
  const lengths = powers.flatMap((power) => factors.map((factor) => factor * power));
  return lengths.filter((length) => Math.log10(length) >= low && Math.log10(length) <= high);
}

function drawStream() {
  const t = chosen.position;
  const { draw, left, right, top, bottom } = chart($("stream-chart"), "Lengths", 300, 44, 34);
  const added = range(L).map((layer) => [at("norm.attn_out", layer, t), at("norm.mlp_out", layer, t)]);
  const [low, high] = logRange([...positions.map(streamOf), ...added].flat());
  const x = (stage) => left + ((right - left) * stage) / (2 * L);
  const y = (length) => bottom - ((bottom - top) * (Math.log10(Math.max(length, 1e-30)) - low)) / (high - low);

  const block = { x: x(2 * chosen.layer), y: top, width: x(2) - x(0), height: bottom - top, fill: themed("--panel") };
  draw("rect", block);
  for (const length of ticks(low, high)) {
    draw("line", { x1: left, x2: right, y1: y(length), y2: y(length), stroke: themed("--line") });
    draw("text", { x: left - 6, y: y(length) + 4, "text-anchor": "end" }, String(Number(length.toPrecision(2))));
  }
  const every = Math.ceil(L / Math.max(1, Math.floor((right - left) / 42)));
  for (let layer = 0; layer < L; layer += every) {
    draw("text", { x: x(2 * layer + 1), y: bottom + 18, "text-anchor": "middle" }, `h.${layer}`);
  }
  drawStreamLines(draw, x, y);
  drawAdded(draw, x, y, added);
}

function drawStreamLines(draw, x, y) {
  const line = (position, style) => {
    const stream = streamOf(position);
    const points = stream.map((length, stage) => `${x(stage).toFixed(1)},${y(length).toFixed(1)}`);
    const tip = `position ${position} ${token(position)}\nlength ${show(stream[0])} → ${show(stream[2 * L])}`;
    draw("polyline", { points: points.join(" "), fill: "none", ...style, "data-tip": tip });
  };
  for (const t of positions) if (t !== chosen.position) line(t, { stroke: themed("--soft"), opacity: 0.3 });
  line(chosen.position, { stroke: themed("--ink"), "stroke-width": 2.5 });

  streamOf(chosen.position).forEach((length, stage) => {
    const after = `after ${stage % 2 ? "attention" : "the MLP"} of block ${Math.floor((stage - 1) / 2)}`;
    const tip = `${stage ? after : "the embeddings"}\nlength ${show(length)}`;
    draw("circle", { cx: x(stage), cy: y(length), r: 4, fill: themed("--ink"), "data-tip": tip });
  });
}

// Marks for what attention and the MLP of each block add to the stream.
function drawAdded(draw, x, y, added) {
  added.forEach(([attention, mlp], layer) => {
    const triangle = `M${x(2 * layer + 1)} ${y(attention) - 6}l6 10h-12z`;
    const attentionTip = `attention of block ${layer} adds\nlength ${show(attention)}`;
    const mlpTip = `the MLP of block ${layer} adds\nlength ${show(mlp)}`;
    draw("path", { d: triangle, fill: themed("--blue"), "data-tip": attentionTip });
    draw("circle", { cx: x(2 * layer + 2), cy: y(mlp), r: 5, fill: themed("--orange"), "data-tip": mlpTip });
  });
}

function drawTrace() {
  const { layer, head, position } = chosen;
  const rows = DATA.steps.map(([name, letters, shape]) => {
    const local = name.replace(/^h\.0\./, "");
    const axes = ARRAYS[`norm.${local}`].shape.length; // (position), (layer, position) or (layer, head, position)
    const index = [[position], [layer, position], [layer, head, position]][axes - 1];
    const full = local === name ? name : `h.${layer}.${local}`;
    return tr(
      td(full, "mono"),
      td(show(at(`norm.${local}`, ...index))),
      td(letters, "mono"),
      td(`(${shape.join(", ")})`, "mono"),
    );
  });
  fillTable("trace-table", rows);
}

function drawNorms() {
  const { layer, position } = chosen;
  const row = (norm, before) => {
    const numbers = ["mean", "std"].flatMap((statistic) =>
      [before, norm].map((name) => at(`${statistic}.${name}`, layer, position)),
    );
    return tr(th(`h.${layer}.${norm}`), ...numbers.map((x) => td(fixed(x))));
  };
  fillTable("norm-table", [row("ln_1", "resid_pre"), row("ln_2", "resid_mid")]);
}

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

const largestScore = (layer, head) => largest(at("scores", layer, head).map(Math.abs));

// One pixel for each cell; masked cells stay transparent.
function mapImage(layer, head) {
  const most = Math.max(largestScore(layer, head), 1e-9);
  const canvas = element("canvas", { width: T, height: T });
  const context = canvas.getContext("2d");
  const image = context.createImageData(T, T);
  for (const query of positions) {
    for (let key = 0; key <= query; key++) {
      const color =
        chosen.view === "pattern"
          ? weightColor(weight(layer, head, query, key))
          : signColor(score(layer, head, query, key) / most);
      image.data.set([...color, 255], 4 * (query * T + key));
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function drawHeads() {
  const { layer, position } = chosen;
  const focused = [...$("heads").children].indexOf(document.activeElement);
  const buttons = range(H).map((head) => {
    const length = show(at("heads.norm", layer, head, position));
    const tip = `head ${head} of block ${layer}\nadds a vector of length ${length} at position ${position}`;
    const properties = { "aria-pressed": head === chosen.head, "data-tip": tip, onclick: () => choose({ head }) };
    return element("button", properties, mapImage(layer, head), `head ${head}`);
  });
  $("heads").replaceChildren(...buttons);
  buttons[focused]?.focus();

  if (chosen.view === "pattern") legend("map-legend", "weight 0", "1", weightColor);
  else {
    const most = show(largestScore(layer, chosen.head), 2);
    legend("map-legend", `score −${most}`, `+${most}`, (share) => signColor(2 * share - 1));
  }
  $("map-legend").append(span("ramp masked", ""), "masked");
}

// The attention map has two canvases. The left one holds the labels of rows, and stays in place when the map scrolls.
// The other one holds the labels of columns, the cells, and bars for the vectors that the head adds. Sizes in pixels.
const MAP = { left: 0, top: 92, bars: 0, cell: 0 };

// An empty canvas of this size, at the resolution of the screen.
function cleared(canvas, width, height) {
  const ratio = Math.min(devicePixelRatio, 16000 / Math.max(width, height)); // the limit of browsers
  Object.assign(canvas, { width: width * ratio, height: height * ratio });
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.textBaseline = "middle";
  context.font = `${Math.min(13, MAP.cell)}px ${themed("--mono")}`;
  return context;
}

function drawRowLabels() {
  const { left, top, cell } = MAP;
  const context = cleared($("map-labels"), left, top + cell * T + 4);
  context.textAlign = "right";
  for (const t of positions) {
    context.fillStyle = themed(t === chosen.query ? "--orange" : "--ink");
    context.fillText(shortened(token(t), left - 12, context), left - 6, top + (t + 0.5) * cell);
  }
}

function drawMap() {
  const { layer, head, query, key } = chosen;
  const { top, bars, cell } = MAP;
  const side = cell * T;
  drawRowLabels();
  const context = cleared($("map"), side + bars, top + side + 4);
  hatch(context, top, side);
  context.imageSmoothingEnabled = false;
  context.drawImage($("heads").children[head].firstChild, 0, top, side, side);
  for (const t of positions) drawColumnLabel(context, t);
  drawHeadBars(context, at("heads.norm", layer, head));

  context.strokeStyle = themed("--orange");
  context.lineWidth = 1.5;
  context.strokeRect(0, top + query * cell, side, cell);
  context.strokeRect(key * cell, top, cell, side);
}

function drawColumnLabel(context, t) {
  context.save();
  context.translate((t + 0.5) * MAP.cell, MAP.top - 6);
  context.rotate(-Math.PI / 2);
  context.fillStyle = themed(t === chosen.key ? "--orange" : "--ink");
  context.fillText(shortened(token(t), MAP.top - 12, context), 0, 0);
  context.restore();
}

// Beside each row, the length of the vector that the head adds to the residual stream.
function drawHeadBars(context, lengths) {
  const { top, bars, cell } = MAP;
  const most = largest(lengths, 1e-9);
  const left = cell * T + 10;
  context.fillStyle = themed("--blue");
  lengths.forEach((length, t) => {
    context.fillRect(left, top + t * cell + 1, ((bars - 14) * length) / most, Math.max(1, cell - 3));
  });
  context.fillStyle = themed("--soft");
  context.font = `11px ${themed("--sans")}`;
  context.fillText("length added,", left, top - 24);
  context.fillText(`up to ${show(most, 2)}`, left, top - 10);
}

// Stripes that stay visible where cells are masked.
function hatch(context, top, side) {
  context.save();
  context.beginPath();
  context.rect(0, top, side, side);
  context.clip();
  context.beginPath();
  for (let x = 0; x < 2 * side; x += 6) {
    context.moveTo(x, top);
    context.lineTo(x - side, top + side);
  }
  context.strokeStyle = themed("--hatch");
  context.stroke();
  context.restore();
}

function shortened(text, room, context) {
  let characters = [...text];
  while (characters.length > 1 && context.measureText(characters.join("")).width > room) {
    characters = [...characters.slice(0, -2), "…"];
  }
  return characters.join("");
}

// The positions with the four largest weights: " the (3) 61.2 %, …".
function strongest(weights) {
  const order = positions.filter((t) => weights[t] > 0).sort((a, b) => weights[b] - weights[a]);
  return order.slice(0, 4).flatMap((t, i) => [i ? ", " : " ", tokenSpan(t), ` (${t}) ${percent(weights[t])}`]);
}

function describeCell() {
  const { layer, head, query, key } = chosen;
  const numbers = `: score ${show(score(layer, head, query, key))}, weight ${show(weight(layer, head, query, key), 4)}.`;
  const masked = ": it comes later, so the score is −∞ and the weight 0.";
  return [` looks at ${key} `, tokenSpan(key), key > query ? masked : numbers];
}

function describeRowAndColumn() {
  const { layer, head, query, key } = chosen;
  const row = positions.map((t) => weight(layer, head, query, t));
  const column = positions.map((t) => weight(layer, head, t, key));
  const adds = `; the head adds a vector of length ${show(at("heads.norm", layer, head, query))} there.`;
  return [" looks most at", ...strongest(row), "; it gets the largest weights from", ...strongest(column), adds];
}

function describeMap() {
  const { layer, head, query, label } = chosen;
  const description = label ? describeRowAndColumn() : describeCell();
  $("map-output").replaceChildren(`Block ${layer}, head ${head}: position ${query} `, tokenSpan(query), ...description);
  $("map-frame").dataset.tip = $("map-output").textContent;
}

function pointTo(query, key, label) {
  const moved = query !== chosen.query || key !== chosen.key || label !== chosen.label;
  Object.assign(chosen, { query, key, label });
  if (moved) drawMap();
  describeMap();
}

function pointAt(event) {
  const box = $("map").getBoundingClientRect();
  const query = Math.floor((event.clientY - box.top - MAP.top) / MAP.cell);
  const key = event.target === $("map") ? Math.floor((event.clientX - box.left) / MAP.cell) : null;
  const [row, column] = [query, key].map((t) => (t !== null && t >= 0 && t < T ? t : null));
  if (row !== null && column !== null) pointTo(row, column, false);
  else if (row !== null || column !== null) pointTo(row ?? column, row ?? column, true);
  else delete $("map-frame").dataset.tip;
}

function moveOnMap(event) {
  const step = stepOf(event);
  if (!step) return;
  pointTo(clamp(chosen.query + step[0], T), clamp(chosen.key + step[1], T), false);
  const [left, top] = [chosen.key * MAP.cell, MAP.top + chosen.query * MAP.cell];
  $("cell").style = `left: ${left}px; top: ${top}px; width: ${MAP.cell}px; height: ${MAP.cell}px`;
  $("cell").scrollIntoView({ block: "nearest", inline: "nearest" });
  const box = $("cell").getBoundingClientRect();
  placeTip($("map-frame"), box.right, box.bottom);
}

function drawAttention() {
  drawHeads();
  Object.assign(MAP, innerWidth > 900 ? { left: 104, bars: 92 } : { left: 72, bars: 78 });
  MAP.cell = Math.max(11, Math.min(34, Math.floor(($("map-frame").clientWidth - MAP.left - MAP.bars) / T)));
  drawMap();
  describeMap();
}

function drawMlp() {
  const { draw, left, right, top, bottom } = chart($("mlp-chart"), "Activations", 280, 40, 30);
  const [xs, ys] = [at("activation.x"), at("activation.y")];
  const [first, last, low, high] = [xs[0], xs[xs.length - 1], Math.min(0, ...ys), Math.max(1e-6, ...ys)];
  const x = (pre) => left + ((right - left) * (pre - first)) / (last - first || 1);
  const y = (post) => bottom - ((bottom - top) * (post - low)) / (high - low);

  drawHistogram(draw, x, y(0), top, bottom);
  draw("line", { x1: left, x2: right, y1: y(0), y2: y(0), stroke: themed("--soft") });
  if (first < 0 && last > 0) draw("line", { x1: x(0), x2: x(0), y1: top, y2: bottom, stroke: themed("--soft") });
  const points = Array.from(xs, (pre, i) => `${x(pre)},${y(ys[i])}`).join(" ");
  draw("polyline", { points, fill: "none", stroke: themed("--ink"), "stroke-width": 1.5 });
  draw("text", { x: left, y: bottom + 18 }, show(first, 1));
  draw("text", { x: right, y: bottom + 18, "text-anchor": "end" }, show(last, 1));
  draw("text", { x: left - 6, y: top + 4, "text-anchor": "end" }, show(high, 1));
  draw("text", { x: left - 6, y: y(0) + 4, "text-anchor": "end" }, "0");
  drawNeurons(draw, x, y);
}

// Bars that count the neurons by their input. The tip of a bar covers the whole height of the chart.
function drawHistogram(draw, x, base, top, bottom) {
  const xs = at("activation.x");
  const counts = at("pre.counts", chosen.layer, chosen.position);
  const most = largest(counts);
  counts.forEach((n, i) => {
    const height = ((base - top) * 0.6 * n) / most;
    const tip = `${show(xs[i], 2)} to ${show(xs[i + 1], 2)}\n${integer(n)} of ${integer(DATA.inner)} neurons`;
    const width = Math.max(0.5, x(xs[i + 1]) - x(xs[i]) - 1);
    draw("rect", { x: x(xs[i]), y: base - height, width, height, fill: themed("--line") });
    draw("rect", { x: x(xs[i]), y: top, width, height: bottom - top, fill: "transparent", "data-tip": tip });
  });
}

// The position's strongest neurons, as dots and in a table.
function drawNeurons(draw, x, y) {
  const { layer, position } = chosen;
  const style = { r: 5, fill: themed("--orange"), stroke: themed("--paper") };
  const rows = Array.from(at("neurons", layer, position), (neuron, i) => {
    const [pre, post] = [at("neurons.pre", layer, position, i), at("neurons.post", layer, position, i)];
    draw("circle", { cx: x(pre), cy: y(post), ...style, "data-tip": `neuron ${neuron}\n${show(pre)} → ${show(post)}` });
    return tr(td(neuron), td(show(pre)), td(show(post)));
  });
  fillTable("neuron-table", rows);
}

// ==== 4: logit lens

const lensRow = (row) => (row === 0 ? "embeddings" : `after h.${row - 1}`);

function lensCell(row, t) {
  const [best, p] = [at("lens.tokens", row, t, 0), at("lens.probabilities", row, t, 0)];
  const next = t + 1 < T ? `\n(the next token is ${token(t + 1)})` : "";
  const properties = {
    class: best === DATA.tokens[t + 1] ? "right" : undefined,
    style: painted(ramp("blue", p)),
    "data-row": row,
    "data-position": t,
    "data-tip": `${lensRow(row)}, position ${t} ${token(t)}\n${piece(best)}  ${percent(p)}${next}`,
    tabindex: -1,
    onclick: () => chooseCell(row, t),
  };
  return td(element("button", properties, piece(best), element("small", {}, percent(p))), "");
}

function drawLens() {
  const rows = range(L + 1).map((row) => tr(th(lensRow(row)), ...positions.map((t) => lensCell(row, t))));
  const head = tr(th(""), ...positions.map((t) => th(token(t))));
  $("lens-table").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
  legend("lens-legend", "0 %", "100 %", (share) => ramp("blue", share));

  const most = largest(at("lens.target"), 1e-30);
  const bars = Array.from(at("lens.target"), (p, row) => barRow(lensRow(row), p / most, percent(p)));
  $("target-rise").replaceChildren(...bars);
  chooseCell(...chosen.lens);
}

function chooseCell(row, position) {
  chosen.lens = [row, position];
  for (const button of $("lens-table").querySelectorAll("[aria-pressed=true]")) {
    button.setAttribute("aria-pressed", false);
    button.tabIndex = -1;
  }
  const button = $("lens-table").querySelector(`[data-row="${row}"][data-position="${position}"]`);
  button.setAttribute("aria-pressed", true);
  button.tabIndex = 0;
  const title = `${lensRow(row)}, position ${position} `;
  $("lens-title").replaceChildren(title[0].toUpperCase() + title.slice(1), tokenSpan(position));
  const p = at("lens.probabilities", row, position);
  const rows = Array.from(at("lens.tokens", row, position), (id, i) => barRow(piece(id), p[i] / p[0], percent(p[i])));
  $("lens-top").replaceChildren(...rows);
  return button;
}

function moveOnLens(event) {
  const step = stepOf(event);
  if (!step) return;
  const [row, position] = chosen.lens;
  chooseCell(clamp(row + step[0], L + 1), clamp(position + step[1], T)).focus();
}

// ==== 5: the next token

// `probabilities` of sampling.py, for logits in descending order: a cut keeps the first tokens and drops the rest.
function probabilities(logits, temperature, topK, topP) {
  const p = new Float64Array(logits.length);
  if (temperature === 0) {
    p[0] = 1;
    return { p, afterTopK: 1, afterTopP: 1 };
  }
  let afterTopK = logits.length;
  if (topK && topK < logits.length) {
    while (logits[afterTopK - 1] < logits[topK - 1]) afterTopK--;
  }
  let sum = 0;
  for (let i = 0; i < afterTopK; i++) sum += p[i] = Math.exp((logits[i] - logits[0]) / temperature);
  for (let i = 0; i < afterTopK; i++) p[i] /= sum;
  let afterTopP = afterTopK;
  if (topP < 1) {
    let before = 0;
    for (afterTopP = 0; afterTopP < afterTopK && before < topP; afterTopP++) before += p[afterTopP];
    for (let i = 0; i < afterTopK; i++) p[i] = i < afterTopP ? p[i] / before : 0;
  }
  return { p, afterTopK, afterTopP };
}

const RANK = at("next.rank"); // the target's place in this order
const MODEL_P = probabilities(at("next.logits"), 1, 0, 1).p;
const N_LISTED = 20;

const sum = (values) => values.reduce((a, b) => a + b, 0);

function drawNext() {
  const [temperature, topK, topP] = ["temperature", "top-k", "top-p"].map((id) => Number($(id).value));
  $("temperature-value").textContent = temperature === 0 ? "0: greedy" : temperature.toFixed(2);
  $("top-k-value").textContent = topK === 0 ? "off" : topK;
  $("top-p-value").textContent = topP === 1 ? "off" : topP.toFixed(2);
  const { p, afterTopK, afterTopP } = probabilities(at("next.logits"), temperature, topK, topP);
  const reason = (i) => {
    if (temperature === 0) return "not the first";
    return i >= afterTopK ? "cut by top-k" : "cut by top-p";
  };

  const all = $("more").getAttribute("aria-expanded") === "true";
  const listed = at("next.tokens").subarray(0, all ? undefined : N_LISTED);
  const candidate = (id, i) => candidateRow(id, i, p, i >= afterTopP ? reason(i) : "");
  const rows = Array.from(listed, candidate);
  if (RANK >= listed.length) rows.push(candidate(DATA.target[0], RANK));
  if (rows.length < V) {
    const rest = sum(p.subarray(listed.length)) - (rows.length > listed.length ? p[RANK] : 0);
    rows.push(tr(td(`${integer(V - rows.length)} more`, "soft"), td("", "wide"), td(percent(Math.max(0, rest)))));
  }
  $("next-table").replaceChildren(...rows);
  reachable($("next-table"), "Candidates; the arrow keys move from one to the next");
  const kept = percent(sum(MODEL_P.subarray(0, afterTopP)));
  $("next-output").textContent =
    `${integer(afterTopP)} of ${integer(V)} tokens remain. The model gave them ${kept} of the probability.`;
}

// A candidate's row: a bar for its probability now, and a thin line for the model's own. A token that is cut shows the
// reason in place of its probability.
function candidateRow(id, i, p, reason) {
  const most = Math.max(p[0], MODEL_P[0]);
  const bars = td(bar(`${(100 * p[i]) / most}%`), "wide");
  bars.append(bar(`${(100 * MODEL_P[i]) / most}%`, "was"));
  const row = tr(td(piece(id), reason ? "piece cut" : "piece"), bars, td(reason || percent(p[i])));
  row.className = i === RANK ? "target" : "";
  row.dataset.tip =
    `token ${id}, number ${i + 1} by probability, logit ${show(at("next.logits", i))}\n` +
    `the model: ${percent(MODEL_P[i])}, now: ${percent(p[i])}`;
  return row;
}

function drawTarget() {
  const logP = at("target.log_probability");
  const target = () => span("piece", DATA.target.map(piece).join(""));
  const first = piece(DATA.target[0]);
  const several = DATA.target.length > 1;
  const marked = several ? ["its first token, ", span("piece", first)] : ["it"];
  $("lens-target").textContent = first;
  $("lens-target-part").textContent = several ? ", the target's first token" : "";
  const probability = `: p = ${percent(Math.exp(logP))}, ln p = ${show(logP)} nats.`;
  $("target-output").replaceChildren("The target is ", target(), probability, " Dashed lines mark ", ...marked, ".");
  $("ablation-target").replaceChildren(target());
  $("ablation-whole").textContent = show(logP);
}

function showMore() {
  const expanded = $("more").getAttribute("aria-expanded") !== "true";
  $("more").setAttribute("aria-expanded", expanded);
  $("more").textContent = expanded ? "Show fewer candidates" : "Show more candidates";
  drawNext();
}

// ==== 6: what mattered

// Every head and every MLP, with the change of ln p(target) without it.
function ablatedParts() {
  return range(L).flatMap((layer) => {
    const heads = Array.from(at("ablation.heads", layer), (change, head) => {
      return { layer, name: `head ${head} of block ${layer}`, change };
    });
    return [...heads, { layer, name: `the MLP of block ${layer}`, change: at("ablation.mlps", layer) }];
  });
}

function drawAblation() {
  const parts = ablatedParts();
  const magnitudes = parts.map(({ change }) => Math.abs(change));
  const most = largest(magnitudes, 1e-9);
  // One part, often the first MLP, can be far larger than all others. The square root keeps the others visible.
  const color = (change) => signColor(Math.sign(change) * Math.sqrt(Math.abs(change) / most));
  const changeCell = ({ name, change }) => {
    const tip = `without ${name}: ${signed(change)} nats,\n${show(Math.exp(change))} times as probable`;
    return td(signed(change), "number", { style: painted(color(change)), "data-tip": tip });
  };
  const head = tr(th(""), ...range(H).map((i) => th(`head ${i}`, "number")), th("MLP", "number"));
  const rows = range(L).map((layer) =>
    tr(th(`h.${layer}`), ...parts.filter((part) => part.layer === layer).map(changeCell)),
  );
  reachable($("ablation-table"), "Changes; the arrow keys move from part to part", H + 1);
  $("ablation-table").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
  legend("ablation-legend", `−${show(most, 2)}`, `+${show(most, 2)}`, (share) => color(most * (2 * share - 1)));

  const helpful = parts.filter(({ change }) => change < 0).sort((a, b) => a.change - b.change);
  const names = helpful.slice(0, 3).map(({ name, change }) => `${name} (${signed(change)})`);
  $("ablation-output").textContent = `Most helpful: ${names.join(", ") || "nothing"}.`;
}

// ==== Tips: the text of an element's data-tip, beside the pointer or below the focus

function placeTip(target, x, y) {
  const tip = $("tip");
  tip.hidden = !target?.dataset.tip;
  if (tip.hidden) return;
  tip.textContent = target.dataset.tip;
  tip.style.left = 0; // near the right edge it would be measured too narrow
  const { clientWidth, clientHeight } = document.documentElement;
  const left = Math.max(6, Math.min(x + 14, clientWidth - tip.offsetWidth - 6));
  const below = y + 18 + tip.offsetHeight <= clientHeight;
  const top = below ? y + 18 : Math.max(6, y - 10 - tip.offsetHeight);
  Object.assign(tip.style, { left: `${left + scrollX}px`, top: `${top + scrollY}px` });
}

const tipAtPointer = (event) => placeTip(event.target.closest("[data-tip]"), event.clientX, event.clientY);

function tipOfFocus(event) {
  const target = event.target.closest("[data-tip]");
  const { left, bottom } = event.target.getBoundingClientRect();
  placeTip(event.target.matches(":focus-visible") ? target : null, left, bottom);
}

// ==== All together

function choose(change) {
  Object.assign(chosen, change);
  for (const property of ["layer", "head", "position"]) $(property).value = chosen[property];
  if ("position" in change) {
    Object.assign(chosen, { query: change.position, key: clamp(chosen.key, change.position + 1), label: false });
    const button = chooseCell(chosen.lens[0], change.position);
    $("lens-scroll").scrollLeft = button.parentElement.offsetLeft - $("lens-scroll").clientWidth / 2;
  }
  drawToken();
  drawStream();
  drawTrace();
  drawNorms();
  drawQueries();
  drawAttention();
  drawMlp();
}

function draw() {
  drawTokens();
  drawTokenTable();
  drawEmbeddings();
  drawLens();
  drawNext();
  if ("ablation.heads" in ARRAYS) drawAblation();
  choose({});
}

function fillPickers() {
  const options = {
    layer: range(L).map((layer) => `h.${layer}`),
    head: range(H),
    position: positions.map((t) => `${t} ${token(t)}`),
  };
  for (const [property, labels] of Object.entries(options)) {
    $(property).replaceChildren(...labels.map((label, i) => element("option", { value: i }, label)));
    $(property).addEventListener("change", () => choose({ [property]: Number($(property).value) }));
  }
}

function listen() {
  for (const radio of document.querySelectorAll("input[name=view]")) {
    radio.addEventListener("change", () => choose({ view: radio.value }));
  }
  $("map-frame").addEventListener("pointermove", pointAt);
  $("map-frame").addEventListener("pointerdown", pointAt);
  $("map").addEventListener("keydown", moveOnMap);
  $("lens-table").addEventListener("keydown", moveOnLens);
  for (const id of ["temperature", "top-k", "top-p"]) $(id).addEventListener("input", drawNext);
  $("more").addEventListener("click", showMore);
  document.addEventListener("pointermove", tipAtPointer);
  document.addEventListener("pointerdown", tipAtPointer);
  document.addEventListener("focusin", tipOfFocus);
  document.addEventListener("keydown", (event) => event.key === "Escape" && placeTip(null));
  document.documentElement.addEventListener("pointerleave", () => placeTip(null));
  dark.addEventListener("change", draw);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) choose({});
    width = innerWidth;
  });
}

// In a notebook's frame, a link such as "#lens" would lead to the notebook's address.
if (location.protocol === "about:") {
  document.querySelector("nav").addEventListener("click", (event) => {
    event.preventDefault();
    document.querySelector(event.target.closest("a")?.getAttribute("href") ?? "body").scrollIntoView();
  });
}
$("ablation").hidden = !("ablation.heads" in ARRAYS);
$("no-ablation").hidden = !$("ablation").hidden;
$("top-k").max = at("next.tokens").length;
drawSources();
drawHeader();
drawTarget();
fillPickers();
listen();
draw();
$("lens-scroll").scrollLeft = $("lens-scroll").scrollWidth; // show the last position first
