"""Prompt-lookup decoding: when the last tokens occurred earlier in the text, what followed them may follow again.

The tokens that followed are a draft. The model checks a whole draft in one forward pass, which costs much less than one
pass per token, because most of a pass is spent reading the weights.

Drafts change the speed, not the text. At each position, a token is drawn from the model's own scores, with its own
random number, and only then compared with the draft. If they are equal, the scores after it are valid too, and the next
token is drawn from those. At the first difference, the drawn token is kept and the rest of the draft is dropped.
So a draft never influences which token is drawn, and sampling keeps its distribution. With the same seed, even the
tokens are the same, except where rounding differs.

Saxena 2023, "Prompt Lookup Decoding". Checking drafts: Leviathan et al. 2023, "Fast Inference from Transformers via
Speculative Decoding", section 2.
"""

from __future__ import annotations

from collections import deque

import numpy as np

LONGEST_DRAFT = 31  # tokens: with the token before it, 32 rows in each product
MIN_MATCH = 3  # tokens: the shortest match that leads to a draft
MAX_MATCH = 32  # longer matches count as this long
BUDGET_PER_TOKEN = 0.02  # in forward passes of one token
MIN_HITS = 2  # correct predictions in a row that lead to the next draft


def continuation(text: np.ndarray, n: int) -> tuple[int, np.ndarray]:
    """Find the longest suffix of the text that occurs earlier: its length, and the n tokens that followed it there.

    If it occurs several times, the latest occurrence counts. If fewer than n tokens follow it, they are repeated,
    because the text may be in a loop. In this example the suffix 5 6 7 occurs earlier, and 8 9 followed it:

    >>> continuation(np.array([5, 6, 7, 8, 9, 5, 6, 7]), 2)
    (3, array([8, 9]))
    >>> continuation(np.array([5, 6, 7, 8, 9, 5, 6, 7]), 7)
    (3, array([8, 9, 5, 6, 7, 8, 9]))
    """
    ends = np.flatnonzero(text[:-1] == text[-1])  # where the last token occurred earlier
    if not ends.size:
        return 0, text[:0]
    for length in range(1, min(MAX_MATCH, len(text) - 1) + 1):
        longer = ends[ends >= length]
        longer = longer[text[longer - length] == text[-1 - length]]
        if not longer.size:
            break
        ends = longer
    return length, np.resize(text[ends[-1] + 1 :], n)


def estimated_cost(n_drafted: int) -> float:
    """The approximate time of a forward pass that checks a draft, in forward passes of one token.

    Products have n_drafted + 1 rows, one for each drafted token and one for the token before them. The estimate fits
    measurements at multiples of 8 rows.

    >>> estimated_cost(7)  # 2 + 8 / 10
    2.8
    """
    return 2 + (n_drafted + 1) / 10


INITIAL_BUDGET = 2 * estimated_cost(7)


class Lookup:
    """Drafts for the next tokens, at most `longest` at a time, within a budget.

    A longer match gives a longer draft. The budget is in forward passes of one token. Checking n drafted tokens costs
    cost(n), and each token that the pass yields earns 1. A token without a draft earns BUDGET_PER_TOKEN. If the budget
    does not allow a draft, the draft is shortened or left out. So whatever the text and the model are, the passes for
    n tokens cost at most (1 + BUDGET_PER_TOKEN) · n + INITIAL_BUDGET: 2 % more than without drafts, and 5.6 passes.
    cost(n) is `estimated_cost`, corrected by the times that the last three drafts took.

    To spend the budget well, a draft is made only after MIN_HITS correct predictions. Tokens without a draft are
    predicted, too.

    >>> lookup, text = Lookup(longest=31), np.array([5, 6, 7, 8, 9, 5, 6, 7])
    >>> draft = lookup.draft(text, room=2)
    >>> draft
    array([8, 9])
    >>> lookup.update(len(draft), np.array([8, 4]), None)  # 8 was right; the model's own next token is 4, not 9
    >>> round(lookup.budget, 2)  # 5.6 at the start, plus 2 tokens, minus cost(2)
    5.3
    >>> lookup.hits
    1
    """

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.budget = INITIAL_BUDGET
        self.guess = np.empty(0, int)  # the prediction for the next tokens; the draft is the beginning of it
        self.hits = MIN_HITS  # correct predictions in a row, in the last pass or in passes without a draft
        self.seconds: deque[float] = deque(maxlen=5)  # of the last passes over one token
        self.corrections = deque([1.0, 1.0, 1.0], maxlen=3)  # measured / estimated cost of the last drafts

    def cost(self, n_drafted: int) -> float:
        """The time of a forward pass that checks a draft, in forward passes of one token."""
        return sorted(self.corrections)[1] * estimated_cost(n_drafted)

    def draft(self, text: np.ndarray, room: int) -> np.ndarray:
        """The tokens to try after `text`, at most `room` of them; often none."""
        longest = min(self.longest, room)
        match, guess = continuation(text, longest) if longest > 0 else (0, text[:0])
        self.guess = guess if match >= MIN_MATCH else text[:0]
        n = 8 * (match // 8) + 7  # a multiple of 8 rows, with the token before the draft: products are fastest then
        while n > 0 and self.cost(n) > self.budget:
            n -= 8
        return self.guess[: max(n, 0) if self.hits >= MIN_HITS else 0]

    def update(self, n_drafted: int, tokens: np.ndarray, seconds: float | None) -> None:
        """Update the budget. `tokens` are the new ones: the correct part of the draft, then one that the model drew.

        `seconds` is the time of the pass, or None if it also read a prompt.
        """
        if n_drafted:
            if seconds and self.seconds:
                one = sorted(self.seconds)[len(self.seconds) // 2]
                self.corrections.append(seconds / one / estimated_cost(n_drafted))
            self.hits = len(tokens) - 1
            gain = len(tokens) - self.cost(n_drafted)
        else:
            if seconds:
                self.seconds.append(seconds)
            if self.guess.size:
                self.hits = self.hits + 1 if self.guess[0] == tokens[0] else 0
            gain = BUDGET_PER_TOKEN
        self.budget = min(self.budget + gain, 4 * self.cost(self.longest))
