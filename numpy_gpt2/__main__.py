"""The command `python -m numpy_gpt2 "prompt"`: continue a prompt and print the text."""

from __future__ import annotations

import argparse
import json
import math
import secrets
import sys
import time
from importlib import import_module
from typing import Any

import numpy as np

from . import hub
from .cli import (
    Parser,
    argument_type,
    exit_status,
    load_model,
    non_negative_int,
    nonempty_text,
    positive_int,
    read_prompt,
)
from .config import RELEASED_SIZES, GPT2Config
from .console import print_stderr, write
from .generate import generate
from .hub import DEFAULT_MODEL
from .lookup import LONGEST_DRAFT
from .stream import TextStream, end_of_text, excluded_tokens
from .tokenizer import ENDOFTEXT, prompt_ids

EXAMPLES = """\
examples:
  python -m numpy_gpt2 "Alan Turing theorized that computers would one day"
  python -m numpy_gpt2 --greedy -n 40 "The dog"            always the same text
  python -m numpy_gpt2 -m gpt2-xl -t 1 -k 0 -p 0.9 "Once"  nucleus sampling
  python -m numpy_gpt2 -m shakespeare --seed 7 "ROMEO:"    the bundled model
  python -m numpy_gpt2 --num-samples 3 --stop . "I think"  up to a full stop
  python -m numpy_gpt2 --json --stats - < prompt.txt       the prompt is a file
  python -m numpy_gpt2 --params                            GPT-2's parameters

other programs, each with its own --help:
  python -m numpy_gpt2 train …     train a model on a text
  python -m numpy_gpt2 evaluate …  measure how well a model predicts a text
  python -m numpy_gpt2 explain …   show a prompt inside the model
A prompt that is one of these three words follows --, as in: -- train
"""

PROGRAMS = {"train": ".train.__main__", "evaluate": ".evaluate", "explain": ".explain.__main__"}

# The components of --params, and the part of a parameter's name that shows which one it belongs to.
COMPONENTS = {
    "token embedding": "wte.",
    "position embedding": "wpe.",
    "attention": ".attn.",
    "MLP": ".mlp.",
    "layer norm": "ln_",
    "head": "lm_head.",
}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    temperature = argument_type(float, lambda x: 0 <= x < math.inf, "a finite number above 0, or 0 for greedy")
    probability = argument_type(float, lambda p: 0 < p <= 1, "a number above 0 and at most 1")
    n_samples = argument_type(int, lambda n: 1 <= n <= 10_000, "a whole number from 1 to 10,000")

    parser = Parser(
        prog="python -m numpy_gpt2",
        usage="%(prog)s [options] [PROMPT]",
        description="Continue a text with GPT-2. The text goes to stdout, messages go to stderr.",
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    parser.add_prompt("the text to continue")
    parser.add_model()
    help = "generate at most N tokens (default: 100)"
    add("-n", "--max-new-tokens", metavar="N", type=positive_int, default=100, help=help)
    help = "end before TEXT; can be given several times; TEXT is literal: in bash, two line ends are $'\\n\\n'"
    add("--stop", metavar="TEXT", type=nonempty_text, action="append", default=[], help=help)
    add("--ignore-eos", action="store_true", help=f"do not end at {ENDOFTEXT}")
    help = "draft tokens from earlier text; same output, faster where the text repeats (default: on)"
    add("--lookup", action=argparse.BooleanOptionalAction, default=True, help=help)

    add = parser.add_argument_group("sampling").add_argument
    help = "lower values prefer probable tokens more strongly; 0 means --greedy (default: 0.8)"
    add("-t", "--temperature", metavar="X", type=temperature, help=help)
    help = "sample from the K most probable tokens; 0 turns this off (default: 40)"
    add("-k", "--top-k", metavar="K", type=non_negative_int, help=help)
    help = "sample from the smallest set of most probable tokens whose total is P or more (default: off)"
    add("-p", "--top-p", metavar="P", type=probability, help=help)
    add("--greedy", action="store_true", help="always take the most probable token; contradicts -t, -k and -p")
    help = "random seed; the same seed gives the same text (default: random)"
    add("-s", "--seed", metavar="N", type=non_negative_int, default=secrets.randbits(32), help=help)
    help = "generate N continuations as one batch, with a line before each (default: 1)"
    add("--num-samples", metavar="N", type=n_samples, default=1, help=help)

    add = parser.add_argument_group("output").add_argument
    add("--json", action="store_true", help="print each sample as a JSON object in one line")
    add("--stats", action="store_true", help="print the seed, timings, speed and memory on stderr")
    add("--params", action="store_true", help="print a table of the model's parameters and exit")

    arguments = parser.parse_args(argv)
    if not arguments.params:
        parser.check_prompt(arguments.prompt)
    if arguments.greedy:
        samples = {"-t": arguments.temperature, "-k": (arguments.top_k or 1) > 1, "-p": (arguments.top_p or 1) < 1}
        if flags := [flag for flag, given in samples.items() if given]:
            parser.error(f"--greedy does not sample, so it contradicts {', '.join(flags)}; leave out one or the other")
        arguments.temperature = 0.0
    if arguments.temperature is None:
        arguments.temperature = 0.8
    if arguments.top_k is None:
        arguments.top_k = 40
    return arguments


def run(arguments: argparse.Namespace) -> int:
    """Generate text and print it. Returns the exit status."""
    start = time.perf_counter()
    prompt = read_prompt(arguments.prompt)
    model = load_model(arguments)
    loaded = time.perf_counter() - start
    ids = prompt_ids(prompt, model.tokenizer)
    n = arguments.num_samples
    rows = generate(
        np.broadcast_to(ids, (n, len(ids))),  # no copies: `generate` cuts a long prompt first
        model.weights,
        model.config,
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        stop_tokens=() if arguments.ignore_eos else end_of_text(model),
        n_vocab=model.tokenizer.n_vocab,
        excluded=excluded_tokens(model),
        lookup=LONGEST_DRAFT if arguments.lookup else 0,
        rng=arguments.seed,
    )
    samples = [TextStream(model.tokenizer, arguments.stop) for _ in range(n)]
    steps: list[tuple[float, int]] = []  # for each step: seconds since the start, number of tokens
    interrupted = False
    if n > 1 and not arguments.json:
        write(f"--- sample 1 of {n}\n")
    try:
        for row in rows:
            steps.append((time.perf_counter() - start, int((row >= 0).sum())))
            for sample, token in zip(samples, row.tolist(), strict=True):
                sample.append(token)
            if not arguments.json:
                write(samples[0].new_text())
            if all(sample.finish_reason for sample in samples):
                break
    except KeyboardInterrupt:
        interrupted = True

    timings = summarize(loaded, steps)
    for i, sample in enumerate(samples):
        complete = len(sample.tokens) == arguments.max_new_tokens
        sample.finish("interrupted" if interrupted else "length" if complete else "stop")
        if arguments.json:
            result: dict[str, Any] = {"prompt": prompt, "text": sample.text, "tokens": sample.tokens}
            result |= {"finish_reason": sample.finish_reason, "seed": arguments.seed, "timings": timings}
            write(json.dumps(result, ensure_ascii=False) + "\n")
        else:
            if i > 0:
                write(f"--- sample {i + 1} of {n}\n")
            write(sample.new_text() + "\n")
    if arguments.stats:
        print_stats(timings, arguments.seed)
        window = model.config.n_positions
        if min(len(ids), window) + len(steps) - 1 > window:
            print_stderr(
                f"note: the text outgrew the window of {window:,} tokens; the last half of the window was read again"
            )
    return 130 if interrupted else 0


def summarize(loaded: float, steps: list[tuple[float, int]]) -> dict[str, float | None]:
    """Seconds since the start, and the decoding speed in tokens per second.

    The speed counts the tokens of all samples, except the first token of each.
    """
    first, last = (steps[0][0], steps[-1][0]) if steps else (loaded, loaded)
    return {
        "loaded": loaded,
        "first_token": first if steps else None,
        "total": last,
        "tokens_per_second": sum(n for _, n in steps[1:]) / (last - first) if len(steps) > 1 else None,
    }


def print_stats(timings: dict[str, float | None], seed: int) -> None:
    """Print the seed, the timings and the memory in one line on standard error."""
    formats = {
        "loaded": "loaded after {:.2f} s",
        "first_token": "first token after {:.2f} s",
        "tokens_per_second": "then {:.1f} tokens/s",
    }
    parts = [f"seed {seed}", *(text.format(timings[name]) for name, text in formats.items() if timings[name])]
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS and in KiB on Linux
        parts.append(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6:.0f} MB")
    print_stderr(f"stats: {' · '.join(parts)}")


def print_parameters(name: str) -> None:
    """Print a table of a model's parameters with their shapes and sizes, and the totals by component.

    Nothing is downloaded for the four released sizes of GPT-2, and config.json only for other models.
    """
    preset = name in RELEASED_SIZES and not hub.local_folder(name, hub.Parts.CONFIG)
    config = GPT2Config.preset(name) if preset else GPT2Config.from_json(hub.config_file(name))
    shapes, total = config.parameter_shapes(), config.num_parameters()
    rows = [("parameter", "shape", "count")]
    for parameter, shape in shapes.items():
        if parameter.endswith(("ln_1.weight", "ln_f.weight")):  # an empty line before each block and after the last
            rows.append(("", "", ""))
        rows.append((parameter, "×".join(map(str, shape)), f"{math.prod(shape):,}"))
    rows += [("", "", ""), ("component", "share", "count")]
    for component, part in COMPONENTS.items():
        if size := sum(math.prod(shape) for parameter, shape in shapes.items() if part in parameter):
            rows.append((component, f"{size / total:.2%}", f"{size:,}"))
    rows.append(("all parameters", "", f"{total:,}"))
    write("".join(f"{left:<26}{middle:>14}{right:>16}".rstrip() + "\n" for left, middle, right in rows))
    block = sum(math.prod(shape) for shape in config.block_shapes().values())
    head = "wte.weight, transposed" if config.tie_word_embeddings else "a separate matrix"
    write(f"\n{config.n_layer} blocks of {block:,} parameters each; the head is {head}\n")


def command(argv: list[str] | None) -> int:
    """Run the command line. Returns the exit status."""
    arguments = parse_arguments(argv)
    if arguments.params:
        print_parameters(DEFAULT_MODEL if arguments.model is None else arguments.model)
        return 0
    return run(arguments)


def main(argv: list[str] | None = None) -> int:
    """Run the command, or the program that its first word names. Returns the exit status; see `exit_status`."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in PROGRAMS:
        return import_module(PROGRAMS[words[0]], __package__).main(words[1:])
    return exit_status(lambda: command(words))


if __name__ == "__main__":
    sys.exit(main())
