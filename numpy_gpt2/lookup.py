"""Prompt-lookup decoding: when the last words have been written before, what came after them may come again.

The model checks a whole draft of such guesses in one pass, which costs much less than a pass for each token, as most of
the time goes into reading the weights. What it would not have written itself is thrown away, so that a text stays what
it is and only comes sooner. Saxena 2023, "Prompt Lookup Decoding"; checking drafts: Leviathan et al. 2023, "Fast
Inference from Transformers via Speculative Decoding", section 2.
"""

from __future__ import annotations

import numpy as np

MATCH = 3  # tokens that must have been written before, in a row, to guess that they go on as they did then
LONGEST_MATCH = 32
INCOME = 0.04  # what may be lost a token where the text keeps misleading, in passes over one token


def continuation(text: np.ndarray, n: int) -> tuple[int, np.ndarray]:
    """How many of the last tokens stand somewhere before, together; and what followed them there, n tokens of it.

    It is the longest such match, and the latest of those. Where fewer than n tokens lie between it and the end, they
    repeat: so would a text that goes in a circle.
    """
    ends = np.flatnonzero(text[:-1] == text[-1])  # where the last token has stood
    if not ends.size:
        return 0, text[:0]
    for length in range(1, min(LONGEST_MATCH, len(text)) + 1):
        longer = ends[ends >= length]
        longer = longer[text[longer - length] == text[-1 - length]] if longer.size else longer
        if not longer.size:
            break
        ends = longer
    return length, np.resize(text[ends[-1] + 1 :], n)


def price(n: int) -> float:
    """What a pass over a draft of n tokens costs, in passes over one token: with n + 1 = 8, 16, 24, 32 about this."""
    return 2 + (n + 1) / 8


class Lookup:
    """Drafts of what may come next, as long as they are worth a pass of the model.

    A draft reaches about as far ahead as the text has matched an earlier place, up to `longest` tokens. What drafts
    have cost and saved is kept account of: where they lose, they pause.
    """

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.credit = price(7)

    def draft(self, text: np.ndarray, room: int) -> np.ndarray:
        """The tokens to try after `text`, at most `room` of them; often none."""
        match, guess = continuation(text, self.longest)
        eights = min(match // 8 + 1, int(self.credit) - 2)  # as long as the match, and as there is credit for
        n = 8 * eights - 1  # with the token before it whole eights: products of so many rows are the fastest
        return guess[: max(0, min(n, room)) if match >= MATCH else 0]

    def settle(self, n_drafted: int, n_tokens: int) -> None:
        """A pass over a draft has given so many tokens: those that were right, and the model's own next one."""
        gain = n_tokens - price(n_drafted) if n_drafted else INCOME
        self.credit = min(self.credit + gain, 4 * price(self.longest))
