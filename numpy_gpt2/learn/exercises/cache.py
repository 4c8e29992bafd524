"""Part 3: the functions of `cache.py`."""

from __future__ import annotations

from ..exercise import Exercise

EXERCISES: list[Exercise] = []
