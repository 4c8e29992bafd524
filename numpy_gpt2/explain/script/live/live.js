// The live page: it asks the server whenever the choices of the input line change, and draws the answer.
import { DATA, take } from "../data.js";
import { $ } from "../elements.js";
import { chosen, follow, inAddress, renew, start } from "../state.js";
import { newest } from "./connection.js";
import { add } from "./demand.js";
import { drawModel, drawText, say, setAsking } from "./input.js";
import { question } from "./second.js";

// The first part of an answer is new data. The others add to it.
const draw = (part) => (part.tokens ? drawData(part) : add(part));

function drawData(data) {
  const first = DATA === undefined;
  take(data, (name) => data.arrays[name]);
  $("failure").hidden = true;
  document.body.classList.remove("no-data");
  if (first) start();
  else renew();
  drawText();
}

function fail(message) {
  say(message, true);
  setAsking(false);
}

const askServer = newest("explain", draw, fail);

function ask() {
  setAsking(true);
  askServer(question());
}

follow(["model", "prompt", "taken", "target", "second", "interventions"], ask);
document.body.classList.add("no-data");
Object.assign(chosen, inAddress());
drawModel();
$("text").value = chosen.prompt;
$("text").focus();
ask();
