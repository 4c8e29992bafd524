"""The mistakes that are known, by exercise. `..source.Mistake` says what a row is."""

from __future__ import annotations

from ..source import Mistake
from . import attention, blocks, cache, gradients, layers, optimizer, sampling, scores, softmax

MISTAKES: dict[str, list[Mistake]] = {
    **layers.MISTAKES,
    **softmax.MISTAKES,
    **attention.MISTAKES,
    **blocks.MISTAKES,
    **scores.MISTAKES,
    **sampling.MISTAKES,
    **cache.MISTAKES,
    **gradients.MISTAKES,
    **optimizer.MISTAKES,
}
