// Step 3, the MLP: the activation function, and the position's strongest neurons.
import { at, DATA, following, largest, piece } from "./data.js";
import { $, chart, element, fillTable, td, themed, tr } from "./elements.js";
import { promoted } from "./heads.js";
import { integer, show, signed } from "./numbers.js";
import { chosen, follow } from "./state.js";

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
    return tr(
      td(neuron),
      td(show(pre)),
      td(show(post)),
      td(signed(at("direct.neurons", layer, position, i))),
      td(element("span", {}, ...promoted("neurons.tokens", layer, position, i)), "promoted"),
    );
  });
  $("neuron-target").textContent = piece(following(position));
  fillTable("neuron-table", rows);
}

follow(["layer", "position", "neurons.tokens", "theme", "width"], drawMlp);
