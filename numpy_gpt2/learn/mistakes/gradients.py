"""Mistakes in part 4: the functions of `backward.py`."""

from __future__ import annotations

from ..source import Mistake, mistake

MISTAKES: dict[str, list[Mistake]] = {
    "layer_norm_backward": [
        mistake("no_mean", "The mean of dn is not subtracted.", (" - dn.mean(axis=-1, keepdims=True)", "")),
    ],
}
