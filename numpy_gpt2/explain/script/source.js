// Source code and equations. CSS writes the numbers of this prompt after each comment that is a shape.
import { DATA } from "./data.js";
import { element, span } from "./elements.js";

const KEYWORDS = "def|return|for|in|if|else|is|not|and|or|None|True|False|raise|lambda|while|with|try|except";
const SYNTAX = new RegExp(
  `(?<string>"""[^]*?"""|f?"[^"\\n]*")|(?<comment>#.*)|(?<defined>(?<=def )\\w+)|(?<keyword>\\b(?:${KEYWORDS})\\b)`,
  "g",
);

// "# (B, H, T, S)" -> "(1, 4, 9, 9)"
function numbers(comment) {
  const letters = comment.match(/\((\.\.\., )?\d?[BTSCHDVL](, \d?[BTSCHDVL])*,?\)/);
  const number = (size, factor, letter) => (size === "4C" ? DATA.inner : (factor || 1) * DATA.dimensions[letter]);
  return letters?.[0].replace(/(\d?)([A-Z])/g, number);
}

function highlighted(code) {
  const parts = [];
  let end = 0;
  for (const match of code.matchAll(SYNTAX)) {
    const kind = Object.keys(match.groups).find((name) => match.groups[name]);
    const shape = kind === "comment" ? numbers(match[0]) : undefined;
    parts.push(code.slice(end, match.index), element("span", { class: kind, "data-numbers": shape }, match[0]));
    end = match.index + match[0].length;
  }
  return [...parts, code.slice(end)];
}

export function drawSources() {
  for (const place of document.querySelectorAll("[data-source]")) {
    const { name, code, where, equation } = DATA.sources[place.dataset.source];
    const summary = element("summary", {}, span("name", name), span("does", equation), span("soft", where));
    const source = element("pre", {}, element("code", {}, ...highlighted(code)));
    const open = "open" in place.dataset ? "" : undefined;
    place.replaceWith(element("details", { class: "source", open }, summary, source));
  }
  for (const place of document.querySelectorAll("[data-equation]")) {
    place.textContent = DATA.sources[place.dataset.equation].equation;
  }
  for (const place of document.querySelectorAll("[data-shape]")) {
    place.replaceChildren(span("mono", place.dataset.shape), span("shape", ` = ${numbers(place.dataset.shape)}`));
  }
}
