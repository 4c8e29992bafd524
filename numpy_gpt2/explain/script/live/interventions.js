// Interventions: ways to add them, the list of those in force, and the prediction without and with them.
import { at, DATA, H, has, largest, piece, token } from "../data.js";
import { $, bar, element, span, td, tr } from "../elements.js";
import { percent, show } from "../numbers.js";
import { choose, chooseInHistory, chosen, follow, OPENING, READ } from "../state.js";

const MOST_FACTOR = 4; // the sliders end at ±4

function readList(text) {
  try {
    const list = JSON.parse(text);
    if (Array.isArray(list) && list.every((x) => typeof x?.kind === "string")) return text;
  } catch {
    // not JSON
  }
  return "[]";
}

READ.interventions = readList;
READ.clicks = (text) => (text === "remove" ? "remove" : "lead");
Object.assign(OPENING, { interventions: "[]", clicks: "lead" });

export const inForce = () => JSON.parse(chosen.interventions);

// Two interventions are the same if only their factors differ.
const identity = (x) => JSON.stringify(Object.entries({ ...x, factor: 0 }).sort());
const same = (x, y) => identity(x) === identity(y);
const isInForce = (x) => inForce().some((y) => same(x, y));
// Why the server could not use an intervention: for example, a shorter text has no such position.
const refusal = (x) => DATA?.refused.find(([y]) => same(x, y))?.[1];
const setList = (list, use = choose) => use({ interventions: JSON.stringify(list) });
const setListAnew = (list) => setList(list, chooseInHistory);

const end = (x) => setListAnew(inForce().filter((y) => !same(x, y)));

// Add an intervention, or change its factor.
export function intervene(x) {
  if (isInForce(x)) setList(inForce().map((y) => (same(x, y) ? x : y)));
  else setListAnew([...inForce(), x]);
}

const toggle = (x) => (isInForce(x) ? end(x) : intervene(x));
const removal = (layer, head) =>
  head < H ? { kind: "head", layer, head, factor: 0 } : { kind: "mlp", layer, factor: 0 };

// ==== The list

function describe({ kind, layer, head, query, key, name, position, from }) {
  if (kind === "head") return `head ${head} of block ${layer}`;
  if (kind === "mlp") return `the MLP of block ${layer}`;
  if (kind === "edge") return `head ${head} of block ${layer}: query ${query} does not see key ${key}`;
  if (kind === "patch") {
    const of = head === undefined ? "" : `head ${head} of `;
    return `${of}${name} at position ${position}, from position ${from} of the second prompt`;
  }
  const where = position === null ? "all positions" : `position ${position}`;
  return `the direction before block ${layer}, at ${where}`;
}

function listRow(x) {
  const text = describe(x);
  const slider = element("input", {
    type: "range",
    min: -MOST_FACTOR,
    max: MOST_FACTOR,
    step: 0.1,
    "aria-label": `factor: ${text}`,
    oninput: () => intervene({ ...x, factor: Number(slider.value) }),
  });
  const button = element("button", { "aria-label": `end: ${text}`, onclick: () => end(x) }, "✕");
  return tr(td(text, ""), td("factor" in x ? slider : "", ""), td("", "number"), td(button, ""));
}

function effect({ factor }) {
  if (factor === undefined) return "";
  return factor === 0 ? "removed" : `× ${show(factor, 1)}`;
}

let listed = "";

// The rows stay while only factors change, because a slider that is being moved must stay.
function drawList() {
  const list = inForce();
  const rows = $("change-list").tBodies[0];
  const key = list.map(identity).join();
  if (key !== listed) rows.replaceChildren(...list.map(listRow));
  listed = key;
  for (const [i, x] of list.entries()) {
    const [name, slider, state] = rows.rows[i].cells;
    const reason = refusal(x);
    name.classList.toggle("refused", Boolean(reason));
    if (x.factor !== undefined) slider.firstChild.value = x.factor;
    state.className = reason ? "refused" : "number";
    state.textContent = reason ? `not in force: ${reason}` : effect(x);
  }
  $("remove-all").hidden = list.length === 0;
}

// ==== Buttons for what is chosen, and clicks on parts

function drawRemovals() {
  const { layer, head, query, key } = chosen;
  const edge = { kind: "edge", layer, head, query, key };
  const buttons = {
    "remove-head": [removal(layer, head), `head ${head} of block ${layer}`],
    "remove-mlp": [removal(layer, H), `the MLP of block ${layer}`],
    "remove-edge": [edge, `the edge from ${query} ${token(query)} to ${key} ${token(key)} in this head`],
  };
  for (const [id, [x, name]] of Object.entries(buttons)) {
    $(id).textContent = `${isInForce(x) ? "Restore" : "Remove"} ${name}`;
    $(id).onclick = () => toggle(x);
  }
  $("remove-edge").disabled = key > query || query === 0;
  for (const radio of document.querySelectorAll("input[name=clicks]")) radio.checked = radio.value === chosen.clicks;
}

// The head or the MLP that an element of the grid or of a table stands for.
function partOf(target) {
  const button = target.closest("#head-grid button");
  if (button) return removal(Number(button.dataset.layer), Number(button.dataset.head));
  const cell = target.closest("#direct-table td, #ablation-table td");
  return cell && removal(cell.parentElement.sectionRowIndex, cell.cellIndex - 1);
}

// Before the part's own listener gets the click.
function removeClicked(event) {
  const part = chosen.clicks === "remove" && partOf(event.target);
  if (!part) return;
  event.stopPropagation();
  toggle(part);
}

function markParts() {
  const changed = new Set(inForce().map(identity));
  for (const place of document.querySelectorAll("#head-grid button, #direct-table td, #ablation-table td")) {
    const part = partOf(place);
    place.classList.toggle("changed", changed.has(identity(part)) && !refusal(part));
  }
}

// ==== The prediction without and with them

function drawChange() {
  $("change").hidden = !has("change.tokens");
  if ($("change").hidden) return;
  const ids = Array.from(at("change.tokens"));
  const p = ids.map((_, i) => at("change.probabilities", i));
  const most = largest(p.map((pair) => largest(pair)));
  const row = (id, i) => {
    const bars = td(bar(`${(100 * p[i][1]) / most}%`), "wide");
    bars.append(bar(`${(100 * p[i][0]) / most}%`, "was"));
    const cells = tr(td(piece(id), "piece"), bars, td(percent(p[i][0])), td(percent(p[i][1])));
    cells.className = id === DATA.target[0] ? "target" : "";
    return cells;
  };
  $("change-table").tBodies[0].replaceChildren(...ids.map(row));
  const [without, now] = p[ids.indexOf(DATA.target[0])];
  $("change-output").replaceChildren(
    "The target ",
    span("piece", piece(DATA.target[0])),
    `: ${percent(without)} without the interventions, ${percent(now)} with them. `,
    `ln p changes by ${show(Math.log(now / without))}.`,
  );
}

document.addEventListener("click", removeClicked, { capture: true });
for (const radio of document.querySelectorAll("input[name=clicks]")) {
  radio.addEventListener("change", () => choose({ clicks: radio.value }));
}
$("remove-all").addEventListener("click", () => setListAnew([]));
follow(["interventions", "data"], drawList);
follow(["layer", "head", "query", "key", "clicks", "interventions", "data"], drawRemovals);
follow(["interventions", "data", "theme", "kind", "position", "ablation.heads"], markParts);
follow(["data"], drawChange);
