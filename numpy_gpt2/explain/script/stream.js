// Step 3, the residual stream: its lengths, the named results, and layer norm.
import { array, at, DATA, L, largest, positions, range, token } from "./data.js";
import { $, chart, fillTable, td, th, themed, tr, writeTable } from "./elements.js";
import { fixed, show } from "./numbers.js";
import { choose, chosen, follow } from "./state.js";

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

// A chart of lengths, from the embeddings through every attention and every MLP: 2 L + 1 stages. The vertical axis is
// logarithmic. Returns how to draw, and where stages and lengths are.
export function lengthChart(place, label, lengths) {
  const { draw, left, right, top, bottom } = chart(place, label, 300, 48, 34);
  const [low, high] = logRange(lengths);
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
  return { draw, x, y };
}

function drawStream() {
  const t = chosen.position;
  const added = range(L).map((layer) => [at("norm.attn_out", layer, t), at("norm.mlp_out", layer, t)]);
  const { draw, x, y } = lengthChart($("stream-chart"), "Lengths", [...positions.map(streamOf), ...added].flat());
  drawStreamLines(draw, x, y);
  drawAdded(draw, x, y, added);
}

export function stageName(stage) {
  const after = `after ${stage % 2 ? "attention" : "the MLP"} of block ${Math.floor((stage - 1) / 2)}`;
  return stage ? after : "the embeddings";
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
    const tip = `${stageName(stage)}\nlength ${show(length)}`;
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
    const axes = array(`norm.${local}`).shape.length; // (position), (layer, position) or (layer, head, position)
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

// The vector before a layer norm, normalised, and after it: every channel of the chosen position.
function drawNormValues() {
  const { layer, position, norm } = chosen;
  const before = norm === "ln_1" ? "resid_pre" : "resid_mid";
  const [mean, deviation] = ["mean", "std"].map((name) => at(`${name}.${before}`, layer, position));
  const root = Math.sqrt(deviation ** 2 + DATA.epsilon);
  const [weight, bias] = ["weight", "bias"].map((name) => at(`h.${layer}.${norm}.${name}`));
  const rows = Array.from(at(`h.${layer}.${before}`, position), (x, channel) => {
    const normalised = (x - mean) / root;
    const after = normalised * weight[channel] + bias[channel];
    return [channel, ...[x, normalised, weight[channel], bias[channel], after].map((number) => fixed(number))];
  });
  writeTable("norm-values", Array(6).fill("number"), rows);
  $("norm-output").textContent =
    `h.${layer}.${norm} at position ${position}: the mean is ${fixed(mean)}, the deviation √(variance + ε) is ` +
    `${fixed(root)}. Normalised is (before − mean) / deviation.`;
  document.querySelector(`input[name=norm][value=${norm}]`).checked = true;
}

for (const radio of document.querySelectorAll("input[name=norm]")) {
  radio.addEventListener("change", () => choose({ norm: radio.value }));
}
follow(["layer", "position", "theme", "width"], drawStream);
follow(["layer", "head", "position"], drawTrace);
follow(["layer", "position"], drawNorms);
follow(["layer", "position", "norm"], drawNormValues);
