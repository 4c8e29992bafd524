"""Mistakes in part 2: `sample`."""

from __future__ import annotations

from ..source import Mistake, mistake

NUMBER = "start + cumulative.searchsorted(min(u * blocks[-1], cumulative[-1]))"
UNIFORM = "1 - rng.random(shape)"
ROW = "row = probabilities[i]"


def both(name: str, sentence: str, *edits: tuple[str, str]) -> list[Mistake]:
    """The same mistake of `sample`, for functions that draw with 1 - u and with u."""
    return [mistake(name, sentence, *edits), mistake(f"{name}_u", sentence, *edits, (UNIFORM, "rng.random(shape)"))]


MISTAKES: dict[str, list[Mistake]] = {
    "sample": [
        mistake(
            "greedy",
            "It is always the most probable token. A token must be drawn.",
            (NUMBER, "row.argmax()"),
        ),
        *both("uniform", "All tokens are equally probable.", (NUMBER, "int(u * V) % V")),
        mistake(
            "uniform_integers",
            "All tokens are equally probable.",
            (UNIFORM, "rng.integers(V, size=shape)"),
            (ROW, "tokens[i] = u\ncontinue"),
        ),
        *both(
            "first_row",
            "All rows are drawn from the probabilities of row 0. Each row has its own.",
            (ROW, "row = probabilities.reshape(-1, V)[0]"),
        ),
        mistake(
            "one_number",
            "All rows get the same random number. Each row needs its own.",
            (UNIFORM, "np.full(shape, 1 - rng.random())"),
        ),
        mistake(
            "one_number_u",
            "All rows get the same random number. Each row needs its own.",
            (UNIFORM, "np.full(shape, rng.random())"),
        ),
        *both("next_id", "The id is one too large: it is the token after the drawn one.", (NUMBER, f"{NUMBER} + 1")),
        *both("id_before", "The id is one too small: it is the token before the drawn one.", (NUMBER, f"{NUMBER} - 1")),
        *both(
            "softmax_again",
            "softmax is applied to the probabilities. They are probabilities already.",
            (ROW, "row = softmax(probabilities[i])"),
        ),
        *both(
            "not_cumulative",
            "The random number is compared with single probabilities. It must be compared with their cumulative sum.",
            (NUMBER, "(row > u).argmax()"),
        ),
        *both(
            "binary_search",
            "The random number is searched in the probabilities. It must be searched in their cumulative sum.",
            (NUMBER, "np.searchsorted(row, u)"),
        ),
        *both(
            "sorted",
            "The probabilities are sorted, so what is drawn is a place in the sorted row, not a token's id.",
            (ROW, "row = np.sort(probabilities[i])[::-1]"),
        ),
        *both(
            "sorted_rising",
            "The probabilities are sorted, so what is drawn is a place in the sorted row, not a token's id.",
            (ROW, "row = np.sort(probabilities[i])"),
        ),
        *both(
            "improbable",
            "Tokens are drawn with 1 - p: improbable ones are drawn more often.",
            (ROW, "row = 1 - probabilities[i]"),
        ),
        *both(
            "squared",
            "Tokens are drawn with p². They must be drawn with p.",
            (ROW, "row = probabilities[i] ** 2"),
        ),
        mistake(
            "normal",
            "The random number is from a normal distribution. It must be uniform: rng.random().",
            (UNIFORM, "1 - rng.normal(size=shape)"),
        ),
        mistake(
            "seeded_again",
            "The generator is made anew in each call, with the same seed, so each call draws the same. Use rng.",
            ("tokens = np.empty", "rng = np.random.default_rng(0)\ntokens = np.empty"),
        ),
        mistake(
            "not_rng",
            "The random numbers are not from rng, so the same seed does not give the same text.",
            (UNIFORM, "1 - np.random.random(shape)"),
        ),
        mistake(
            "largest_of_numbers",
            "This is the token with the largest product of probability and random number. Compare u with the"
            " cumulative sum.",
            (NUMBER, "(row * rng.random(V)).argmax()"),
        ),
        mistake(
            "float_ids",
            "The ids are floats. They must be integers.",
            ("np.empty(shape, np.int64)", "np.empty(shape)"),
        ),
        mistake(
            "one_token",
            "One token came out for the whole batch. Each row must have one.",
            ("return tokens", "return tokens.reshape(-1)[0]"),
        ),
        mistake(
            "probability",
            "These are the probabilities of the drawn tokens. The result must be their ids.",
            ("return tokens", "return np.take_along_axis(probabilities, tokens[..., None], -1)[..., 0]"),
        ),
        mistake(
            "one_hot",
            "These are V numbers for each row, with a 1 for the drawn token. The result must be its id.",
            ("return tokens", "return (np.arange(V) == tokens[..., None]).astype(int)"),
        ),
    ],
}
