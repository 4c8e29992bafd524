"""Mistakes in part 5: the functions of `train/step.py`."""

from __future__ import annotations

from ..source import Mistake

MISTAKES: dict[str, list[Mistake]] = {}
