"""`python -m numpy_gpt2 "prompt"`: arguments in, text out."""

from __future__ import annotations

import argparse
import json
import math
import secrets
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import hub
from .cli import Parser, argument_type, exit_status, load_model, non_negative_int, positive_int, read_prompt, some_text
from .config import RELEASED_SIZES, GPT2Config
from .console import print_stderr, write
from .generate import generate
from .hub import DEFAULT_MODEL
from .lookup import LONGEST_DRAFT
from .stream import Continuation, end_of_text
from .tokenizer import ENDOFTEXT, prompt_ids

EXAMPLES = """\
examples:
  python -m numpy_gpt2 "Alan Turing theorized that computers would one day"
  python -m numpy_gpt2 --greedy -n 40 "The dog"            the same every time
  python -m numpy_gpt2 -m gpt2-xl -t 1 -k 0 -p 0.9 "Once"  nucleus sampling
  python -m numpy_gpt2 -m shakespeare --seed 7 "ROMEO:"    the bundled model
  python -m numpy_gpt2 --num-samples 3 --stop . "I think"  three sentences
  python -m numpy_gpt2 --json --stats - < prompt.txt       a prompt from a file
  python -m numpy_gpt2 --params                            what GPT-2 is made of
"""

# What the parameters are part of, by what their names contain, for the sums of --params.
COMPONENTS = {
    "token embedding": "wte.",
    "position embedding": "wpe.",
    "attention": ".attn.",
    "MLP": ".mlp.",
    "layer norm": "ln_",
    "head": "lm_head.",
}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line -> its values, checked."""
    samples = argument_type(int, lambda n: 1 <= n <= 10_000, "a whole number from 1 to 10,000")
    temperature = argument_type(float, lambda x: 0 <= x < math.inf, "a finite number above 0, or 0 for greedy")
    probability = argument_type(float, lambda p: 0 < p <= 1, "a number above 0 and at most 1")

    parser = Parser(
        prog="python -m numpy_gpt2",
        usage="%(prog)s [options] [PROMPT]",
        description="Continue a text with GPT-2: text to standard output, all else to standard error.",
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    parser.add_prompt("the text to continue")
    parser.add_model()
    add("-n", "--max-new-tokens", metavar="N", type=positive_int, default=100, help="end after N tokens (default: 100)")
    add("--stop", metavar="TEXT", type=some_text, action="append", default=[], help="end before TEXT (repeatable)")
    add("--ignore-eos", action="store_true", help=f"do not end at {ENDOFTEXT}")

    add = parser.add_argument_group("how the next token is chosen").add_argument
    add("-t", "--temperature", metavar="X", type=temperature, default=0.8, help="0 is greedy (default: 0.8)")
    add(
        "-k",
        "--top-k",
        metavar="K",
        type=non_negative_int,
        default=40,
        help="of the K most probable; 0: of all (default: 40)",
    )
    add("-p", "--top-p", metavar="P", type=probability, help="of the fewest that add up to P (default: off)")
    add("--greedy", action="store_true", help="always the most probable, as --temperature 0")
    seed = secrets.randbits(32)
    add(
        "-s",
        "--seed",
        metavar="N",
        type=non_negative_int,
        default=seed,
        help="the same choices every time (default: random)",
    )

    add = parser.add_argument_group("what is printed, and how").add_argument
    add("--num-samples", metavar="N", type=samples, default=1, help="N continuations, side by side (default: 1)")
    add("--json", action="store_true", help="one JSON object a sample")
    add("--stats", action="store_true", help="seed, times since the imports, speed and memory")
    lookup = "try what followed the last words before: sooner where text repeats (default: on)"
    add("--lookup", action=argparse.BooleanOptionalAction, default=True, help=lookup)
    add("--params", action="store_true", help="the table of the model's parameters, and stop")

    arguments = parser.parse_args(argv)
    if not arguments.params:
        parser.check_prompt(arguments.prompt)
    if arguments.greedy:
        arguments.temperature = 0.0
    return arguments


def is_here(name: str) -> bool:
    """Whether a model can be had without asking the hub."""
    return Path(name).is_dir() or hub.is_complete(hub.weights_folder() / name)


def run(arguments: argparse.Namespace) -> int:
    """Generate and print. Returns the exit status."""
    start = time.perf_counter()
    prompt = read_prompt(arguments.prompt)
    model = load_model(arguments)
    loaded = time.perf_counter() - start
    ids = prompt_ids(prompt, model.tokenizer)
    n = arguments.num_samples
    rows = generate(
        np.tile(ids, (n, 1)),
        model.weights,
        model.config,
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        stop_tokens=() if arguments.ignore_eos else end_of_text(model),
        n_vocab=model.tokenizer.n_vocab,
        lookup=LONGEST_DRAFT if arguments.lookup else 0,
        rng=arguments.seed,
    )
    samples = [Continuation(model.tokenizer, arguments.stop) for _ in range(n)]
    steps: list[tuple[float, int]] = []  # seconds since the start, tokens
    interrupted = False
    if n > 1 and not arguments.json:
        print_stderr(f"--- sample 1 of {n}")
    try:
        for row in rows:
            steps.append((time.perf_counter() - start, int((row >= 0).sum())))
            for sample, token in zip(samples, row.tolist(), strict=True):
                sample.append(token)
            if not arguments.json:
                write(samples[0].unwritten())
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
                print_stderr(f"--- sample {i + 1} of {n}")
            write(sample.unwritten() + "\n")
    if arguments.stats:
        show_stats(timings, arguments.seed)
        window = model.config.n_positions
        if min(len(ids), window) + len(steps) - 1 > window:
            print_stderr(f"note: the text outgrew the window of {window:,} tokens; the last half of it was read anew")
    return 130 if interrupted else 0


def summarize(loaded: float, steps: list[tuple[float, int]]) -> dict[str, float | None]:
    """Seconds since the start, and the speed of decoding: tokens of all samples per second, after each one's first."""
    first, last = (steps[0][0], steps[-1][0]) if steps else (loaded, loaded)
    return {
        "loaded": loaded,
        "first_token": first if steps else None,
        "total": last,
        "tokens_per_second": sum(n for _, n in steps[1:]) / (last - first) if len(steps) > 1 else None,
    }


def show_stats(timings: dict[str, float | None], seed: int) -> None:
    """The seed, the timings and the memory in one line on standard error."""
    parts = {
        "loaded": "loaded after {:.2f} s",
        "first_token": "first token after {:.2f} s",
        "tokens_per_second": "then {:.1f} tokens/s",
    }
    line = [f"seed {seed}", *(part.format(timings[name]) for name, part in parts.items() if timings[name])]
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB here
        line.append(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6:.0f} MB")
    print_stderr(f"stats: {' · '.join(line)}")


def show_parameters(name: str) -> None:
    """Print a model's table of parameters: each with its shape and count, and the sums by component."""
    preset = name in RELEASED_SIZES and not is_here(name)
    config = GPT2Config.preset(name) if preset else GPT2Config.from_json(hub.model_folder(name) / "config.json")
    shapes, total = config.parameter_shapes(), config.num_parameters()
    rows = [("parameter", "shape", "count")]
    for parameter, shape in shapes.items():
        if parameter.endswith(("ln_1.weight", "ln_f.weight")):  # here a block begins, and here they end
            rows.append(("", "", ""))
        rows.append((parameter, "×".join(map(str, shape)), f"{math.prod(shape):,}"))
    rows += [("", "", ""), ("component", "share", "count")]
    for component, word in COMPONENTS.items():
        if count := sum(math.prod(shape) for parameter, shape in shapes.items() if word in parameter):
            rows.append((component, f"{count / total:.2%}", f"{count:,}"))
    rows.append(("all parameters", "", f"{total:,}"))
    write("".join(f"{left:<26}{middle:>14}{right:>16}".rstrip() + "\n" for left, middle, right in rows))
    block = sum(math.prod(shape) for shape in config.block_shapes().values())
    head = "wte.weight, transposed" if config.tie_word_embeddings else "a matrix of its own"
    write(f"\n{config.n_layer} blocks of {block:,} parameters each; the head is {head}\n")


def command(argv: list[str] | None) -> int:
    """Do what the command line says. Returns the exit status."""
    arguments = parse_arguments(argv)
    if arguments.params:
        show_parameters(DEFAULT_MODEL if arguments.model is None else arguments.model)
        return 0
    return run(arguments)


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status: 0, 1 for what went wrong, 130 for Ctrl-C; argparse exits with 2."""
    return exit_status(lambda: command(argv))


if __name__ == "__main__":
    sys.exit(main())
