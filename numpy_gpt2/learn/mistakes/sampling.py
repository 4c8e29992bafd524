"""Mistakes in part 2: the functions of `sampling.py and generate.py`."""

from __future__ import annotations

from ..source import Mistake

MISTAKES: dict[str, list[Mistake]] = {}
