// Step 3, one cell of the attention map, computed from its vectors: every number of the sums is shown.
import { D, DATA, largest, range, score, scoresOf, softmax, sum, token, vector } from "./data.js";
import { $, element, span, writeTable } from "./elements.js";
import { fixed, show } from "./numbers.js";
import { choose, chosen, follow } from "./state.js";

// z of the head at the query: each channel is the sum of the values of all keys, multiplied by the weights.
function weightedValues(layer, head, query) {
  const weights = softmax(scoresOf(layer, head, query));
  const values = range(query + 1).map((key) => vector("attn.v", layer, head, key));
  return range(D).map((channel) => sum(values.map((v, key) => weights[key] * v[channel])));
}

function drawProducts() {
  const { layer, head, query, key } = chosen;
  const [q, k] = [vector("attn.q", layer, head, query), vector("attn.k", layer, head, key)];
  const z = weightedValues(layer, head, query);
  const rows = range(D).map((i) => {
    return [i, ...[q[i], k[i], q[i] * k[i], z[i]].map((x) => fixed(x))];
  });
  writeTable("product-table", Array(5).fill("number"), rows, (row, channel) => {
    row.onclick = () => choose({ channel });
  });
  const total = sum(range(D).map((i) => q[i] * k[i]));
  const scale = DATA.scales[layer];
  $("product-sum").textContent = fixed(total);
  let masked = "";
  if (key > query) masked = " The key comes later than the query, so the mask replaces the score by −∞.";
  else if (score(layer, head, query, key) === -Infinity) masked = " This edge is removed: −∞ replaces the score.";
  $("product-output").replaceChildren(
    `Query ${query} `,
    span("piece", token(query)),
    ` and key ${key} `,
    span("piece", token(key)),
    ` in head ${head} of block ${layer}: the sum of the products is ${fixed(total)}, times ${show(scale, 4)} `,
    `is the score ${fixed(total * scale)}.${masked}`,
  );
}

function drawSoftmax() {
  const { layer, head, query, channel } = chosen;
  const scores = scoresOf(layer, head, query);
  const most = largest(scores, -Infinity);
  const weights = softmax(scores);
  const values = range(query + 1).map((key) => vector("attn.v", layer, head, key)[channel]);
  const rows = range(query + 1).map((key) => {
    const numbers = [scores[key], Math.exp(scores[key] - most), weights[key], values[key], weights[key] * values[key]];
    return [key, token(key), ...numbers.map((x, i) => fixed(x, i === 2 ? 4 : 3))];
  });
  writeTable("softmax-table", ["number", "piece", ...Array(5).fill("number")], rows, (row, key) => {
    row.onclick = () => choose({ key });
  });
  $("exponential-sum").textContent = fixed(sum(scores.map((score) => Math.exp(score - most))));
  $("weight-sum").textContent = fixed(sum(weights), 4);
  $("value-sum").textContent = fixed(sum(values.map((v, key) => weights[key] * v)));
  for (const place of document.querySelectorAll(".channel")) place.textContent = channel;
  $("softmax-output").replaceChildren(
    `The row of query ${query} `,
    span("piece", token(query)),
    `: the largest score is ${fixed(most)}. Each weight is its exponential divided by their sum. `,
    `The sum of weight × value in channel ${channel} is z, ${$("value-sum").textContent}.`,
  );
}

// The rows of the pinned key and of the chosen channel.
function markRows() {
  const mark = (id, chosenRow) => {
    for (const [i, row] of [...$(id).tBodies[0].rows].entries()) row.classList.toggle("marked", i === chosenRow);
  };
  mark("product-table", chosen.channel);
  mark("softmax-table", chosen.key);
  $("channel").value = chosen.channel;
}

function drawChannels() {
  $("channel").replaceChildren(...range(D).map((i) => element("option", { value: i }, i)));
}

$("channel").addEventListener("change", () => choose({ channel: Number($("channel").value) }));
follow(["data"], drawChannels);
follow(["layer", "head", "query", "key"], drawProducts);
follow(["layer", "head", "query", "channel"], drawSoftmax);
follow(["layer", "head", "query", "key", "channel"], markRows);
