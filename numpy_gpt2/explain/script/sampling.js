// Step 5: the next token, with temperature, top-k and top-p.
import { at, DATA, piece, sum, V } from "./data.js";
import { $, bar, reachable, span, td, tr } from "./elements.js";
import { integer, percent, show } from "./numbers.js";
import { choose, chosen, follow } from "./state.js";

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

export let MODEL_P;
const N_LISTED = 20;

// The probabilities with the chosen settings.
export const settled = () => probabilities(at("next.logits"), chosen.temperature, chosen.topK, chosen.topP);

function computeModel() {
  MODEL_P = probabilities(at("next.logits"), 1, 0, 1).p;
  $("top-k").max = at("next.tokens").length;
}

function drawNext() {
  const { temperature, topK, topP, more } = chosen;
  Object.assign($("temperature"), { value: temperature });
  Object.assign($("top-k"), { value: topK });
  Object.assign($("top-p"), { value: topP });
  $("temperature-value").textContent = temperature === 0 ? "0: greedy" : temperature.toFixed(2);
  $("top-k-value").textContent = topK === 0 ? "off" : topK;
  $("top-p-value").textContent = topP === 1 ? "off" : topP.toFixed(2);
  const { p, afterTopK, afterTopP } = settled();
  const rank = at("next.rank"); // the target's place in this order
  const reason = (i) => {
    if (temperature === 0) return "not the first";
    return i >= afterTopK ? "cut by top-k" : "cut by top-p";
  };

  $("more").setAttribute("aria-expanded", more);
  $("more").textContent = more ? "Show fewer candidates" : "Show more candidates";
  const listed = at("next.tokens").subarray(0, more ? undefined : N_LISTED);
  const candidate = (id, i) => candidateRow(id, i, p, i >= afterTopP ? reason(i) : "");
  const rows = Array.from(listed, candidate);
  if (rank >= listed.length) rows.push(candidate(DATA.target[0], rank));
  if (rows.length < V) {
    const rest = sum(p.subarray(listed.length)) - (rows.length > listed.length ? p[rank] : 0);
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
  row.className = i === at("next.rank") ? "target" : "";
  row.dataset.token = id;
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

for (const [id, name] of Object.entries({ temperature: "temperature", "top-k": "topK", "top-p": "topP" })) {
  $(id).addEventListener("input", () => choose({ [name]: Number($(id).value) }));
}
$("more").addEventListener("click", () => choose({ more: !chosen.more }));
follow(["data"], computeModel);
follow(["temperature", "topK", "topP", "more", "theme"], drawNext);
follow(["theme"], drawTarget);
