"""Mistakes in part 4: the functions of `backward.py`."""

from __future__ import annotations

from ..source import Mistake

MISTAKES: dict[str, list[Mistake]] = {}
