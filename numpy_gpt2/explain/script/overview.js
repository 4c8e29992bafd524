// The top of the page: the prompt, the way through the model, the best candidates, and the switch for the code.
import { at, DATA, L, piece } from "./data.js";
import { $, bar, element, span, td, tr } from "./elements.js";
import { integer, percent } from "./numbers.js";
import { MODEL_P } from "./sampling.js";
import { choose, chosen, follow, goTo } from "./state.js";

const MEANINGS = {
  B: "batch",
  T: "tokens",
  S: "keys",
  C: "channels",
  H: "heads",
  D: "channels of a head",
  V: "vocabulary",
  L: "layers",
};
const N_BEST = 5;
const N_STRIP = 14; // the last tokens of the prompt, in the strip

function drawHeader() {
  document.title = `GPT-2, step by step: ${DATA.text.slice(0, 60)}`;
  $("prompt").textContent = DATA.text;
  $("strip-prompt").replaceChildren(...DATA.tokens.slice(-N_STRIP).map((id) => span("piece", piece(id))));
  $("prompt").classList.toggle("long", DATA.text.length > 120);
  $("facts").textContent = `in the model ${DATA.facts}`;
  $("notice").textContent = DATA.notice;
  $("notice").hidden = !DATA.notice;
  $("repeats").textContent = `× ${L}`;
  const dimensions = Object.entries(DATA.dimensions).map(([letter, n]) =>
    element("li", {}, element("b", {}, letter), ` = ${integer(n)} `, span("soft", MEANINGS[letter])),
  );
  $("dimensions").replaceChildren(...dimensions);
}

function drawBest() {
  const ids = Array.from(at("next.tokens").subarray(0, N_BEST));
  const row = (id, i) => {
    const share = bar(`${(100 * MODEL_P[i]) / MODEL_P[0]}%`);
    const row = tr(td(piece(id), "piece"), td(share, "wide"), td(percent(MODEL_P[i])));
    row.dataset.token = id;
    return row;
  };
  $("best-table").tBodies[0].replaceChildren(...ids.map(row));
}

function drawCode() {
  $("code").checked = chosen.code;
  document.body.classList.toggle("no-code", !chosen.code);
}

// Links inside the page keep the choices in the address, so the browser must not replace it.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']");
  if (!link) return;
  event.preventDefault();
  goTo(link.hash.slice(1));
});
$("code").addEventListener("change", () => choose({ code: $("code").checked }));
follow(["data"], drawHeader);
follow(["theme"], drawBest);
follow(["code"], drawCode);
