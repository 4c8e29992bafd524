"""Mistakes in part 2: the functions of `sampling.py and generate.py`."""

from __future__ import annotations

from ..source import Mistake, mistake

MISTAKES: dict[str, list[Mistake]] = {
    "generate_plainly": [
        mistake(
            "first_row", "The scores are those of the first row. The last row predicts the next token.", ("[-1]", "[0]")
        ),
    ],
}
