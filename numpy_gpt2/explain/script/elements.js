// Elements and colors. Text is always inserted as text, never as HTML.
import { clamp, largest, range } from "./data.js";
import { follow, redraw } from "./state.js";

export const $ = (id) => document.getElementById(id);
const SVG_TAGS = new Set(["svg", "path", "line", "circle", "rect", "text", "polyline"]);

export function element(tag, properties = {}, ...children) {
  const namespace = SVG_TAGS.has(tag) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
  const node = document.createElementNS(namespace, tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style")
      node.style.cssText = value; // the page's security policy forbids the attribute
    else if (value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export const span = (kind, text) => element("span", { class: kind }, text);
export const tr = (...cells) => element("tr", {}, ...cells);
export const th = (text, kind = "") => element("th", { class: kind }, text);
export const td = (content, kind = "number", properties = {}) => element("td", { class: kind, ...properties }, content);
export const bar = (width, kind = "bar") => element("span", { class: kind, style: `width: ${width}` });
export const fillTable = (id, rows) => $(id).tBodies[0].replaceChildren(...rows);

// Write texts into a table: `kinds` are the classes of its columns. The elements stay where there are enough, because
// making them takes longer than all the rest. `prepare` gets each new row and its number.
export function writeTable(id, kinds, texts, prepare = () => {}) {
  const body = $(id).tBodies[0];
  while (body.rows.length > texts.length) body.lastChild.remove();
  while (body.rows.length < texts.length) {
    const row = tr(...kinds.map((kind) => td("", kind)));
    prepare(row, body.rows.length);
    body.append(row);
  }
  for (const [i, row] of [...body.rows].entries()) {
    for (const [j, cell] of [...row.cells].entries()) cell.firstChild.data = texts[i][j];
  }
}

export const barRow = (label, share, value) => tr(td(label, "piece"), td(bar(`${100 * share}%`), "wide"), td(value));

// ==== Colors: one hue from light to dark (or back, on a dark page). Orange and blue are the two signs.

const dark = matchMedia("(prefers-color-scheme: dark)");
let theme = dark.matches ? "dark" : "light";
dark.addEventListener("change", () => {
  theme = dark.matches ? "dark" : "light";
  THEMED.clear();
  redraw(["theme"]);
});
const RAMPS = {
  blue: {
    light: shades("251 250 248", "178 208 232", "60 132 188", "8 48 107"),
    dark: shades("30 33 37", "22 74 122", "58 144 208", "224 241 255"),
  },
  orange: {
    light: shades("251 250 248", "253 208 162", "230 110 30", "127 39 4"),
    dark: shades("30 33 37", "112 46 8", "220 110 30", "255 226 184"),
  },
};

// 256 colors that pass through these stops.
function shades(...stops) {
  const rgb = stops.map((stop) => stop.split(" ").map(Number));
  return range(256).map((shade) => {
    const place = (shade / 255) * (rgb.length - 1);
    const i = Math.min(Math.floor(place), rgb.length - 2);
    return rgb[i].map((low, channel) => Math.round(low + (place - i) * (rgb[i + 1][channel] - low)));
  });
}

export function ramp(hue, share) {
  return RAMPS[hue][theme][Math.round(255 * Math.min(Math.max(share, 0), 1))];
}

export const weightColor = (x) => ramp("blue", Math.sqrt(x)); // the square root makes small weights visible
export const signColor = (share) => ramp(share < 0 ? "orange" : "blue", 0.85 * Math.abs(share));
const css = (rgb) => `rgb(${rgb.join(" ")})`;
export const pixelOf = ([red, green, blue]) => red | (green << 8) | (blue << 16) | (255 << 24); // of an image

// A color of page.css, read once for each theme: to read it, the browser computes the styles of all that has changed.
const THEMED = new Map();

export function themed(name) {
  if (!THEMED.has(name)) THEMED.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return THEMED.get(name);
}

// A background, and black or white text on it: the one with more contrast, by WCAG's relative luminance.
export function painted(rgb) {
  const [r, g, b] = rgb.map((x) => (x <= 10 ? x / 3294.6 : ((x / 255 + 0.055) / 1.055) ** 2.4));
  return `background: ${css(rgb)}; color: ${0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff"}`;
}

export function legend(id, low, high, color) {
  const gradient = `background: linear-gradient(90deg, ${range(9).map((i) => css(color(i / 8)))})`;
  $(id).replaceChildren(low, element("span", { class: "ramp", style: gradient }), high);
}

// The color of each number of a list with two signs. The square root keeps small numbers visible beside large ones.
export function signColors(values) {
  const most = largest(values.map(Math.abs), 1e-9);
  return { most, color: (x) => signColor(Math.sign(x) * Math.sqrt(Math.abs(x) / most)) };
}

// ==== Tips: the text of an element's data-tip, beside the pointer or below the focus

export function placeTip(target, x, y) {
  const tip = $("tip");
  tip.hidden = !target?.dataset.tip;
  if (tip.hidden) return;
  tip.textContent = target.dataset.tip;
  tip.style.left = 0; // near the right edge it would be measured too narrow
  const { clientWidth, clientHeight } = document.documentElement;
  const left = Math.max(6, Math.min(x + 14, clientWidth - tip.offsetWidth - 6));
  const below = y + 18 + tip.offsetHeight <= clientHeight;
  const top = below ? y + 18 : Math.max(6, y - 10 - tip.offsetHeight);
  Object.assign(tip.style, { left: `${left + scrollX}px`, top: `${top + scrollY}px` });
}

// Show a tip that a key has asked for. Screen readers read it aloud.
export function announceTip(target, x, y) {
  placeTip(target, x, y);
  $("announcement").textContent = target.dataset.tip;
}

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

// The step of an arrow key, [down, right]; undefined for other keys.
export function stepOf(event) {
  const step = ARROWS[event.key];
  if (step) event.preventDefault();
  return step;
}

// Let the arrow keys show the tips inside an element, one after another. Up and down move by a whole row of `columns`.
// Enter clicks the element whose tip is shown.
export function reachable(container, label, columns = 1) {
  container.tabIndex = 0;
  container.setAttribute("aria-label", label);
  let mark = -1;
  container.onkeydown = (event) => {
    const step = stepOf(event);
    const marks = container.querySelectorAll("[data-tip]");
    if (event.key === "Enter") marks[mark]?.click();
    if (!step || marks.length === 0) return;
    mark = clamp(mark + columns * step[0] + step[1], marks.length);
    marks[mark].scrollIntoView({ block: "nearest", inline: "nearest" });
    const { right, bottom } = marks[mark].getBoundingClientRect();
    announceTip(marks[mark], right, bottom);
  };
}

// The width of a place, measured once for each width of the window: the browser lays out the whole page to measure it.
const WIDTHS = new Map();
follow(["width"], () => WIDTHS.clear());

export function widthOf(place) {
  if (!WIDTHS.has(place)) WIDTHS.set(place, place.clientWidth);
  return WIDTHS.get(place);
}

// A step that not every page has. It is the last one so far.
export function addStep(id, name) {
  const steps = document.querySelector("nav ol");
  const number = steps.children.length + 1;
  document.querySelector(`#${id} h2 b`).textContent = number;
  steps.append(element("li", {}, element("a", { href: `#${id}` }, `${number} ${name}`)));
}

// An svg as wide as its place, and the edges of the area to draw in.
export function chart(place, label, height, left, bottom) {
  const width = Math.max(widthOf(place), 240);
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "application" });
  reachable(svg, `${label}; the arrow keys move from mark to mark`);
  place.replaceChildren(svg);
  const draw = (tag, properties, ...children) => svg.append(element(tag, properties, ...children));
  return { draw, left, right: width - 12, bottom: height - bottom, top: 12 };
}
