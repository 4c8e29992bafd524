"""Part 2: the functions of `sampling.py and generate.py`."""

from __future__ import annotations

from ..exercise import Exercise

EXERCISES: list[Exercise] = []
