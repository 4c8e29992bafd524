"""Mistakes in parts 2 and 3: the loops that append token after token."""

from __future__ import annotations

from ..source import Mistake, mistake

SCORES = "scores = forward(tokens, weights, config)[-1]"
SAMPLED = "sample(probabilities(scores), rng)"
APPENDED = "tokens = np.append(tokens, token)"
UNREAD = "unread = text[:1] if (text == text[0]).all() else text"
NEXT_UNREAD = "unread = text[:, -1:]"
WINDOW = "-max(1, config.n_positions // 2) :"
FULL = "if room < 0"
LAST_SCORES = "logits(hidden[:, -1 - len(draft) :], weights)"
STOPPED = "running &= ~stops[tokens]"
ALL_STOPPED = "if not running.any():\n                return"
YIELDED = "np.where(running, tokens, -1)"
CHOSEN = "choose(scores[:, n_right], text)"

MISTAKES: dict[str, list[Mistake]] = {
    "generate_plainly": [
        mistake(
            "first_row",
            "The scores are those of the first row. The last row predicts the next token.",
            (SCORES, SCORES.replace("[-1]", "[0]")),
        ),
        mistake(
            "row_before_last",
            "The scores are those of the row before the last. The last row predicts the next token.",
            (SCORES, SCORES.replace("[-1]", "[-2]")),
        ),
        mistake(
            "mean_of_rows",
            "The scores are the mean of all rows. The last row predicts the next token.",
            (SCORES, SCORES.replace("[-1]", ".mean(axis=0)")),
        ),
        mistake(
            "greedy",
            "It is always the most probable token. A token must be drawn: sample(probabilities(scores), rng).",
            (SAMPLED, "probabilities(scores).argmax()"),
        ),
        mistake(
            "choice",
            "The tokens are drawn by rng.choice. The draws of `sample` are other ones, and `generate` uses those.",
            (SAMPLED, "rng.choice(len(scores), p=probabilities(scores))"),
        ),
        mistake(
            "stops_at_eos",
            "It ends at config.eos_token_id. It must yield max_new_tokens tokens, whatever they are.",
            ("yield token", "if token == config.eos_token_id:\n    return\nyield token"),
        ),
        mistake(
            "stops_after_eos",
            "It ends after config.eos_token_id. It must yield max_new_tokens tokens.",
            ("yield token", "yield token\nif token == config.eos_token_id:\n    return"),
        ),
        mistake(
            "first_token",
            "A token is drawn for each row, and the first one is taken. It must be the one of the last row.",
            (SCORES, SCORES.replace("[-1]", "")),
            (SAMPLED, f"{SAMPLED}[0]"),
        ),
        mistake(
            "not_appended",
            "The text does not grow. Each token must be appended to it.",
            (APPENDED, "pass"),
        ),
        mistake(
            "prepended",
            "Each token is put before the text. It must be put after it.",
            (APPENDED, "tokens = np.append(token, tokens)"),
        ),
        mistake(
            "only_last",
            "The model reads the newest token only. Without a cache, it must read the whole text.",
            (APPENDED, "tokens = np.array([token])"),
        ),
        mistake(
            "sliding",
            "With each token, the first one of the text is dropped. The text must grow.",
            (APPENDED, "tokens = np.append(tokens, token)[1:]"),
        ),
        mistake(
            "without_prompt",
            "After the first token, the prompt is gone. Tokens must be appended to it.",
            ("for _ in", "new = []\nfor _ in"),
            (APPENDED, "new.append(token)\ntokens = new"),
        ),
        mistake("one_more", "There is one token too many.", ("range(max_new_tokens)", "range(max_new_tokens + 1)")),
        mistake("one_less", "There is one token too few.", ("range(max_new_tokens)", "range(max_new_tokens - 1)")),
        mistake(
            "total_length",
            "max_new_tokens counts the prompt, too. It must count new tokens only.",
            ("range(max_new_tokens)", "range(max_new_tokens - len(tokens))"),
        ),
        mistake(
            "one_token", "Only one token came out: `yield` must be inside the loop, not `return`.", (APPENDED, "return")
        ),
        mistake(
            "prompt_yielded",
            "The prompt is yielded, too. Only new tokens must be.",
            ("for _ in", "yield from tokens\nfor _ in"),
        ),
        mistake(
            "first_token_twice",
            "The first new token is yielded twice.",
            ("yield token", "yield from [token] * (1 + (_ == 0))"),
        ),
        mistake(
            "yielded_late",
            "The first new token is missing. Yield each token when it is drawn.",
            ("yield token", "if _:\n    yield token"),
        ),
        mistake(
            "seeded_again",
            "The generator is made anew. The argument rng must be used.",
            ("for _ in", "rng = np.random.default_rng(0)\nfor _ in"),
        ),
        mistake(
            "softmax_twice",
            "softmax is applied twice: probabilities contains it.",
            ("probabilities(scores)", "probabilities(probabilities(scores))"),
        ),
    ],
    "decode": [
        mistake(
            "no_cache",
            "Each step reads old tokens again. A KVCache keeps their keys and values, so only the newest must be read.",
            (NEXT_UNREAD, "unread = text[:, T - unread.shape[1] :]\ncache.truncate(0)"),
        ),
        mistake(
            "float32_cache",
            "The cache is float32, the default of KVCache. It must have the dtype of the weights.",
            (', weights["wte.weight"].dtype)', ")"),
        ),
        mistake(
            "whole_text_again",
            "The whole text is read again in each step. The cache has it already: only the newest token must be read.",
            (NEXT_UNREAD, "unread = text"),
        ),
        mistake(
            "last_two",
            "The last two tokens are read in each step. The first of them is in the cache already.",
            (NEXT_UNREAD, "unread = text[:, -2:]"),
        ),
        mistake(
            "first_token",
            "The first token of the text is read in each step. It must be the newest one.",
            (NEXT_UNREAD, "unread = text[:, :1]"),
        ),
        mistake(
            "prompt_not_read",
            "Only the last token of the prompt is read. The first pass must read all of it.",
            (UNREAD, "unread = text[:1, -1:] if (text == text[0]).all() else text[:, -1:]"),
        ),
        mistake(
            "cache_emptied",
            "The newest token is read with an empty cache. The cache must keep the text.",
            (NEXT_UNREAD, f"{NEXT_UNREAD}\ncache.truncate(0)"),
        ),
        mistake(
            "first_position",
            "The scores are those of the first position that was read. The last one predicts the next token.",
            (LAST_SCORES, "logits(hidden[:, : 1 + len(draft)], weights)"),
        ),
        mistake(
            "probabilities",
            "`choose` gets probabilities. It must get the scores, which are the logits.",
            (LAST_SCORES, f"np.exp({LAST_SCORES})\nscores /= scores.sum(axis=-1, keepdims=True)"),
        ),
        mistake(
            "only_new_text",
            "`choose` gets the new tokens without the prompt. It must get the whole text.",
            (CHOSEN, "choose(scores[:, n_right], text[:, end - n_new :])"),
        ),
        mistake(
            "only_prompt",
            "`choose` gets the prompt without the new tokens. It must get the whole text.",
            (CHOSEN, "choose(scores[:, n_right], text[:, : end - n_new])"),
        ),
        mistake(
            "only_unread",
            "`choose` gets the tokens that were read in this step. It must get the whole text.",
            (CHOSEN, "choose(scores[:, n_right], text[:, -unread.shape[1] :])"),
        ),
        mistake(
            "first_row",
            "All rows get the token of row 0. Each row has its own text.",
            (CHOSEN, f"np.full(B, {CHOSEN}[0])"),
        ),
        mistake(
            "greedy",
            "The tokens are those with the largest scores. They must be what `choose` returns.",
            (CHOSEN, f"{CHOSEN} * 0 + scores[:, n_right].argmax(axis=-1)"),
        ),
        mistake(
            "stop_yielded",
            "The stop token is yielded. It must not be: -1 takes its place, or the loop ends.",
            (STOPPED, "before, running = running, running & ~stops[tokens]"),
            (ALL_STOPPED, "if not running.any():\n    yield np.where(before, tokens, -1)\n    return"),
            (YIELDED, "np.where(before, tokens, -1)"),
        ),
        mistake(
            "minus_ones_at_the_end",
            "When all rows have stopped, a row of -1 is yielded. The loop must end without it.",
            (ALL_STOPPED, f"if not running.any():\n    yield {YIELDED}\n    return"),
        ),
        mistake(
            "first_stop_ends",
            "The loop ends when one row stops. It must go on until all have.",
            ("running.any()", "running.all()"),
        ),
        mistake("no_stop", "Stop tokens have no effect.", (STOPPED, "pass")),
        mistake(
            "not_ended",
            "The loop goes on when all rows have stopped. It must end.",
            (ALL_STOPPED, "pass"),
        ),
        mistake(
            "stopped_goes_on",
            "A row that has stopped goes on yielding tokens. It must yield -1.",
            (YIELDED, "tokens"),
        ),
        mistake(
            "stopped_only_once",
            "A row yields -1 for the stop token only, and then goes on. It must yield -1 until the end.",
            (STOPPED, "running = ~stops[tokens]"),
        ),
        mistake(
            "removed",
            "Rows that have stopped are left out. Each array must have B numbers, with -1 for these rows.",
            (YIELDED, "tokens[running]"),
        ),
        mistake("one_more", "There is one token too many.", ("text.shape[1] + n_new", "text.shape[1] + n_new + 1")),
        mistake("one_less", "There is one token too few.", ("text.shape[1] + n_new", "text.shape[1] + n_new - 1")),
        mistake(
            "total_length",
            "n_new counts the prompt, too. It must count new tokens only.",
            ("text.shape[1] + n_new", "n_new"),
        ),
        mistake(
            "window_ends",
            "The loop ends when the cache is full. The last half of the window must be read again.",
            (FULL, "if room < 0:\n    return\nif False"),
        ),
        mistake(
            "window_of_all",
            "With a full cache, the last n_positions tokens are read again. It must be the last n_positions // 2.",
            (WINDOW, "-config.n_positions :"),
        ),
        mistake(
            "window_of_one",
            "With a full cache, only the newest token is read again. It must be the last n_positions // 2.",
            (WINDOW, "-1:"),
        ),
        mistake(
            "window_first_half",
            "With a full cache, the first tokens of the text are read again. It must be the last ones.",
            (WINDOW, ": config.n_positions // 2"),
        ),
        mistake(
            "window_one_more",
            "With a full cache, n_positions // 2 + 1 tokens are read again. It must be n_positions // 2.",
            (WINDOW, "-config.n_positions // 2 - 1 :"),
        ),
        mistake(
            "window_one_less",
            "With a full cache, n_positions // 2 - 1 tokens are read again. It must be n_positions // 2.",
            (WINDOW, "-config.n_positions // 2 + 1 :"),
        ),
        mistake(
            "window_early",
            "The cache is emptied one token too early. It has room for n_positions.",
            (FULL, "if room < 1"),
        ),
        mistake(
            "window_not_emptied",
            "With a full cache, the cache is not emptied: cache.truncate(0).",
            ("cache.truncate(0)", "pass"),
        ),
        mistake(
            "not_observed",
            "`observe` is not called. It gets the scores and the tokens of each step.",
            ("if observe:", "if False:"),
        ),
        mistake(
            "numbers",
            "Single ids are yielded. Each step must yield an array of B tokens.",
            (YIELDED, "int(tokens[0])"),
        ),
    ],
}
