"""The mistakes that are known, by exercise. `..source.Mistake` says what a row is."""

from __future__ import annotations

from ..source import Mistake
from . import (
    attention,
    attention_backward,
    blocks,
    blocks_backward,
    cache,
    cuts,
    decoding,
    drawing,
    layers,
    layers_backward,
    model_backward,
    norm_backward,
    optimizer,
    sampling,
    schedule,
    scores,
    scores_backward,
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
    **drawing.MISTAKES,
    **decoding.MISTAKES,
    **cache.MISTAKES,
    **norm_backward.MISTAKES,
    **layers_backward.MISTAKES,
    **attention_backward.MISTAKES,
    **blocks_backward.MISTAKES,
    **model_backward.MISTAKES,
    **scores_backward.MISTAKES,
    **schedule.MISTAKES,
    **optimizer.MISTAKES,
}
