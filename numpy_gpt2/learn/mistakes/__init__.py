"""The mistakes that are known, by exercise. `..source.Mistake` says what a row is."""

from __future__ import annotations

from ..source import Mistake
from . import (
    attention,
    blocks,
    cache,
    cuts,
    decoding,
    gradients,
    layers,
    optimizer,
    sampling,
    schedule,
    scores,
    softmax,
)

MISTAKES: dict[str, list[Mistake]] = {
    **layers.MISTAKES,
    **softmax.MISTAKES,
    **attention.MISTAKES,
    **blocks.MISTAKES,
    **scores.MISTAKES,
    **cuts.MISTAKES,
    **sampling.MISTAKES,
    **decoding.MISTAKES,
    **cache.MISTAKES,
    **gradients.MISTAKES,
    **schedule.MISTAKES,
    **optimizer.MISTAKES,
}
