// Step 6: what each part adds to the target's logit, and what its removal changes.
import { at, DATA, H, has, L, piece, range, sum, T } from "./data.js";
import { $, element, legend, painted, reachable, signColor, signColors, span, td, th, tr } from "./elements.js";
import { fixed, show, signed } from "./numbers.js";
import { choose, follow, goTo } from "./state.js";

// Every head and every MLP: its block, its head (H is the MLP), its name and a number.
export function partsOf(headValue, mlpValue) {
  const name = (layer, head) => (head < H ? `head ${head} of block ${layer}` : `the MLP of block ${layer}`);
  const value = (layer, head) => (head < H ? headValue(layer, head) : mlpValue(layer));
  const part = (layer, head) => ({ layer, head, name: name(layer, head), value: value(layer, head) });
  return range(L).flatMap((layer) => range(H + 1).map((head) => part(layer, head)));
}

// A click on a part leads to it. Reading a head means looking at the last row of its map.
export function lead({ layer, head }) {
  choose({ layer, position: T - 1, ...(head < H ? { head } : {}) });
  goTo(head < H ? "attention" : "mlp");
}

// A table of blocks × heads and MLPs. The tip of a part is `tip(part)`.
export function drawParts(id, label, parts, tip) {
  const { most, color } = signColors(parts.map(({ value }) => value));
  const cell = (part) => {
    const properties = { style: painted(color(part.value)), "data-tip": `${tip(part)}\nA click leads there.` };
    return td(signed(part.value), "number", { ...properties, onclick: () => lead(part) });
  };
  const head = tr(th("block"), ...range(H).map((i) => th(`head ${i}`, "number")), th("MLP", "number"));
  const rows = range(L).map((layer) => tr(th(`h.${layer}`), ...parts.filter((part) => part.layer === layer).map(cell)));
  reachable($(`${id}-table`), `${label}; the arrow keys move from part to part, Enter leads there`, H + 1);
  $(`${id}-table`).replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
  const square = (share) => signColor(Math.sign(share) * Math.sqrt(Math.abs(share)));
  legend(`${id}-legend`, `−${show(most, 2)}`, `+${show(most, 2)}`, (share) => square(2 * share - 1));
}

function drawDirect() {
  const last = (name) => at(`direct.${name}`, T - 1);
  const parts = partsOf(
    (layer, head) => at("direct.heads", layer, head, T - 1),
    (layer) => at("direct.mlps", layer, T - 1),
  );
  drawParts("direct", "Contributions", parts, ({ name, value }) => `${name} adds ${signed(value)} to the logit.`);
  const rest = [last("embed"), last("pos_embed"), last("biases")];
  const [embed, position, biases] = rest.map(signed);
  const total = at("next.chosen", T - 1);
  const added = total - sum(parts.map(({ value }) => value)) - sum(rest); // of the hook, such as a patch
  const intervention = Math.abs(added) > 1e-3 ? ` and ${signed(added)} from interventions` : "";
  $("direct-output").replaceChildren(
    `The token embedding adds ${embed}, the position embedding ${position}, and the biases ${biases}. Together with the `,
    `cells${intervention}, the sum is ${fixed(total)}, the logit of `,
    span("piece", piece(DATA.target[0])),
    ".",
  );
}

function drawAblation() {
  $("ablation").hidden = !has("ablation.heads");
  $("no-ablation").hidden = !$("ablation").hidden;
  if ($("ablation").hidden) return;
  const parts = partsOf(
    (layer, head) => at("ablation.heads", layer, head),
    (layer) => at("ablation.mlps", layer),
  );
  const tip = ({ name, value }) =>
    `without ${name}: ${signed(value)} nats,\n${show(Math.exp(value))} times as probable`;
  drawParts("ablation", "Changes", parts, tip);
  const helpful = parts.filter(({ value }) => value < 0).sort((a, b) => a.value - b.value);
  const names = helpful.slice(0, 3).map(({ name, value }) => `${name} (${signed(value)})`);
  $("ablation-output").textContent = `Most helpful: ${names.join(", ") || "nothing"}.`;
}

follow(["theme"], drawDirect);
follow(["theme", "ablation.heads"], drawAblation);
