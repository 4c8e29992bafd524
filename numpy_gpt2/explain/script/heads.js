// Step 3, the grid of all heads: a small picture of each attention map, and a number that says what the head does.
import { array, at, clamp, following, H, has, L, largest, piece, range, T } from "./data.js";
import {
  $,
  element,
  legend,
  painted,
  pixelOf,
  ramp,
  signColors,
  span,
  stepOf,
  td,
  th,
  tr,
  weightColor,
} from "./elements.js";
import { fixed, percent, show, signed } from "./numbers.js";
import { choose, chosen, follow } from "./state.js";

const SHARES = ["previous", "first", "duplicate", "induction"]; // KINDS in contributions.py
const nameOf = (layer, head) => `head ${head} of block ${layer}`;

const buttons = () => [...$("head-grid").querySelectorAll("button")];
const placeOf = ({ dataset }) => [Number(dataset.layer), Number(dataset.head)];

function drawPicture(canvas, layer, head) {
  const side = array("heads.pictures").shape[2];
  Object.assign(canvas, { width: side, height: side });
  const context = canvas.getContext("2d");
  const image = context.createImageData(side, side);
  const pixels = new Uint32Array(image.data.buffer);
  at("heads.pictures", layer, head).forEach((root, i) => {
    if (i % side <= Math.floor(i / side)) pixels[i] = pixelOf(ramp("blue", root / 255));
  });
  context.putImageData(image, 0, 0);
}

function makeGrid() {
  const button = (layer, head) => {
    const properties = { "data-layer": layer, "data-head": head, onclick: () => choose({ layer, head }) };
    return td(element("button", properties, element("canvas"), element("small")), "");
  };
  const top = tr(th("block"), ...range(H).map((head) => th(`head ${head}`)));
  const rows = range(L).map((layer) => tr(th(`h.${layer}`), ...range(H).map((head) => button(layer, head))));
  $("head-grid").replaceChildren(element("thead", {}, top), element("tbody", {}, ...rows));
}

// The buttons stay as long as the model has as many blocks and heads, because making them takes longer than the rest.
function drawGrid() {
  const last = buttons().at(-1);
  if (!last || String(placeOf(last)) !== String([L - 1, H - 1])) makeGrid();
  for (const button of buttons()) drawPicture(button.firstChild, ...placeOf(button));
  drawNumbers();
  markHead();
}

// The number below each picture, its text, and its color.
function numberOf(layer, head, most) {
  if (chosen.kind === "logit")
    return { text: signed(most.value(layer, head)), rgb: most.color(most.value(layer, head)) };
  if (chosen.kind === "length") {
    const length = at("heads.norm", layer, head, chosen.position);
    return { text: show(length, 2), rgb: ramp("blue", length / most.length) };
  }
  const share = at("heads.kinds", layer, head, SHARES.indexOf(chosen.kind));
  return { text: `${fixed(100 * share, 0)} %`, rgb: ramp("blue", share) };
}

function drawNumbers() {
  const value = (layer, head) => at("direct.heads", layer, head, chosen.position);
  const all = range(L).flatMap((layer) => range(H).map((head) => [layer, head]));
  const lengths = all.map(([layer, head]) => at("heads.norm", layer, head, chosen.position));
  const most = { value, ...signColors(all.map(([layer, head]) => value(layer, head))), length: largest(lengths, 1e-9) };
  for (const button of buttons()) {
    const [layer, head] = placeOf(button);
    const { text, rgb } = numberOf(layer, head, most);
    button.lastChild.textContent = text;
    button.lastChild.style.cssText = painted(rgb);
    button.dataset.tip = `${nameOf(layer, head)}\n${describeKinds(layer, head)}`;
  }
  document.querySelector(`input[name=kind][value=${chosen.kind}]`).checked = true;
}

function describeKinds(layer, head) {
  const shares = at("heads.kinds", layer, head);
  return SHARES.map((name, i) => `${name} ${percent(shares[i])}`).join(", ");
}

function markHead() {
  for (const button of $("head-grid").querySelectorAll("[aria-pressed=true]")) {
    button.setAttribute("aria-pressed", false);
    button.tabIndex = -1;
  }
  const all = $("head-grid").querySelectorAll("button");
  if (!all[0].hasAttribute("aria-pressed")) {
    for (const button of all) Object.assign(button, { ariaPressed: "false", tabIndex: -1 });
  }
  const button = all[chosen.layer * H + chosen.head];
  button.setAttribute("aria-pressed", true);
  button.tabIndex = 0;
}

// The promoted tokens, each after a space, or an ellipsis while they are computed.
export function promoted(name, ...index) {
  return has(name) ? Array.from(at(name, ...index), (id) => [" ", span("piece", piece(id))]).flat() : [" …"];
}

function describeHead() {
  const { layer, head, position } = chosen;
  const name = nameOf(layer, head);
  $("head-output").replaceChildren(
    `${name[0].toUpperCase()}${name.slice(1)} looks at: ${describeKinds(layer, head)}. At position ${position} it adds `,
    `${signed(at("direct.heads", layer, head, position))} to the logit of `,
    span("piece", piece(following(position))),
    `, which is ${fixed(at("next.chosen", position))}. Its output at the last position, ${T - 1}, promotes`,
    ...promoted("heads.tokens", layer, head),
    ".",
  );
}

function moveOnGrid(event) {
  const step = stepOf(event);
  if (!step) return;
  choose({ layer: clamp(chosen.layer + step[0], L), head: clamp(chosen.head + step[1], H) });
  const button = $("head-grid").querySelector("[aria-pressed=true]");
  button.focus();
}

$("head-grid").addEventListener("keydown", moveOnGrid);
for (const radio of document.querySelectorAll("input[name=kind]")) {
  radio.addEventListener("change", () => choose({ kind: radio.value }));
}
legend("head-legend", "weight 0", "1", weightColor);
follow(["theme"], drawGrid);
follow(["kind", "position"], drawNumbers);
follow(["layer", "head"], markHead);
follow(["layer", "head", "position", "heads.tokens"], describeHead);
