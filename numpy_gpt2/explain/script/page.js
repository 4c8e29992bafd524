// The controls of several steps, the tips, and the start.
import { H, L, positions, range, token } from "./data.js";
import { element, placeTip } from "./elements.js";
import { drawSources } from "./source.js";
import { choose, chosen, follow, redraw, start } from "./state.js";

const OPTIONS = {
  layer: range(L).map((layer) => `h.${layer}`),
  head: range(H),
  position: positions.map((t) => `${t} ${token(t)}`),
  objective: positions.map((t) => `${t} ${token(t)}`),
};
const PICKERS = document.querySelectorAll("select[data-pick]");

function drawPickers() {
  for (const select of PICKERS) select.value = chosen[select.dataset.pick];
}

const tipAtPointer = (event) => placeTip(event.target.closest("[data-tip]"), event.clientX, event.clientY);

// A click also moves the focus. Then the tip at the pointer stays.
function tipOfFocus(event) {
  if (!event.target.matches(":focus-visible")) return;
  const { left, bottom } = event.target.getBoundingClientRect();
  placeTip(event.target.closest("[data-tip]"), left, bottom);
}

for (const select of PICKERS) {
  const property = select.dataset.pick;
  select.replaceChildren(...OPTIONS[property].map((label, i) => element("option", { value: i }, label)));
  select.addEventListener("change", () => choose({ [property]: Number(select.value) }));
}
document.addEventListener("pointermove", tipAtPointer);
document.addEventListener("pointerdown", tipAtPointer);
document.addEventListener("focusin", tipOfFocus);
document.addEventListener("keydown", (event) => event.key === "Escape" && placeTip(null));
// A finger that leaves the screen also leaves the page; its tip stays until the next touch.
document.documentElement.addEventListener("pointerleave", (event) => event.pointerType !== "touch" && placeTip(null));

let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== width) redraw(["width"]);
  width = innerWidth;
});
follow(Object.keys(OPTIONS), drawPickers);
drawSources();
start();
