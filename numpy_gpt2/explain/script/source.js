// Source code and equations. CSS writes the numbers of this prompt after each comment that is a shape.
import { DATA } from "./data.js";
import { element, span } from "./elements.js";
import { follow } from "./state.js";

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

// The places of the sources become elements that open and close.
function makeSource(place) {
  const open = "open" in place.dataset ? "" : undefined;
  const details = element("details", { class: "source", open }, element("summary"), element("pre"));
  place.replaceWith(details);
  return [place.dataset.source, details];
}

function drawSources() {
  for (const [place, details] of SOURCES) {
    const { name, code, where, equation } = DATA.sources[place];
    const [summary, source] = details.children;
    if (source.textContent !== code) {
      summary.replaceChildren(span("name", name), span("does", equation), span("soft", where));
      source.replaceChildren(element("code", {}, ...highlighted(code)));
    }
    for (const comment of source.querySelectorAll("[data-numbers]")) {
      comment.dataset.numbers = numbers(comment.textContent);
    }
  }
  for (const place of document.querySelectorAll("[data-equation]")) {
    place.textContent = DATA.sources[place.dataset.equation].equation;
  }
  for (const place of document.querySelectorAll("[data-shape]")) {
    place.replaceChildren(span("mono", place.dataset.shape), span("shape", ` = ${numbers(place.dataset.shape)}`));
  }
}

const SOURCES = Array.from(document.querySelectorAll("[data-source]"), makeSource);
follow(["data"], drawSources);
