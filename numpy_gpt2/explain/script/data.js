// The page's data: DATA from page_data() in page.py, and the arrays of page_arrays(), decoded when they are first used.

// A failure shows on the page. Without this, a part of the page would be empty, and no one would know why.
addEventListener("error", ({ message }) => {
  const notice = document.getElementById("failure");
  notice.textContent = `This page is incomplete, because an error occurred: ${message}`;
  notice.hidden = false;
});

export let DATA;
export let T;
export let C;
export let H;
export let D;
export let V;
export let L;
export let positions;

const KINDS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array };
const DECODED = new Map();
let encoded;

export const embedded = () => JSON.parse(document.getElementById("data").textContent);

// Use this data from now on. `find` returns an array by its name: kind, axes and numbers, as encoded() in page.py.
export function take(data, find) {
  DATA = data;
  ({ T, C, H, D, V, L } = data.dimensions);
  positions = range(T);
  encoded = find;
  DECODED.clear();
}

export const has = (name) => Boolean(encoded(name));

function decode(name) {
  if (!has(name)) throw new Error(`the array ${name} is missing`);
  const { kind, axes, numbers } = encoded(name);
  const characters = atob(numbers);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return { shape: axes.split(" ").filter(Boolean).map(Number), values: new KINDS[kind](bytes.buffer) };
}

export function array(name) {
  if (!DECODED.has(name)) DECODED.set(name, decode(name));
  return DECODED.get(name);
}

// One number of an array. With fewer indices than axes: all numbers with these indices, flat.
export function at(name, ...index) {
  const { shape, values } = array(name);
  const size = shape.slice(index.length).reduce((a, b) => a * b, 1);
  const start = index.reduce((sum, i, axis) => sum * shape[axis] + i, 0) * size;
  return index.length === shape.length ? values[start] : values.subarray(start, start + size);
}

// A vector that is stored as 16-bit codes: coded() in page.py.
function uncoded(codes, [low, step]) {
  const values = new Float64Array(codes.length);
  for (let i = 0; i < codes.length; i++) values[i] = low + step * codes[i];
  return values;
}

// "attn.q", "attn.k" or "attn.v" of one head at one position.
export function vector(name, layer, head, position) {
  const codes = at(`h.${layer}.${name}`, head, position);
  return uncoded(codes, at(`h.${layer}.${name}.range`, head, position));
}

// One row of a map, such as "h.3.attn.scores": the numbers of the keys 0 to query. The masked ones are not stored.
export function rowOf(name, head, query) {
  const start = (query * (query + 1)) / 2;
  const codes = at(name, head).subarray(start, start + query + 1);
  return uncoded(codes, at(`${name}.range`, head, query));
}

// A removed edge has the score −Infinity.
export function scoresOf(layer, head, query, prompt = "") {
  const scores = rowOf(`${prompt}h.${layer}.attn.scores`, head, query);
  for (const [l, h, q, key] of prompt ? [] : DATA.removed_edges) {
    if (l === layer && h === head && q === query) scores[key] = -Infinity;
  }
  return scores;
}

export const largest = (values, least = 0) => values.reduce((a, b) => Math.max(a, b), least);
export const sum = (values) => values.reduce((a, b) => a + b, 0);

// `softmax` of model.py.
export function softmax(scores) {
  const most = largest(scores, -Infinity);
  const exponentials = scores.map((score) => Math.exp(score - most));
  const total = sum(exponentials);
  return exponentials.map((x) => x / total);
}

export const weightsOf = (layer, head, query, prompt) => softmax(scoresOf(layer, head, query, prompt));
export const score = (layer, head, query, key) => (key > query ? -Infinity : scoresOf(layer, head, query)[key]);
export const weight = (layer, head, query, key) => (key > query ? 0 : weightsOf(layer, head, query)[key]);

export const piece = (id) => DATA.pieces[id];
export const token = (position) => piece(DATA.tokens[position]);
export const following = (position) => (position + 1 < T ? DATA.tokens[position + 1] : DATA.target[0]);
export const range = (n) => Array.from({ length: n }, (_, i) => i);
export const clamp = (x, n) => Math.min(Math.max(x, 0), n - 1);
