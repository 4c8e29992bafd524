"""Measure how well a model predicts a text: `python -m numpy_gpt2.evaluate TEXT.txt`.

The results are the loss, the perplexity and the bits per byte. With `--tokens`, they are the log-probability and the
rank of each token. With `--hellaswag`, the result is the accuracy on HellaSwag, a multiple-choice test of common sense:
which of four endings does the model find most probable?
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import Model
from .cli import Parser, exit_status, load_model, positive_int
from .config import GPT2Config
from .console import print_stderr, progress_bar, write
from .logprobs import token_logprobs, token_object
from .model import cross_entropy, forward
from .threads import thread_pool
from .weights import Weights
from .windows import encode, map_windows, read_text, window_losses, window_starts

EXAMPLES = """\
examples:
  python -m numpy_gpt2.evaluate TEXT.txt -m gpt2               windows one after another
  python -m numpy_gpt2.evaluate TEXT.txt -m gpt2 --stride 512  at least 512 tokens of context
  python -m numpy_gpt2.evaluate - -m gpt2 < TEXT.txt           standard input
  python -m numpy_gpt2.evaluate TEXT.txt -m gpt2 --tokens      a JSON object for each token
  python -m numpy_gpt2.evaluate --hellaswag hellaswag_val.jsonl -m gpt2
"""


def evaluate(
    tokens: np.ndarray, weights: Weights, config: GPT2Config, stride: int | None = None, progress: bool = False
) -> tuple[float, int]:
    """Return the mean loss of a text in nats per token, and the number of predicted tokens: all but the first.

    The model reads windows of `n_positions` tokens. Each window starts `stride` tokens after the one before. By default
    it starts where the one before ends. A smaller stride gives more context and takes more computation. After the first
    window, each token has at least n_positions − stride tokens of context. (In transformers' guide to perplexity, the
    last target is inside the window, so a window of the same length has one target fewer.)

    Raises ValueError if the text has fewer than two tokens, or if the stride is larger than a window.
    """
    stride = config.n_positions if stride is None else stride
    if len(tokens) < 2:
        raise ValueError(f"the text has {len(tokens)} token(s); it must have at least 2")
    total, n_predicted = 0.0, 0
    starts = window_starts(len(tokens), config.n_positions, stride)
    with thread_pool() as pool, progress_bar(total=len(tokens) - 1, unit="token", disable=not progress) as bar:
        for loss, n in window_losses(tokens, starts, stride, weights, config, pool):
            total, n_predicted = total + loss, n_predicted + n
            bar.set_postfix_str(f"loss {total / n_predicted:.4f}", refresh=False)
            bar.update(n)
    if not math.isfinite(total):
        raise ValueError(f"the loss is {total}; it must be finite. The model's weights are damaged")
    return total / n_predicted, n_predicted


def print_tokens(tokens: np.ndarray, model: Model, stride: int | None = None) -> None:
    """Print a JSON object for each token of a text, one per line, as soon as its window is computed.

    `start` and `end` are the token's bytes in the text. The other fields are those of `logprobs.py`. The sum of all
    log-probabilities is minus the loss of `evaluate`, multiplied by the number of predicted tokens. Raises ValueError
    if the stride is larger than a window.
    """
    weights, config, tokenizer = model
    stride = config.n_positions if stride is None else stride
    starts = window_starts(len(tokens), config.n_positions, stride)
    sizes = (len(tokenizer.decode_single_token_bytes(token)) for token in tokens.tolist())
    spans = itertools.pairwise(itertools.accumulate(sizes, initial=0))
    of_targets = partial(token_logprobs, tokenizer=tokenizer, n_top=0)
    at_terminal = bool(sys.stdout and sys.stdout.isatty())  # there, the lines show the progress
    with thread_pool() as pool, progress_bar(total=len(tokens), unit="token", disable=at_terminal) as bar:
        parts = map_windows(of_targets, tokens, starts, stride, weights, config, pool)
        for part in itertools.chain([[token_object(int(tokens[0]), tokenizer)]], parts):
            lines = [
                {"id": token["id"], "text": token["text"], "start": start, "end": end}
                | {"logprob": token["logprob"], "rank": token["rank"]}
                for token, (start, end) in zip(part, spans, strict=False)
            ]
            write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
            bar.update(len(part))


def summary(loss: float, tokens: int, n_bytes: int) -> dict[str, float | int]:
    """Return the loss in three units.

    - The loss is in nats per token.
    - The perplexity is e to the power of the loss. If the model gives N tokens the same probability, 1/N, the
      perplexity is N.
    - Bits per byte can be compared between models with different tokenizers.

    A model that gives each of 4 tokens the probability 1/4, on a text of 8 tokens and 16 bytes:

    >>> results = summary(math.log(4), tokens=8, n_bytes=16)
    >>> round(results["perplexity"], 6), round(results["bits_per_byte"], 6)
    (4.0, 1.0)
    """
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 709)),  # e⁷⁰⁹ is near the largest float
        "bits_per_byte": loss * tokens / (math.log(2) * n_bytes),
        "tokens": tokens,
        "bytes": n_bytes,
    }


def hellaswag_examples(path: str | Path) -> list[tuple[str, list[str], int]]:
    """Return (context, endings, index of the right ending) for each line of HellaSwag's file.

    Raises OSError, or ValueError with the number of the first damaged line.
    """
    examples = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            example = json.loads(line)
            context, endings, label = example["ctx"], example["endings"], int(example["label"])
            texts = [context, *endings]
            if not all(type(text) is str and text for text in texts) or not 0 <= label < len(endings):
                raise ValueError("it must have a context, a list of endings and a label")
            examples.append((context, endings, label))
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} is not a HellaSwag example ({error!r})") from None
    if not examples:
        raise ValueError(f"{path} has no lines; it must have at least one HellaSwag example")
    return examples


def ending_losses(context: str, endings: list[str], model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Return the summed loss of each ending after the context, in nats, and the number of its tokens.

    If context and ending are longer than the window, only their last tokens are used.
    """
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
    logits = forward(inputs, weights, config)  # the padding after an ending changes nothing before it
    counts = (targets != -1).sum(axis=1)
    sums = counts * [cross_entropy(*row) for row in zip(logits, targets, strict=True)]
    if not np.isfinite(sums).all():
        raise ValueError(f"the losses are {sums}; they must be finite. The model's weights are damaged")
    return sums, counts


def hellaswag(
    examples: list[tuple[str, list[str], int]], model: Model, progress: bool = False
) -> dict[str, float | int]:
    """Return the zero-shot accuracy on HellaSwag (Zellers et al. 2019), and the number of examples.

    For `acc`, the model's choice is the ending with the smallest sum of losses. For `acc_norm`, it is the ending with
    the smallest mean loss per token.
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
        usage="%(prog)s [options] TEXT.txt",
        description="Measure how well a model predicts a text, or its accuracy on HellaSwag.",
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add("text", metavar="TEXT.txt", nargs="?", help="a UTF-8 text file, or - for standard input")
    parser.add_model()
    add("--stride", metavar="N", type=positive_int, help="start a window every N tokens (default: the window's length)")
    help = "print a JSON object in one line for each token: its bytes in the text, its log-probability, its rank"
    add("--tokens", action="store_true", help=help)
    add("--hellaswag", metavar="FILE.jsonl", help="measure the accuracy on this file of HellaSwag, without TEXT.txt")
    add("--json", action="store_true", help="print one JSON object in one line")
    parser.add_with()
    arguments = parser.parse_args(argv)
    if (arguments.text is None) == (arguments.hellaswag is None):
        parser.error("give either TEXT.txt or --hellaswag FILE.jsonl")
    for flag, given in {"--stride": arguments.stride, "--tokens": arguments.tokens}.items():
        if given and arguments.hellaswag is not None:
            parser.error(f"{flag} needs a TEXT.txt; it has no effect with --hellaswag")
    if arguments.tokens and arguments.json:
        parser.error("--tokens prints JSON objects for the tokens and --json prints one for the text; leave one out")

    results: dict[str, Any]
    if arguments.hellaswag is not None:
        examples = hellaswag_examples(arguments.hellaswag)
        results = hellaswag(examples, load_model(arguments), progress=True)
    else:
        text = read_text(arguments.text)
        model = load_model(arguments)
        start = time.perf_counter()
        tokens = encode(text, model.tokenizer)
        if arguments.tokens:
            print_tokens(tokens, model, arguments.stride)
            return 0
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
