"""A session in a terminal, `-i`: the model stays loaded, and each line that is typed is a prompt.

It is not a chat: GPT-2 continues texts. An empty line continues the text so far from its last token, as if `-n` were
larger. With nothing before it, an empty line starts from `<|endoftext|>`, like an empty prompt. Ctrl-C stops a text or
clears the line, and Ctrl-D ends the session. Text number i of a session has the seed N + i − 1.
"""

from __future__ import annotations

import argparse
import io
import itertools
import sys
import time
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from .checkpoint import Model
from .cli import load_model
from .console import print_stderr, write
from .options import settings_of
from .samples import Settings, continue_prompts, cut_prompt_ids, outgrew, print_outgrown, print_stats, summarize
from .stream import TextStream

GREETING = (
    "Type the beginning of a text, and GPT-2 continues it; this is not a chat."
    " An empty line goes on with the text. Ctrl-C stops it, Ctrl-D ends the session."
)


@dataclass
class Text:
    """The text so far: the tokens of the prompt, and the stream of the text after it."""

    prompt: list[int]
    stream: TextStream


def run_session(arguments: argparse.Namespace) -> int:
    """Continue the texts that are typed. Returns the exit status. An error in a text does not end the session."""
    settings, model = settings_of(arguments), load_model(arguments)
    print_stderr(GREETING)
    terminal = sys.stdin.isatty()
    if terminal and isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8")
        with suppress(ImportError):  # Windows has none
            import readline  # noqa: F401  (gives `input` a history and editing)
    given = [] if arguments.prompt is None else [arguments.prompt]
    numbers = itertools.count(1)
    text: Text | None = None
    while True:
        try:
            line = given.pop() if given else read_line()
            if line is None:
                return 0
            if line or not text:
                text = Text(cut_prompt_ids(line, model), TextStream(model.tokenizer, settings.stop))
            continue_text(text, model, settings, next(numbers), arguments.stats)
        except (ValueError, MemoryError) as error:
            print_stderr(f"error: {str(error) or 'out of memory'}")
        except KeyboardInterrupt:
            if not terminal:
                raise


def read_line() -> str | None:
    """The next line of standard input, without its end. None at the end of the input.

    Raises ValueError if the line is not UTF-8. Ctrl-C raises KeyboardInterrupt.
    """
    try:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            line = sys.stdin.buffer.readline().decode("utf-8")
            return line.removesuffix("\n").removesuffix("\r") if line else None
        try:
            return input("> ")
        except EOFError:
            print_stderr("")  # ends the line of the terminal
            return None
        except KeyboardInterrupt:
            print_stderr("")
            raise
    except UnicodeDecodeError as error:
        raise ValueError(f"the line is not UTF-8 ({error})") from None


def continue_text(text: Text, model: Model, settings: Settings, number: int, stats: bool) -> None:
    """Print the continuation of a text. Ctrl-C ends it, and is raised again."""
    start, seed = time.perf_counter(), settings.seed_of(number)
    stream, window, steps, interrupted = text.stream, model.config.n_positions, [], False
    ids = (text.prompt + stream.tokens)[-window:]
    stream.finish_reason = None
    try:
        for _ in continue_prompts(np.array([ids]), [stream], model, settings, seed):
            steps.append((time.perf_counter() - start, 1))
            write(stream.new_text())
    except KeyboardInterrupt:
        interrupted = True
    cut = interrupted or stream.finish_reason == "stop"
    stream.finish("interrupted")  # half a character at the end is printed when it is complete
    write(stream.new_text() + "\n")
    if cut:
        text.prompt += tokens_of_text(stream)
        text.stream = TextStream(model.tokenizer, settings.stop)
    if stats:
        print_stats(summarize(None, steps, settings), seed)
        if outgrew(len(ids), len(steps), window):
            print_outgrown(window)
    if interrupted:
        raise KeyboardInterrupt


def tokens_of_text(stream: TextStream) -> list[int]:
    """The tokens of a text that was cut. Its last token may reach into a stop string, or not yet be in the text."""
    tokens = [*stream.tokens]
    while not stream.text.startswith(stream.tokenizer.decode(tokens)):
        tokens.pop()
    rest = stream.text.removeprefix(stream.tokenizer.decode(tokens))
    return tokens + stream.tokenizer.encode_ordinary(rest)
