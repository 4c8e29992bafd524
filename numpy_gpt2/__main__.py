"""`python -m numpy_gpt2 "prompt"`: arguments in, text out."""

from __future__ import annotations

import argparse
import codecs
import io
import itertools
import json
import math
import os
import re
import secrets
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import threadpoolctl
import tiktoken

from . import hub
from .checkpoint import Model, load
from .config import RELEASED_SIZES, GPT2Config
from .generate import generate
from .tokenizer import ENDOFTEXT

DEFAULT_MODEL = "gpt2"

EXAMPLES = """\
examples:
  python -m numpy_gpt2 "Alan Turing theorized that computers would one day become"
  python -m numpy_gpt2 --greedy -n 40 "The dog"             the most probable token, every time
  python -m numpy_gpt2 -m gpt2-xl -t 1 -p 0.9 "Once"        the largest model, nucleus sampling
  python -m numpy_gpt2 -m shakespeare --seed 7 "ROMEO:"     the bundled model, the same verse every time
  python -m numpy_gpt2 --num-samples 3 --stop "." "I"       three sentences, decoded side by side
  python -m numpy_gpt2 --json --stats - < prompt.txt        the prompt from a file (its last line end left out)
  python -m numpy_gpt2 --params                             what GPT-2 is made of
"""


# What the parameters are part of, for the sums of --params.
COMPONENTS = {
    "token embedding": r"wte\.",
    "position embedding": r"wpe\.",
    "attention": r"h\.\d+\.attn\.",
    "MLP": r"h\.\d+\.mlp\.",
    "layer norm": r"(h\.\d+\.)?ln_[12f]\.",
    "untied head": r"lm_head\.",
}


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; --help shows how\n")


def number(convert: Callable[[str], Any], accepts: Callable[[Any], bool], wanted: str) -> Callable[[str], Any]:
    """An argument type: `convert`, then a check."""

    def parse(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not accepts(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return parse


def utf8(argument: str) -> str:
    """The argument as the UTF-8 that was typed, whatever encoding the locale made Python read it in."""
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeDecodeError as error:
        raise argparse.ArgumentTypeError(f"the text is not UTF-8: {error}") from None


def stop_text(argument: str) -> str:
    """A stop text, which has to have a character at least."""
    if not argument:
        raise argparse.ArgumentTypeError("the text is empty, and would stop at once")
    return utf8(argument)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line -> its values, checked."""
    count = number(int, lambda n: n >= 1, "a whole number, 1 or more")
    natural = number(int, lambda n: n >= 0, "a whole number, 0 or more")
    temperature = number(float, lambda x: 0 <= x < math.inf, "a finite number above 0, or 0 for greedy")
    probability = number(float, lambda p: 0 < p <= 1, "a number above 0 and at most 1")

    parser = Parser(
        prog="python -m numpy_gpt2",
        description="Continue a text with GPT-2.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "prompt",
        nargs="?",
        type=utf8,
        help=f"the text to continue; - or a pipe: from standard input; empty: start anew, from {ENDOFTEXT}",
    )
    parser.add_argument(
        "-m",
        "--model",
        metavar="NAME|FOLDER",
        help=f"{', '.join(hub.NAMES)}, owner/name on the hub, a folder under weights/, or any folder (default:"
        f" {DEFAULT_MODEL}, downloaded once; where the hub cannot be reached, the bundled {hub.BUNDLED})",
    )
    parser.add_argument("-n", "--max-new-tokens", metavar="N", type=count, default=100, help="how much (default: 100)")
    parser.add_argument(
        "-t", "--temperature", metavar="X", type=temperature, default=0.8, help="0 is greedy (default: 0.8)"
    )
    parser.add_argument(
        "-k", "--top-k", metavar="K", type=natural, default=40, help="of the K most probable; 0: of all (default: 40)"
    )
    parser.add_argument(
        "-p", "--top-p", metavar="P", type=probability, help="of the fewest that reach probability P (default: off)"
    )
    parser.add_argument("--greedy", action="store_true", help="always the most probable token, as --temperature 0")
    parser.add_argument("-s", "--seed", metavar="N", type=natural, help="the same text again (default: random)")
    parser.add_argument("--num-samples", metavar="N", type=count, default=1, help="N continuations (default: 1)")
    parser.add_argument(
        "--stop", metavar="TEXT", type=stop_text, action="append", default=[], help="end before TEXT (repeatable)"
    )
    parser.add_argument("--ignore-eos", action="store_true", help=f"do not end at {ENDOFTEXT}")
    parser.add_argument("--json", action="store_true", help="one JSON object a sample")
    parser.add_argument("--stats", action="store_true", help="seed, times, speed and memory, on standard error")
    parser.add_argument("--threads", metavar="N", type=count, help="threads of the matrix products (default: all)")
    parser.add_argument("--params", action="store_true", help="print the model's table of parameters and stop")
    arguments = parser.parse_args(argv)
    if arguments.greedy:
        arguments.temperature = 0.0
    if arguments.seed is None:
        arguments.seed = secrets.randbits(32)
    if not arguments.params and arguments.prompt is None and (sys.stdin is None or sys.stdin.isatty()):
        parser.error("there is no prompt: give a text, or pipe one in")
    return arguments


def read_prompt(argument: str | None) -> str:
    """The prompt: as typed, or all of standard input but the line end that editors and `echo` put last."""
    if argument not in (None, "-"):
        return argument
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input is not UTF-8 ({error}); convert it first") from None


def choose_model(name: str | None) -> str:
    """The model that was named; else GPT-2; else, where that cannot be had, the bundled model, and a notice."""
    if name is not None or hub.is_complete(hub.weights_folder() / DEFAULT_MODEL):
        return name or str(hub.weights_folder() / DEFAULT_MODEL)
    problem = hub.why_unreachable()
    if problem is None:
        return DEFAULT_MODEL
    folder = hub.weights_folder() / DEFAULT_MODEL
    note(f"the bundled model {hub.BUNDLED} answers: {DEFAULT_MODEL} is not in {folder} and the hub is away ({problem})")
    note(f"to have {DEFAULT_MODEL}, run this again when the hub is in reach; {hub.by_hand(DEFAULT_MODEL, folder)}")
    return str(hub.bundled_folder())


def note(message: str) -> None:
    print(f"note: {message}", file=sys.stderr)


class Continuation:
    """One sample while it grows: its tokens, its text as far as that is certain, and why it ended."""

    def __init__(self, tokenizer: tiktoken.Encoding, stops: list[str]) -> None:
        self.tokens: list[int] = []
        self.text = ""
        self.finish_reason: str | None = None
        self.tokenizer = tokenizer
        self.stops = stops
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")  # holds back the bytes of half a character
        self.held = ""  # and this, what may be the beginning of a stop text
        self.n_written = 0

    def append(self, token: int) -> None:
        """Take one more token, unless the sample has ended; −1 ends it, as `generate` means it."""
        if self.finish_reason:
            return
        if token < 0:
            self.finish("stop")
            return
        self.tokens.append(token)
        self.extend(self.decoder.decode(self.tokenizer.decode_single_token_bytes(token)))

    def extend(self, characters: str) -> None:
        """Add characters to the text, up to a stop text, and hold back what may become one."""
        self.held += characters
        found = [position for stop in self.stops if (position := self.held.find(stop)) >= 0]
        if found:
            self.text += self.held[: min(found)]
            self.held = ""
            self.finish_reason = "stop"
            while self.tokens and len(self.tokenizer.decode(self.tokens[:-1])) >= len(self.text):
                self.tokens.pop()  # those that spell only the stop text
            return
        certain = len(self.held) - max(
            (n for stop in self.stops for n in range(len(stop)) if self.held.endswith(stop[:n])), default=0
        )
        self.text += self.held[:certain]
        self.held = self.held[certain:]

    def unwritten(self) -> str:
        """The part of the text that no call has returned before."""
        new, self.n_written = self.text[self.n_written :], len(self.text)
        return new

    def finish(self, reason: str) -> None:
        """The sample ends here: nothing is held back any longer."""
        if self.finish_reason:
            return
        if reason != "interrupted":
            self.extend(self.decoder.decode(b"", final=True))
        if not self.finish_reason:
            self.text += self.held
            self.finish_reason = reason


def prompt_ids(prompt: str, model: Model) -> list[int]:
    """The prompt's tokens. An empty prompt is the token that GPT-2 has seen before the first word of every text."""
    if prompt:
        return model.tokenizer.encode_ordinary(prompt)
    if ENDOFTEXT not in model.tokenizer.special_tokens_set:
        raise ValueError(
            f"this model's tokenizer has no {ENDOFTEXT} to start from; give a prompt of at least one character"
        )
    return [model.tokenizer.eot_token]


def end_of_text(model: Model) -> set[int]:
    """The tokens after which there is nothing to say: the config's and the tokenizer's own."""
    eos = model.config.eos_token_id
    tokens = {eos} if isinstance(eos, int) else set(eos or ())
    if ENDOFTEXT in model.tokenizer.special_tokens_set:
        tokens.add(model.tokenizer.eot_token)
    return tokens


def run(arguments: argparse.Namespace) -> int:
    """Generate and print. Returns the exit status."""
    times = [time.perf_counter()]  # of the start, of the model being loaded, of each token
    prompt = read_prompt(arguments.prompt)
    model = load(choose_model(arguments.model))
    times.append(time.perf_counter())
    ids = prompt_ids(prompt, model)
    rows = generate(
        np.broadcast_to(ids, (arguments.num_samples, len(ids))),
        model.weights,
        model.config,
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        stop_tokens=() if arguments.ignore_eos else end_of_text(model),
        n_vocab=model.tokenizer.n_vocab,
        rng=np.random.default_rng(arguments.seed),
    )
    samples = [Continuation(model.tokenizer, arguments.stop) for _ in range(arguments.num_samples)]
    interrupted = False
    if not arguments.json:
        separate(samples, 0)
    try:
        for row in rows:
            times.append(time.perf_counter())
            for sample, token in zip(samples, row.tolist(), strict=True):
                sample.append(token)
            if not arguments.json:
                write(samples[0].unwritten())
            if all(sample.finish_reason for sample in samples):
                break
    except KeyboardInterrupt:
        interrupted = True
    for sample in samples:
        complete = len(sample.tokens) == arguments.max_new_tokens
        sample.finish("interrupted" if interrupted else "length" if complete else "stop")

    timings = summarize(times, sum(len(sample.tokens) for sample in samples))
    for i, sample in enumerate(samples):
        if arguments.json:
            result = {
                "prompt": prompt,
                "text": sample.text,
                "tokens": sample.tokens,
                "finish_reason": sample.finish_reason,
                "seed": arguments.seed,
                "timings": timings,
            }
            write(json.dumps(result, ensure_ascii=False) + "\n")
        else:
            if i > 0:
                separate(samples, i)
            write(sample.unwritten() + "\n")
    if arguments.stats:
        show_stats(timings, arguments.seed)
        if len(ids) + len(times) - 2 > model.config.n_positions:
            note(
                f"the text outgrew the window of {model.config.n_positions:,} tokens; the last half of it was read anew"
            )
    return 130 if interrupted else 0


def write(text: str) -> None:
    """Put text on standard output, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def separate(samples: list[Continuation], i: int) -> None:
    """Say on standard error which of several samples comes next."""
    if len(samples) > 1:
        print(f"--- sample {i + 1} of {len(samples)}", file=sys.stderr, flush=True)


def summarize(times: list[float], n_tokens: int) -> dict[str, float | None]:
    """Seconds since the start, and the speed of decoding: tokens of all samples per second, after each one's first."""
    start, loaded, *steps = times
    decoding = steps[-1] - steps[0] if len(steps) > 1 else 0.0
    return {
        "loaded": loaded - start,
        "first_token": steps[0] - start if steps else None,
        "total": times[-1] - start,
        "tokens_per_second": n_tokens * (len(steps) - 1) / len(steps) / decoding if decoding else None,
    }


def show_stats(timings: dict[str, float | None], seed: int) -> None:
    """The timings, the seed and the memory in one line on standard error."""
    parts = [f"seed {seed}", f"loaded after {timings['loaded']:.2f} s"]
    if timings["first_token"] is not None:
        parts.append(f"first token after {timings['first_token']:.2f} s")
    if timings["tokens_per_second"] is not None:
        parts.append(f"then {timings['tokens_per_second']:.1f} tokens/s")
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB here
        parts.append(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6:.0f} MB")
    print("stats: " + " · ".join(parts), file=sys.stderr)


def show_parameters(name: str | None) -> None:
    """Print a model's table of parameters: each with shape and count, a sum for each block, the sums by component."""
    name = name or DEFAULT_MODEL
    if name in RELEASED_SIZES and not hub.is_complete(hub.weights_folder() / name):
        config = GPT2Config.preset(name)
    else:
        config = GPT2Config.from_json(hub.model_folder(name) / "config.json")
    shapes = config.parameter_shapes()
    counts = {parameter: math.prod(shape) for parameter, shape in shapes.items()}
    lines: list[tuple[str, str, int | None]] = []
    for prefix, group in itertools.groupby(shapes, lambda parameter: re.sub(r"(h\.\d+)?.*", r"\1", parameter)):
        parameters = list(group)
        lines += [(parameter, "×".join(map(str, shapes[parameter])), counts[parameter]) for parameter in parameters]
        if prefix:
            lines.append((f"  sum of {prefix}", "", sum(counts[parameter] for parameter in parameters)))
        lines.append(("", "", None))
    for component, pattern in COMPONENTS.items():
        count = sum(counts[parameter] for parameter in shapes if re.match(pattern, parameter))
        if count:
            lines.append((component, f"{count / config.num_parameters():.1%}", count))
    lines.append(("all parameters", "", config.num_parameters()))
    write(
        "".join(
            f"{left:<26}{middle:>14}{'' if n is None else f'{n:,}':>16}".rstrip() + "\n" for left, middle, n in lines
        )
    )


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status: 0, 1 for what went wrong, 130 for Ctrl-C; argparse exits with 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    arguments = parse_arguments(argv)
    try:
        if arguments.threads:
            threadpoolctl.threadpool_limits(arguments.threads)
        if arguments.params:
            show_parameters(arguments.model)
            return 0
        return run(arguments)
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError, MemoryError) as error:
        if isinstance(error, BrokenPipeError):  # the reader has seen enough
            status = 0
        else:
            print("error: " + " ".join(str(error).split()), file=sys.stderr)
            status = 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries to write the rest again
        return status


if __name__ == "__main__":
    sys.exit(main())
