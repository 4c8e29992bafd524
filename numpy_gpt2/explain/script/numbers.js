// Numbers as text.

const FORMATS = []; // by their number of digits; making one takes longer than using it a hundred times

// A fixed number of digits. A number that rounds to 0 has no minus sign.
export function fixed(x, digits = 3) {
  const fraction = { maximumFractionDigits: digits, minimumFractionDigits: digits };
  FORMATS[digits] ??= new Intl.NumberFormat("en", fraction);
  const text = FORMATS[digits].format(x);
  return /[1-9∞N]/.test(text) ? text.replace("-", "−") : text.replace("-", "");
}

// Fixed digits, or an exponent for numbers that are very small or very large.
export function show(x, digits = 3) {
  const tooSmallOrLarge = x !== 0 && (Math.abs(x) < 10 ** -digits || Math.abs(x) >= 1e6);
  return Number.isFinite(x) && tooSmallOrLarge ? x.toExponential(2).replaceAll("-", "−") : fixed(x, digits);
}

export function percent(p) {
  const x = 100 * p;
  let text = x.toExponential(1);
  if (p >= 0.0995) text = x.toFixed(1);
  else if (p >= 1e-3 || p === 0) text = x.toFixed(2);
  else if (p >= 1e-5) text = x.toPrecision(2);
  return `${text.replace("-", "−")} %`;
}

export const integer = (n) => n.toLocaleString("en");
export const quantity = (n, noun) => `${integer(n)} ${noun}${n === 1 ? "" : "s"}`;

export function signed(x) {
  const text = fixed(x);
  return x > 0 && /[1-9]/.test(text) ? `+${text}` : text;
}
