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
LONGEST_DRAFT = 31
INCOME = 0.02  # what may be lost a token where the text keeps misleading, in passes over one token
PROOF = 0.5  # what a guess is worth that would have been right, as the one before it


def continuation(text: np.ndarray, n: int) -> tuple[int, np.ndarray]:
    """How many of the last tokens stand somewhere before, together; and what followed them there, n tokens of it.

    It is the longest such match, and the latest of those. Where fewer than n tokens lie between it and the end, they
    repeat: so would a text that goes in a circle.
    """
    ends = np.flatnonzero(text[:-1] == text[-1])  # where the last token has stood
    if not ends.size:
        return 0, text[:0]
    for length in range(1, min(LONGEST_MATCH, len(text) - 1) + 1):
        longer = ends[ends >= length]
        longer = longer[text[longer - length] == text[-1 - length]]
        if not longer.size:
            break
        ends = longer
    return length, np.resize(text[ends[-1] + 1 :], n)


def price(n: int) -> float:
    """About what a pass over a draft of n tokens costs, in passes over one token, with whole eights of n + 1."""
    return 2 + (n + 1) / 10


class Lookup:
    """Drafts of what may come next, as long as they are worth a pass of the model.

    A draft reaches about as far ahead as the text has matched an earlier place, up to `longest` tokens. What drafts
    have cost and saved is kept account of: where they lose, they pause, until guesses come true again.
    """

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.credit = price(7)
        self.guess = np.empty(0, int)
        self.right = False  # was the last guess, though it was no draft?

    def draft(self, text: np.ndarray, room: int) -> np.ndarray:
        """The tokens to try after `text`, at most `room` of them; often none."""
        longest = min(self.longest, room)
        match, guess = continuation(text, longest) if longest > 0 else (0, text[:0])
        self.guess = guess if match >= MATCH else text[:0]
        n = 8 * (match // 8) + 7  # with the token before it whole eights: products of so many rows are the fastest
        while n > 0 and price(n) > self.credit:
            n -= 8
        return self.guess[: max(n, 0)]

    def update(self, n_drafted: int, tokens: np.ndarray) -> None:
        """What came after `text`: the tokens of the draft that were right, and the model's own next one."""
        if n_drafted:
            gain = len(tokens) - price(n_drafted)
        else:
            before, self.right = self.right, self.guess.size > 0 and self.guess[0] == tokens[0]
            gain = INCOME + (PROOF if before and self.right else 0)
        self.credit = min(self.credit + gain, 4 * price(self.longest))
