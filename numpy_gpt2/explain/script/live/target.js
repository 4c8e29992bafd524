// The target: the token whose probability the page explains. Without a choice, it is the best one.
import { at, DATA, piece } from "../data.js";
import { $ } from "../elements.js";
import { choose, chosen, follow } from "../state.js";
import { newest } from "./connection.js";
import { chooseAnew, isAnswered } from "./input.js";

function sayTarget(message, failed = false) {
  $("target-status").textContent = message;
  $("target-status").classList.toggle("failed", failed);
}

function setTarget(id) {
  if (DATA.unused.includes(id)) sayTarget(`The model has no token ${id}: it is an unused row of its table.`, true);
  else chooseAnew({ target: String(id) });
}

// A target is one token. Its text is cut into tokens as a prompt is.
const askForTarget = newest(
  "tokens",
  ({ tokens, n_prompt, pieces }) => {
    if (n_prompt === 1) setTarget(tokens[0]);
    else
      sayTarget(
        `This is ${n_prompt} tokens, ${tokens.map((id) => pieces[id]).join(" ")}; the target must be one.`,
        true,
      );
  },
  (message) => sayTarget(message, true),
);

function useTyped() {
  const prompt = $("target-text").value;
  if (prompt) askForTarget({ model: chosen.model, prompt });
  else sayTarget("Type a token; most words start with a space.", true);
}

function explainClicked(event) {
  const row = event.target.closest("tr[data-token]");
  if (row && chosen.picks === "explain" && isAnswered()) setTarget(Number(row.dataset.token));
}

function drawTargetChoice() {
  $("target-reset").hidden = chosen.target === "";
  if (chosen.target === "") sayTarget("The target is the best token. Most tokens of words start with a space.");
  else sayTarget(`The target is ${piece(DATA.target[0])}, number ${at("next.rank") + 1} by probability.`);
}

for (const radio of document.querySelectorAll("input[name=picks]")) {
  radio.addEventListener("change", () => choose({ picks: radio.value }));
}
$("target-text").addEventListener("keydown", (event) => event.key === "Enter" && useTyped());
$("target-set").addEventListener("click", useTyped);
$("target-reset").addEventListener("click", () => chooseAnew({ target: "" }));
for (const id of ["next-table", "best-table"]) $(id).addEventListener("click", explainClicked);
follow(["data"], drawTargetChoice);
follow(["picks", "data"], () => {
  for (const radio of document.querySelectorAll("input[name=picks]")) radio.checked = radio.value === chosen.picks;
});
