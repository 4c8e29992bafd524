// The controls of several steps, and the tips.
import { H, L, positions, range, token } from "./data.js";
import { element, placeTip } from "./elements.js";
import { choose, chosen, follow, redraw } from "./state.js";

const PICKERS = document.querySelectorAll("select[data-pick]");

function drawOptions() {
  const labels = { layer: range(L).map((layer) => `h.${layer}`), head: range(H) };
  labels.position = labels.objective = positions.map((t) => `${t} ${token(t)}`);
  for (const select of PICKERS) {
    const options = labels[select.dataset.pick].map((label, value) => element("option", { value }, label));
    select.replaceChildren(...options);
  }
}

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
  select.addEventListener("change", () => choose({ [select.dataset.pick]: Number(select.value) }));
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
follow(["layer", "head", "position", "objective"], drawPickers);
