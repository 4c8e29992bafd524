"""The explanation in a terminal: `text_report`."""

from __future__ import annotations

import itertools
import math
import textwrap
import unicodedata
from collections.abc import Iterator

import numpy as np

from .analysis import MOST_BITS, OUTPUT, Analysis, norm
from .visible import token_hex, token_text, visible

MOST_PIECES = 12  # pieces whose merges are listed


def text_report(a: Analysis, width: int) -> str:
    """The whole report, for a terminal of this width."""
    lines = [a.facts, *([a.notice] if a.notice else [])]
    lines += [*token_lines(a), *merge_lines(a, width), *forward_lines(a), *lens_lines(a, width), *next_token_lines(a)]
    if "ablation.heads" in a.arrays:
        lines += ablation_lines(a)
    if "gradient.heads" in a.arrays:
        lines += gradient_lines(a)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def token_lines(a: Analysis) -> Iterator[str]:
    """Each token, and how unexpected it was."""
    unit = f"surprisal: how unexpected each token was after those before it, −log₂ p, in bits; bars end at {MOST_BITS}"
    yield from heading("Tokens: position, id, bytes, surprisal", unit)
    for position, (token, bits) in enumerate(zip(a.tokens, a["surprisal"], strict=True)):
        surprise = "" if position == 0 else f"{bits:6.2f}  {bar(bits / MOST_BITS)}"
        text, data = fit(token_text(token, a.model), 16), fit(token_hex(token, a.model), 24)
        yield f"{position:>4}{token:>7}  {text}{data}{surprise}"


def merge_lines(a: Analysis, width: int) -> Iterator[str]:
    """The merges of each piece, one after another."""
    merged = {piece.data: piece.steps for piece in a.pieces if len(piece.steps) > 1}  # equal pieces once
    if not merged:
        return
    yield from heading("Merges", "each piece starts as single bytes; these pairs were merged, one after another")
    for piece, steps in itertools.islice(merged.items(), MOST_PIECES):
        pairs = [" + ".join(map(visible, merged_pair(*states))) for states in itertools.pairwise(steps)]
        text = ", ".join(pairs) + " → " + " ".join(map(visible, steps[-1]))
        lines = textwrap.wrap(text, max(20, width - 16), break_long_words=False, break_on_hyphens=False)
        yield fit(visible(piece), 16) + lines[0]
        yield from (" " * 16 + line for line in lines[1:])
    if len(merged) > MOST_PIECES:
        yield f"… and {len(merged) - MOST_PIECES} more pieces"


def merged_pair(before: list[bytes], after: list[bytes]) -> list[bytes]:
    """The two parts that are one part in the next step."""
    i = next(i for i, (x, y) in enumerate(zip(before, after, strict=False)) if x != y)
    return before[i : i + 2]


def forward_lines(a: Analysis) -> Iterator[str]:
    """Every named result of the forward pass."""
    yield from heading("Forward", "every named result: its shape, and the mean length of its vectors (the last axis)")
    for name, letters, array in a.forward_steps(a.model.config.n_layer):
        if name.endswith("resid_pre") or name in OUTPUT:
            yield ""
        yield f"{name:<19}{letters:<18}{' × '.join(map(str, array.shape)):<21}{norm(array).mean():>10,.4g}"


def lens_lines(a: Analysis, width: int) -> Iterator[str]:
    """The most probable next token after each block, at as many of the last positions as fit the width."""
    T = len(a.tokens)
    shown = range(max(0, T - max(1, (width - 12) // 18)), T)
    which = "" if len(shown) == T else f", at the last {len(shown)} of {T} positions"
    yield from heading("Logit lens", f"the next token if the model ended after this block{which}")
    yield " " * 12 + "".join(fit(token_text(a.tokens[t], a.model), 18) for t in shown)
    for row, (tokens, p) in enumerate(zip(a["lens.tokens"], a["lens.probabilities"], strict=True)):
        cells = (f"{fit(token_text(tokens[t, 0], a.model), 10)}{p[t, 0]:>6.1%}  " for t in shown)
        yield f"{f'h.{row - 1}' if row else 'embeddings':<12}{''.join(cells)}"


def target_text(a: Analysis) -> str:
    """The target as visible text."""
    return "".join(token_text(token, a.model) for token in a.target)


def next_token_lines(a: Analysis) -> Iterator[str]:
    """The most probable next tokens, and the target."""
    log_p = float(a["target.log_probability"])
    probability = f"ln p({target_text(a)}) = {log_p:.3f} nats, p = {math.exp(log_p):.3g}"
    yield from heading("The next token", f"the most probable ones at temperature 1; {probability}")
    candidates = dict(zip(a["lens.tokens"][-1, -1].tolist(), a["lens.probabilities"][-1, -1], strict=True))
    for token, p in (candidates | {a.target[0]: a["lens.target"][-1]}).items():
        mark = "  ← the target" + (", its first token" if len(a.target) > 1 else "") if token == a.target[0] else ""
        yield f"{token:>7}  {fit(token_text(token, a.model), 16)}{p:7.2%}  {bar(p)}{mark}"


def ablation_lines(a: Analysis) -> Iterator[str]:
    """What the removal of each head and each MLP changes."""
    what = f"the change of ln p({target_text(a)}), in nats, when a head or an MLP is removed"
    yield from heading("What mattered", what)
    yield from part_lines(a["ablation.heads"], a["ablation.mlps"])


def part_lines(heads: np.ndarray, mlps: np.ndarray) -> Iterator[str]:
    """A table of numbers for heads (L, H) and MLPs (L,)."""
    yield " " * 8 + "".join(f"{f'head {head}':>9}" for head in range(heads.shape[1])) + f"{'MLP':>9}"
    for layer, (row, mlp) in enumerate(zip(heads, mlps, strict=True)):
        yield f"{f'h.{layer}':<8}" + "".join(f"{x:>+9.3f}" for x in [*row, mlp])


def gradient_lines(a: Analysis) -> Iterator[str]:
    """Gradient × embedding of each token, and the estimated change when a head or an MLP is removed."""
    target = f"ln p({target_text(a)})"
    yield from heading(
        "The backward pass", f"gradient × embedding: what {target} loses without it, in nats, to first order"
    )
    yield f"{'position':<10}{'token':<16}{'embed':>11}{'pos_embed':>11}"
    for t, (token, *products) in enumerate(zip(a.tokens, *a["gradient.embeddings"][-1], strict=True)):
        yield f"{t:>8}  {fit(token_text(token, a.model), 16)}" + "".join(f"{x:>+11.3f}" for x in products)
    yield from ["", f"−(gradient × output): the estimated change of {target}, in nats, when a part is removed", ""]
    yield from part_lines(-a["gradient.heads"][-1], -a["gradient.mlps"][-1])


def heading(title: str, description: str) -> list[str]:
    """The lines above a part of the report."""
    return ["", title.upper(), description, ""]


def bar(share: float) -> str:
    """A bar of up to 40 characters."""
    return "█" * round(40 * min(share, 1))


def fit(text: str, width: int) -> str:
    """Pad or cut a text to a column of this width. East Asian wide characters take two columns of a terminal."""
    kept = ""
    for c in text:
        if columns(kept + c) > width - 2:
            kept += "…"
            break
        kept += c
    return kept + " " * (width - columns(kept))


def columns(text: str) -> int:
    """The width of a text in a terminal."""
    return sum((unicodedata.east_asian_width(c) in "WF") + (not unicodedata.combining(c)) for c in text)
