"""Mistakes in part 3: the functions of `cache.py`."""

from __future__ import annotations

from ..source import Mistake

MISTAKES: dict[str, list[Mistake]] = {}
