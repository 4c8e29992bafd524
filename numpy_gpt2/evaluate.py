"""How well a model predicts a text: loss, perplexity, bits per byte; `python -m numpy_gpt2.evaluate TEXT.txt`.

And HellaSwag, a multiple-choice test of common sense: which of four endings does the model find the most probable?
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken

from .checkpoint import Model, load
from .cli import Parser, exit_status, from_utf8, positive_int
from .config import GPT2Config
from .console import print_stderr, progress_bar, write
from .model import cross_entropy, forward
from .threads import thread_pool
from .tokenizer import ENDOFTEXT
from .weights import Weights
from .windows import window_losses, window_starts

EXAMPLES = """\
examples:
  python -m numpy_gpt2.evaluate TEXT.txt -m gpt2               consecutive windows
  python -m numpy_gpt2.evaluate TEXT.txt -m gpt2 --stride 512  with at least 512 tokens of context
  python -m numpy_gpt2.evaluate --hellaswag hellaswag_val.jsonl -m gpt2
"""


def evaluate(
    tokens: np.ndarray, weights: Weights, config: GPT2Config, stride: int | None = None, progress: bool = False
) -> tuple[float, int]:
    """The mean loss over a text in nats per token, and the number of tokens predicted: all but the first.

    The text goes through the model in windows of `n_positions`, each `stride` tokens after the one before (by default,
    where that ends). With a smaller stride each token is predicted from more of what precedes it, at least
    n_positions − stride tokens where there are as many, for more computation. (transformers' page on perplexity counts
    the last target into the window, so that its windows are one token shorter.) ValueError for a text of fewer than two
    tokens, and for a stride that would leave tokens out.
    """
    stride = config.n_positions if stride is None else stride
    if len(tokens) < 2:
        raise ValueError(f"the text has {len(tokens)} token(s); it takes two, one to predict the other from")
    if not 1 <= stride <= config.n_positions:
        raise ValueError(f"the stride is {stride}; it must be from 1 to the window's {config.n_positions:,} tokens")
    total, n_predicted = 0.0, 0
    starts = window_starts(len(tokens), config.n_positions, stride)
    with thread_pool() as pool, progress_bar(total=len(tokens) - 1, unit="token", disable=not progress) as bar:
        for loss, n in window_losses(tokens, starts, stride, weights, config, pool):
            total, n_predicted = total + loss, n_predicted + n
            bar.set_postfix_str(f"loss {total / n_predicted:.4f}", refresh=False)
            bar.update(n)
    if not math.isfinite(total):
        raise ValueError(f"the loss is {total}; the model's weights are damaged")
    return total / n_predicted, n_predicted


def summary(loss: float, tokens: int, n_bytes: int) -> dict[str, float | int]:
    """The loss in three units: nats per token; perplexity, e to that power, the number of equally probable tokens that
    would be as uncertain a choice; and bits per byte, which can be compared between tokenizers."""
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 709)),  # as far as a float goes
        "bits_per_byte": loss * tokens / (math.log(2) * n_bytes),
        "tokens": tokens,
        "bytes": n_bytes,
    }


def read_text(path: str | Path) -> str:
    """A UTF-8 text file. Raises OSError, and ValueError for one that is empty or in another encoding."""
    data = Path(path).read_bytes()
    if not data:
        raise ValueError(f"{path} is empty; it must be a text")
    return from_utf8(data, path)


def encode(text: str, tokenizer: tiktoken.Encoding) -> np.ndarray:
    """A text's tokens, where `<|endoftext|>` in it is the token that separates texts."""
    return tokenizer.encode_to_numpy(text, allowed_special={ENDOFTEXT}, disallowed_special=()).astype(np.int64)


def hellaswag_examples(path: str | Path) -> list[tuple[str, list[str], int]]:
    """The context, the endings and the index of the right one, of each line of the benchmark's own file."""
    examples = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            example = json.loads(line)
            context, endings, label = example["ctx"], example["endings"], int(example["label"])
            texts = [context, *endings]
            if not all(type(text) is str and text for text in texts) or not 0 <= label < len(endings):
                raise ValueError("it takes a context, a list of endings, and which is right")
            examples.append((context, endings, label))
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} is no HellaSwag example ({error!r})") from None
    if not examples:
        raise ValueError(f"{path} has no HellaSwag examples")
    return examples


def ending_losses(context: str, endings: list[str], model: Model) -> tuple[np.ndarray, np.ndarray]:
    """The summed loss of each ending after the context, in nats, and its tokens: the last ones that fit the window."""
    weights, config, tokenizer = model
    start = tokenizer.encode_ordinary(context)
    ends = [tokenizer.encode_ordinary(" " + ending) for ending in endings]
    length = min(config.n_positions, len(start) + max(map(len, ends)) - 1)
    inputs, targets = np.zeros((len(ends), length), np.int64), np.full((len(ends), length), -1)
    for row, end in enumerate(ends):
        tokens = (start + end)[-length - 1 :]
        n, n_context = len(tokens) - 1, max(0, len(tokens) - 1 - len(end))
        inputs[row, :n] = tokens[:-1]
        targets[row, n_context:n] = tokens[1 + n_context :]
    logits = forward(inputs, weights, config)  # the zeros after an ending change nothing before them
    counts = (targets != -1).sum(axis=1)
    sums = counts * [cross_entropy(*row) for row in zip(logits, targets, strict=True)]
    if not np.isfinite(sums).all():
        raise ValueError(f"the losses are {sums}; the model's weights are damaged")
    return sums, counts


def hellaswag(
    examples: list[tuple[str, list[str], int]], model: Model, progress: bool = False
) -> dict[str, float | int]:
    """Accuracy on HellaSwag (Zellers et al. 2019), without a word of instruction: the model chooses by its own loss.

    `acc` chooses the ending with the smallest sum of losses, `acc_norm` the one with the smallest mean.
    """

    def choose(example: tuple[str, list[str], int]) -> tuple[bool, bool]:
        context, endings, label = example
        sums, counts = ending_losses(context, endings, model)
        return sums.argmin() == label, (sums / counts).argmin() == label

    right = np.zeros(2, int)
    with thread_pool() as pool, progress_bar(total=len(examples), unit="example", disable=not progress) as bar:
        for n, choices in enumerate(pool.map(choose, examples), start=1):
            right += choices
            bar.set_postfix_str("acc {:.4f}, acc_norm {:.4f}".format(*right / n), refresh=False)
            bar.update()
    acc, acc_norm = (right / len(examples)).tolist()
    return {"acc": acc, "acc_norm": acc_norm, "examples": len(examples)}


def command(argv: list[str] | None) -> int:
    """Do what the command line says. Returns the exit status."""
    parser = Parser(
        prog="python -m numpy_gpt2.evaluate",
        description="How well a model predicts a text, or finishes the sentences of HellaSwag.",
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add("text", metavar="TEXT.txt", nargs="?", help="a UTF-8 text")
    add("-m", "--model", metavar="NAME|FOLDER", default="gpt2", help="as of python -m numpy_gpt2 (default: gpt2)")
    add("--stride", metavar="N", type=positive_int, help="a window every N tokens (default: where the one before ends)")
    add("--hellaswag", metavar="FILE.jsonl", help="HellaSwag's own file, in place of a text")
    add("--int8", action="store_true", help="with int8 weights")
    add("--json", action="store_true", help="one JSON object in one line")
    arguments = parser.parse_args(argv)
    if (arguments.text is None) == (arguments.hellaswag is None):
        parser.error("give one of TEXT.txt and --hellaswag FILE.jsonl")
    if arguments.hellaswag is not None and arguments.stride:
        parser.error("--stride is for a text, not for --hellaswag")

    dtype = "int8" if arguments.int8 else "float32"
    results: dict[str, Any]
    if arguments.hellaswag is not None:
        examples = hellaswag_examples(arguments.hellaswag)
        results = hellaswag(examples, load(arguments.model, dtype), progress=True)
    else:
        text = read_text(arguments.text)
        model = load(arguments.model, dtype)
        start = time.perf_counter()
        tokens = encode(text, model.tokenizer)
        loss, n = evaluate(tokens, model.weights, model.config, arguments.stride, progress=True)
        results = summary(loss, n, len(text.encode()))
        print_stderr(f"{n / (time.perf_counter() - start):,.0f} tokens/s")
    if arguments.json:
        write(json.dumps(results) + "\n")
    else:
        for name, value in results.items():
            write(f"{name.replace('_', ' '):<14}{value:>14{',' if type(value) is int else ',.6g'}}\n")
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status."""
    return exit_status(lambda: command(argv))


if __name__ == "__main__":
    sys.exit(main())
