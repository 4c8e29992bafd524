// Parts that take many passes: the removal of each head and MLP, and the backward pass. The server computes them when a
// button asks for them. A new answer of the server, such as that to another text, no longer has them.
import { DATA } from "../data.js";
import { $, element } from "../elements.js";
import { follow, redraw } from "../state.js";
import { newest } from "./connection.js";
import { isAnswered } from "./input.js";
import { question } from "./second.js";

// Arrays that belong to the data, and the texts of their tokens.
export function add({ arrays, pieces, weights }) {
  Object.assign(DATA.arrays, arrays);
  Object.assign(DATA.pieces, pieces);
  Object.assign(DATA.weights, weights);
  redraw(Object.keys(arrays));
}

// The paragraph `id` says that the part is missing. Here it also gets a button, and `text` in place of its own. When the
// arrays have arrived, the paragraph is hidden, and the focus moves from the button to the element `next`.
function onDemand(id, address, text, label, next) {
  const button = element("button", {}, label);
  const bar = element("progress", { max: 1, value: 0, "aria-label": label });
  const count = element("span", { class: "soft" });
  const message = element("span", { role: "status" });
  const show = (running, failure = "") => {
    button.textContent = running ? "Stop" : label;
    bar.hidden = count.hidden = !running;
    message.textContent = failure;
    message.className = failure && "failed";
  };
  const stop = () => {
    ask.cancel();
    show(false);
  };
  const use = (part) => {
    if (part.arrays) {
      const focused = document.activeElement === button;
      show(false);
      add(part);
      if (focused) $(next).focus();
      return;
    }
    bar.value = part.done / part.of;
    count.textContent = `${part.done} of ${part.of}`;
  };
  const ask = newest(address, use, (failure) => show(false, failure));
  button.addEventListener("click", () => {
    if (!bar.hidden) return stop();
    if (!isAnswered()) return;
    bar.value = 0;
    count.textContent = "";
    show(true);
    ask(question());
  });
  $(id).replaceChildren(text, element("br"), button, " ", bar, " ", count, " ", message);
  show(false);
  follow(["model", "prompt", "taken", "target", "second", "interventions"], stop);
}

onDemand(
  "no-ablation",
  "ablation",
  "Here each head and each MLP is removed in turn, which takes one forward pass for each. Interventions stay in force.",
  "Measure the removals",
  "ablation-table",
);
onDemand(
  "no-gradients",
  "gradients",
  "Here backward.py runs on the numbers above, from the prediction back to the tokens, once for each next token.",
  "Compute the gradients",
  "objective",
);
