"""Mistakes in part 3: the functions of `cache.py`."""

from __future__ import annotations

from ..source import Mistake, mistake

MISTAKES: dict[str, list[Mistake]] = {
    "KVCache.update": [
        mistake(
            "layer_0",
            "All layers are stored in the place of layer 0.",
            ("self.keys[layer, :, :, self.length : S] = k", "layer = 0\nself.keys[layer, :, :, self.length : S] = k"),
        ),
    ],
}
