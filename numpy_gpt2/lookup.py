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

import numpy as np

LONGEST_DRAFT = 31  # tokens: with the token before it, 32 rows in each product
MIN_MATCH = 3  # tokens: the shortest match that leads to a draft
MAX_MATCH = 32  # longer matches are not told apart
BUDGET_PER_TOKEN = 0.02  # in forward passes of one token: rejected drafts cost at most about 2 % of the time
BUDGET_PER_HIT = 0.5  # earned, on top, when drafts are paused and the lookup predicts two tokens in a row correctly


def continuation(text: np.ndarray, n: int) -> tuple[int, np.ndarray]:
    """Find the longest earlier occurrence of the last tokens: its length, and the n tokens that followed it.

    Of equally long matches the latest counts. If fewer than n tokens follow it, they are repeated, as in a text that
    runs in a loop. In this example the last three tokens, 5 6 7, occurred earlier, and 8 9 followed them:

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


def cost(n_drafted: int) -> float:
    """The approximate time to check a draft of n tokens, in forward passes of one token.

    The estimate is for n + 1 rows in the products, the draft and the token before it, with n + 1 a multiple of 8.

    >>> cost(7)  # 2 + 8 / 10
    2.8
    """
    return 2 + (n_drafted + 1) / 10


class Lookup:
    """Drafts for the next tokens, at most `longest` at a time, within a budget.

    The longer the match, the longer the draft. The budget is in forward passes of one token. A pass with a draft of n
    tokens that yields m tokens changes it by m − cost(n). A draft that costs more than the budget is not made. Each
    token without a draft earns a little, and more when the lookup predicted it correctly.

    >>> lookup, text = Lookup(longest=31), np.array([5, 6, 7, 8, 9, 5, 6, 7])
    >>> draft = lookup.draft(text, room=2)
    >>> draft
    array([8, 9])
    >>> lookup.update(len(draft), np.array([8, 4]))  # 8 was right; the model's own next token is 4, not 9
    >>> round(lookup.budget, 2)  # cost(7) at the start, + 2 tokens, − cost(2)
    2.5
    """

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.budget = cost(7)
        self.guess = np.empty(0, int)  # the tokens that the last lookup found, drafted or not
        self.hit = False  # was the first token of the last guess right, although it was not drafted?

    def draft(self, text: np.ndarray, room: int) -> np.ndarray:
        """The tokens to try after `text`, at most `room` of them; often none."""
        longest = min(self.longest, room)
        match, guess = continuation(text, longest) if longest > 0 else (0, text[:0])
        self.guess = guess if match >= MIN_MATCH else text[:0]
        n = 8 * (match // 8) + 7  # products are fastest with a multiple of 8 rows: the draft and the token before it
        while n > 0 and cost(n) > self.budget:
            n -= 8
        return self.guess[: max(n, 0)]

    def update(self, n_drafted: int, tokens: np.ndarray) -> None:
        """Update the budget. `tokens` follow `text`: the correct part of the draft, then a token of the model's own."""
        if n_drafted:
            gain = len(tokens) - cost(n_drafted)
        else:
            hit_before, self.hit = self.hit, self.guess.size > 0 and self.guess[0] == tokens[0]
            gain = BUDGET_PER_TOKEN + (BUDGET_PER_HIT if hit_before and self.hit else 0)
        self.budget = min(self.budget + gain, 4 * cost(self.longest))
