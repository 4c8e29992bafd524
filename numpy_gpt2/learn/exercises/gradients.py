"""Part 4: the functions of `backward.py`."""

from __future__ import annotations

from ..exercise import Exercise

EXERCISES: list[Exercise] = []
