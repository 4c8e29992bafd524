// Steps 1 and 2: tokens, merges, embeddings.
import { at, DATA, has, largest, piece, positions, T, token } from "./data.js";
import { $, bar, element, fillTable, legend, painted, ramp, reachable, span, td, th, tr } from "./elements.js";
import { fixed, percent, quantity, show } from "./numbers.js";
import { choose, chosen, follow } from "./state.js";

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
    span("piece", token(t)),
    ` is token ${DATA.tokens[t]}, bytes `,
    span("mono", DATA.bytes[t] || "none"),
    `; surprisal: ${bits(t)}.${average}`,
  );
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
  if (!has("nearest.tokens")) return td("…", "nearest"); // they are still computed
  const cell = td("", "nearest");
  at("nearest.tokens", position).forEach((id, i) => {
    cell.append(span("piece", piece(id)), span("soft", ` ${show(at("nearest.cosines", position, i), 2)}   `));
  });
  return cell;
}

follow(["theme"], drawTokens);
follow(["theme"], drawTokenTable);
follow(["theme", "nearest.tokens"], drawEmbeddings);
follow(["position", "theme"], drawToken);
follow(["position"], drawMerges);
