// Step 7: the backward pass. Each position has an objective, ln p of the token after it. The steps are those of the target.
import {
  array,
  at,
  DATA,
  H,
  has,
  L,
  largest,
  piece,
  positions,
  range,
  rowOf,
  sum,
  T,
  token,
  weightsOf,
} from "./data.js";
import {
  $,
  addStep,
  chart,
  element,
  fillTable,
  legend,
  painted,
  reachable,
  signColor,
  signColors,
  span,
  td,
  themed,
  tr,
  writeTable,
} from "./elements.js";
import { drawParts, lead, partsOf } from "./mattered.js";
import { fixed, show, signed } from "./numbers.js";
import { MODEL_P } from "./sampling.js";
import { choose, chosen, follow } from "./state.js";
import { lengthChart, stageName } from "./stream.js";

const N_LOSS = 6; // candidates whose gradient is computed by hand

const targetText = (t) => (t === T - 1 ? DATA.target.map(piece).join("") : token(t + 1));

function drawObjective() {
  const t = chosen.objective;
  $("objective-output").replaceChildren(
    `The objective is ln p(`,
    span("piece", targetText(t)),
    `), given the tokens up to position ${t}, `,
    span("piece", token(t)),
    t === T - 1 ? ". This is the target." : ".",
  );
}

function drawGradientLengths() {
  const { objective, position } = chosen;
  const lengthsOf = (t) => range(2 * L + 1).map((stage) => at("gradient.stream", objective, stage, t));
  const place = $("gradient-chart");
  const { draw, x, y } = lengthChart(place, "Lengths of gradients", positions.flatMap(lengthsOf));
  const line = (t, style) => {
    const stages = [...lengthsOf(t).entries()].filter(([, length]) => length > 0);
    const points = stages.map(([stage, length]) => `${x(stage).toFixed(1)},${y(length).toFixed(1)}`);
    const tip = `position ${t} ${token(t)}\nlength at the embeddings ${show(lengthsOf(t)[0])}`;
    draw("polyline", { points: points.join(" "), fill: "none", ...style, "data-tip": tip });
  };
  for (const t of positions) if (t !== position) line(t, { stroke: themed("--soft"), opacity: 0.4 });
  line(position, { stroke: themed("--ink"), "stroke-width": 2.5 });
  for (const [stage, length] of lengthsOf(position).entries()) {
    const tip = `position ${position}, ${stageName(stage)}\nlength ${show(length)}`;
    const style = { r: 4, fill: themed("--blue"), "data-tip": tip };
    if (length > 0) draw("circle", { cx: x(stage), cy: y(length), ...style });
  }
}

const embeddingProducts = (t) => [0, 1].map((i) => at("gradient.embeddings", chosen.objective, i, t));

function drawGradientTokens() {
  const sums = positions.map((t) => sum(embeddingProducts(t)));
  const { most, color } = signColors(sums);
  const buttons = positions.map((t) => {
    const tip = `position ${t}\ngradient × embedding ${signed(sums[t])}`;
    const properties = { style: painted(color(sums[t])), "data-tip": tip, onclick: () => choose({ position: t }) };
    return element("button", { ...properties, "aria-label": `position ${t}, ${token(t)}` }, token(t));
  });
  $("gradient-strip").replaceChildren(...buttons);
  const square = (share) => signColor(Math.sign(share) * Math.sqrt(Math.abs(share)));
  legend("gradient-legend", `−${show(most, 2)}`, `+${show(most, 2)}`, (share) => square(2 * share - 1));
  const rows = positions.map((t) => {
    const length = at("gradient.stream", chosen.objective, 0, t);
    return tr(
      td(t),
      td(token(t), "piece"),
      ...[...embeddingProducts(t), sums[t]].map((x) => td(signed(x))),
      td(show(length)),
    );
  });
  fillTable("gradient-table", rows);
}

// ==== gradient × output, beside the real removal

const estimates = () =>
  partsOf(
    (layer, head) => -at("gradient.heads", chosen.objective, layer, head),
    (layer) => -at("gradient.mlps", chosen.objective, layer),
  );

const measured = ({ layer, head }) => (head < H ? at("ablation.heads", layer, head) : at("ablation.mlps", layer));

function drawEstimates() {
  const parts = estimates();
  const compared = has("ablation.heads") && chosen.objective === T - 1;
  const real = (part) => (compared ? `\nmeasured: ${signed(measured(part))} nats` : "");
  const tip = (part) => `without ${part.name}, estimated: ${signed(part.value)} nats${real(part)}`;
  drawParts("estimate", "Estimated changes", parts, tip);
  $("estimate-figure").hidden = !compared;
  if (!compared) {
    $("estimate-output").textContent = has("ablation.heads")
      ? "Choose the last position to compare these estimates with the real removal."
      : "Step 6 can measure the real removals. Then this step compares them with the estimates.";
    return;
  }
  const error = (part) => Math.abs(part.value - measured(part));
  const worst = [...parts].sort((a, b) => error(b) - error(a)).slice(0, 3);
  const names = worst.map(
    (part) => `${part.name} (estimated ${signed(part.value)}, measured ${signed(measured(part))})`,
  );
  $("estimate-output").textContent = `The estimate fails most for ${names.join(", ")}.`;
  drawComparison(parts);
}

// Both axes have one scale. It is the square root of the change, so that small changes are apart from each other.
function drawComparison(parts) {
  const { draw, left, right, top, bottom } = chart($("estimate-chart"), "Estimated and measured changes", 340, 60, 34);
  const most = largest(parts.flatMap((part) => [part.value, measured(part)]).map(Math.abs), 1e-9);
  const place = (x) => (1 + Math.sign(x) * Math.sqrt(Math.abs(x) / most)) / 2;
  const x = (value) => left + (right - left) * place(value);
  const y = (value) => bottom - (bottom - top) * place(value);
  const line = (x1, y1, x2, y2, style) => draw("line", { x1: x(x1), y1: y(y1), x2: x(x2), y2: y(y2), ...style });
  line(-most, 0, most, 0, { stroke: themed("--line") });
  line(0, -most, 0, most, { stroke: themed("--line") });
  line(-most, -most, most, most, { stroke: themed("--soft"), "stroke-dasharray": "4 4" });
  for (const [value, anchor] of [
    [-most, "start"],
    [most, "end"],
  ]) {
    draw("text", { x: x(value), y: bottom + 18, "text-anchor": anchor }, signed(value));
    draw("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, signed(value));
  }
  for (const part of parts) {
    const [px, py] = [x(part.value), y(measured(part))];
    const tip = `${part.name}\nestimated ${signed(part.value)}, measured ${signed(measured(part))}\nA click leads there.`;
    const properties = { "data-tip": tip, stroke: themed("--paper"), onclick: () => lead(part) };
    if (part.head < H) draw("path", { d: `M${px} ${py - 6}l6 10h-12z`, fill: themed("--blue"), ...properties });
    else draw("circle", { cx: px, cy: py, r: 5, fill: themed("--orange"), ...properties });
  }
}

// ==== The steps: the lengths of what each function is given and returns, and of the gradients

const axesOf = (name) => array(`norm.${name}`).shape.length; // (position), (layer, position) or with heads

// The name in full, the shape, and the lengths of a named result and of its gradient, here.
function describeResult(name) {
  const { layer, head, position } = chosen;
  const index = [[position], [layer, position], [layer, head, position]][axesOf(name) - 1];
  const block = axesOf(name) > 1;
  const [, , shape] = DATA.steps.find(([step]) => step === (block ? `h.0.${name}` : name)) ?? [
    0,
    0,
    [T, DATA.dimensions.V],
  ];
  const lengths = ["norm", "gradient.norm"].map((kind) => at(`${kind}.${name}`, ...index));
  return [block ? `h.${layer}.${name}` : name, shape, ...lengths];
}

function describeWeight(name) {
  const full = name in DATA.weights ? name : `h.${chosen.layer}.${name}`;
  return [full, ...DATA.weights[full]];
}

// Beside each function: what it is given, what it returns, its weights. Beside its partner: their gradients.
function drawSteps() {
  for (const pair of document.querySelectorAll(".pair")) {
    const names = (key) => (pair.dataset[key] ?? "").split(" ").filter(Boolean);
    const results = [...names("given"), ...names("result")].map(describeResult);
    const rows = [...results, ...names("weights").map(describeWeight)];
    for (const [side, table] of [...pair.querySelectorAll(".numbers")].entries()) {
      const name = (text) => (side === 0 ? text : `d ${text}`);
      const cells = rows.map(([text, shape, ...lengths]) =>
        tr(td(name(text), "mono"), td(`(${shape.join(", ")})`, "mono"), td(show(lengths[side]))),
      );
      table.replaceChildren(element("tbody", {}, ...cells));
    }
  }
}

function drawLoss() {
  const rank = at("next.rank");
  const shown = [...new Set([...range(Math.min(N_LOSS, MODEL_P.length)), rank])].filter(
    (i) => i < at("next.tokens").length,
  );
  const rows = shown.map((i) => {
    const isTarget = Number(i === rank);
    const numbers = [MODEL_P[i], isTarget - MODEL_P[i]];
    const texts = [fixed(at("next.logits", i)), isTarget, ...numbers.map((x) => fixed(x, 4))];
    return tr(td(piece(at("next.tokens", i)), "piece"), ...texts.map((text) => td(text)));
  });
  $("loss-table").tBodies[0].replaceChildren(...rows);
}

// softmax_backward for the row of the pinned query.
function drawRow() {
  const { layer, head, query, key } = chosen;
  const y = weightsOf(layer, head, query);
  const dy = rowOf(`gradient.h.${layer}.attn.pattern`, head, query);
  const products = y.map((weight, i) => weight * dy[i]);
  const total = sum(products);
  const dx = y.map((weight, i) => weight * (dy[i] - total));
  const rows = range(query + 1).map((i) => [
    i,
    token(i),
    fixed(y[i], 4),
    ...[dy[i], products[i], dy[i] - total, dx[i]].map((n) => fixed(n, 5)),
  ]);
  writeTable("row-table", ["number", "piece", ...Array(5).fill("number")], rows, (row, i) => {
    row.onclick = () => choose({ key: i });
  });
  for (const [i, row] of [...$("row-table").tBodies[0].rows].entries()) row.classList.toggle("marked", i === key);
  $("row-weights").textContent = fixed(sum(y), 4);
  $("row-products").textContent = fixed(total, 5);
  $("row-gradients").textContent = fixed(sum(dx), 5);
  $("row-output").replaceChildren(
    `By hand: the row of query ${query} `,
    span("piece", token(query)),
    ` in head ${head} of block ${layer}. y is the weight, dy its gradient, dx the gradient of the score. The sum of dx is 0.`,
  );
}

function prepareSteps() {
  for (const pair of document.querySelectorAll(".pair")) {
    const columns = [...pair.children].map((column) =>
      element("div", {}, element("table", { class: "numbers" }), column),
    );
    pair.replaceChildren(...columns);
  }
}

// Both sources of a step open and close together.
function toggleBoth(event) {
  for (const source of event.target.closest(".pair")?.querySelectorAll("details") ?? [])
    source.open = event.target.open;
}

function drawSection() {
  $("backward").hidden = !has("gradient.stream");
  $("no-gradients").hidden = !$("backward").hidden;
}

const followGradients = (properties, draw) =>
  follow([...properties, "gradient.stream"], draw, () => has("gradient.stream"));

addStep("gradients", "The backward pass");
prepareSteps();
document.addEventListener("toggle", toggleBoth, true);
reachable($("gradient-strip"), "Gradient × embedding; the arrow keys move from token to token");
follow(["data", "gradient.stream"], drawSection);
followGradients(["objective"], drawObjective);
followGradients(["objective", "layer", "position", "theme", "width"], drawGradientLengths);
followGradients(["objective", "theme"], drawGradientTokens);
followGradients(["objective", "theme", "width", "ablation.heads"], drawEstimates);
followGradients(["layer", "head", "position"], drawSteps);
followGradients(["theme"], drawLoss);
followGradients(["layer", "head", "query", "key"], drawRow);
