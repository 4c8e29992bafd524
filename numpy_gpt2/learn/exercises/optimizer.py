"""Part 5: the functions of `train/step.py`."""

from __future__ import annotations

from ..exercise import Exercise

EXERCISES: list[Exercise] = []
