// The start of a page that holds its data. The arrays are in elements of their own.
import { embedded, take } from "./data.js";
import { start } from "./state.js";

function elementOf(name) {
  const element = document.querySelector(`[data-array="${name}"]`);
  return element && { ...element.dataset, numbers: element.textContent };
}

take(embedded(), elementOf);
start();
