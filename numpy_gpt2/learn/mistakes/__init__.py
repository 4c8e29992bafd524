"""The mistakes that are known, by exercise. `..source.Mistake` says what a row is."""

from __future__ import annotations

from ..source import Mistake
from . import attention, blocks, cache, forward, gradients, optimizer, sampling, scores

MISTAKES: dict[str, list[Mistake]] = {
    **forward.MISTAKES,
    **attention.MISTAKES,
    **blocks.MISTAKES,
    **scores.MISTAKES,
    **sampling.MISTAKES,
    **cache.MISTAKES,
    **gradients.MISTAKES,
    **optimizer.MISTAKES,
}
