// The controls of several steps, and the tips.
import { H, L, positions, range, token } from "./data.js";
import { $, element, placeTip } from "./elements.js";
import { choose, chosen, follow, redraw } from "./state.js";

const PICKERS = ["layer", "head", "position"];

function drawOptions() {
  const layers = range(L).map((layer) => `h.${layer}`);
  const labels = [layers, range(H), positions.map((t) => `${t} ${token(t)}`)];
  for (const [i, property] of PICKERS.entries()) {
    $(property).replaceChildren(...labels[i].map((label, value) => element("option", { value }, label)));
  }
}

function drawPickers() {
  for (const property of PICKERS) $(property).value = chosen[property];
}

const tipAtPointer = (event) => placeTip(event.target.closest("[data-tip]"), event.clientX, event.clientY);

// A click also moves the focus. Then the tip at the pointer stays.
function tipOfFocus(event) {
  if (!event.target.matches(":focus-visible")) return;
  const { left, bottom } = event.target.getBoundingClientRect();
  placeTip(event.target.closest("[data-tip]"), left, bottom);
}

for (const property of PICKERS) {
  $(property).addEventListener("change", () => choose({ [property]: Number($(property).value) }));
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
follow(["data"], drawOptions);
follow(["layer", "head", "position"], drawPickers);
