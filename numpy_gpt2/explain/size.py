"""How large a page will be. This is known before anything is computed."""

from __future__ import annotations

from ..config import GPT2Config
from .analysis import N_LENS, N_NEAREST, N_NEURONS
from .contributions import N_PROMOTED

MAX_BYTES = 100_000_000  # of a page, with everything in it. A much larger page opens slowly, or not at all.
N_BINS = 48  # of the histogram of each position's neurons
THUMBNAIL = 24  # pixels of a head's small picture, at most
FIXED_BYTES = 400_000  # the text, style, script and source code of a page, and the texts of its candidates


def page_bytes(config: GPT2Config, T: int, gradients: bool = False) -> int:
    """The size of the page for T tokens, with or without gradients, and at most a few percent more.

    The arrays are those of `page_arrays`. Base64 writes 3 bytes as 4 characters.
    """
    L, H, C, V = config.n_layer, config.n_head, config.n_embd, config.vocab_size
    codes = 3 * C + H * (T + 1) / 2 + N_BINS  # q, k, v; scores that are not masked; histograms: 16 bits each
    ranges = 2 * 4 * H  # low and step of q, k, v and the scores
    stream = 2 * C  # before each layer norm
    norms = 8 + 5 * H + 8 + 2 * H + 1  # lengths, means, deviations; lengths and contributions of heads, of the MLP
    neurons = N_NEURONS * (4 + N_PROMOTED)
    lens = 2 * N_LENS
    per_layer = T * (2 * codes + 4 * (ranges + stream + norms + neurons + lens)) + 16 * C + H * (THUMBNAIL**2 + 64)
    numbers = L * per_layer + 4 * T * (2 * N_LENS + 2 * N_NEAREST + 10) + 4 * V
    if gradients:
        lengths = 9 + 6 * H + 2 * H  # of the gradients of the named results; low and step of those of the weights
        objectives = 2 * T + H + 1  # of each position's: lengths in the stream; products of heads and of the MLP
        numbers += L * T * (H * (T + 1) + 4 * (lengths + objectives)) + 4 * T * (3 * T + 3)
    tokens = min(V, T * ((L + 1) * N_LENS + L * N_NEURONS * N_PROMOTED))  # whose texts the page holds
    return int(numbers * 4 / 3) + 24 * tokens + 400 * T + 600 * L + FIXED_BYTES


def check_size(config: GPT2Config, T: int, gradients: bool = False) -> None:
    """Raise ValueError if the page for T tokens would be larger than MAX_BYTES, and say how many tokens fit."""
    size = page_bytes(config, T, gradients)
    if size > MAX_BYTES:
        fits = next((n for n in range(T - 1, 0, -1) if page_bytes(config, n, gradients) <= MAX_BYTES), 0)
        way_out = f"show fewer tokens with --max-tokens {fits}" if fits else "choose a smaller model, or --text"
        raise ValueError(
            f"the page for {T:,} tokens is {size / 1e6:,.0f} MB; it must be {MAX_BYTES / 1e6:.0f} MB at most; {way_out}"
        )
