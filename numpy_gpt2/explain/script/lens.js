// Step 4: the logit lens.
import { at, clamp, DATA, has, L, largest, piece, positions, range, T, token } from "./data.js";
import { $, barRow, element, legend, painted, ramp, span, stepOf, td, th, tr } from "./elements.js";
import { percent } from "./numbers.js";
import { choose, chosen, follow, goTo } from "./state.js";

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
    onclick: () => choose({ row, position: t, layer: Math.max(row - 1, 0) }),
  };
  return td(element("button", properties, piece(best), element("small", {}, percent(p))), "");
}

// Until the lens of new data has arrived, the old one stays, but nothing in it can be clicked.
function drawLens() {
  $("lens").inert = !has("lens.tokens");
  if ($("lens").inert) return;
  const rows = range(L + 1).map((row) => tr(th(lensRow(row)), ...positions.map((t) => lensCell(row, t))));
  const head = tr(th("read"), ...positions.map((t) => th(token(t))));
  $("lens-table").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
  legend("lens-legend", "0 %", "100 %", (share) => ramp("blue", share));

  const most = largest(at("lens.target"), 1e-30);
  const bars = Array.from(at("lens.target"), (p, row) => barRow(lensRow(row), p / most, percent(p)));
  $("target-rise").replaceChildren(...bars);
  markCell();
}

function markCell() {
  if ($("lens").inert) return;
  const { row, position } = chosen;
  for (const button of $("lens-table").querySelectorAll("[aria-pressed=true]")) {
    button.setAttribute("aria-pressed", false);
    button.tabIndex = -1;
  }
  const button = $("lens-table").querySelector(`[data-row="${row}"][data-position="${position}"]`);
  button.setAttribute("aria-pressed", true);
  button.tabIndex = 0;
  const title = `${lensRow(row)}, position ${position} `;
  $("lens-title").replaceChildren(title[0].toUpperCase() + title.slice(1), span("piece", token(position)));
  $("lens-link").textContent = `Block ${Math.max(row - 1, 0)} at position ${position}`;
  const p = at("lens.probabilities", row, position);
  const rows = Array.from(at("lens.tokens", row, position), (id, i) => barRow(piece(id), p[i] / p[0], percent(p[i])));
  $("lens-top").replaceChildren(...rows);
  requestAnimationFrame(showCell);
}

// In the next frame, when the browser lays out the page in any case.
function showCell() {
  const button = $("lens-table").querySelector("[aria-pressed=true]");
  $("lens-scroll").scrollLeft = button.parentElement.offsetLeft - $("lens-scroll").clientWidth / 2;
}

function moveOnLens(event) {
  const step = stepOf(event);
  if (!step) return;
  const row = clamp(chosen.row + step[0], L + 1);
  choose({ row, position: clamp(chosen.position + step[1], T), layer: Math.max(row - 1, 0) });
  $("lens-table").querySelector("[aria-pressed=true]").focus();
}

$("lens-table").addEventListener("keydown", moveOnLens);
$("lens-link").addEventListener("click", () => goTo("blocks"));
follow(["lens.tokens", "theme"], drawLens);
follow(["row", "position"], markCell);
