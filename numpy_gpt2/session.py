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

import numpy as np
import tiktoken

from .checkpoint import Model
from .cli import load_model
from .console import print_stderr, write
from .options import settings_of
from .samples import Settings, continue_prompts, outgrew, print_outgrown, print_stats, summarize
from .stream import TextStream
from .tokenizer import prompt_ids

GREETING = (
    "Type the beginning of a text, and GPT-2 continues it; this is not a chat."
    " An empty line goes on with the text. Ctrl-C stops it, Ctrl-D ends the session."
)


def run_session(arguments: argparse.Namespace) -> int:
    """Continue the texts that are typed. Returns the exit status. An error in a text does not end the session."""
    settings, model = settings_of(arguments), load_model(arguments)
    print_stderr(GREETING)
    terminal = sys.stdin.isatty()
    if terminal and isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8")
        with suppress(ImportError):  # Windows has none
            import readline  # noqa: F401  (gives `input` a history and editing)
    lines = itertools.chain([] if arguments.prompt is None else [arguments.prompt], iter(read_line, None))
    seeds = itertools.count(settings.seed)
    text: list[int] = []  # the tokens so far
    while True:
        try:
            line = next(lines, None)
            if line is None:
                return 0
            if line or not text:
                text = prompt_ids(line, model.tokenizer)
            continue_text(text, model, settings, next(seeds), arguments.stats)
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


def continue_text(text: list[int], model: Model, settings: Settings, seed: int, stats: bool) -> None:
    """Print the continuation of a text and append its tokens to `text`. Ctrl-C does the same with the part so far."""
    start = time.perf_counter()
    sample = TextStream(model.tokenizer, settings.stop)
    steps = []
    interrupted = False
    try:
        for _ in continue_prompts(np.array([text]), [sample], model, settings, seed):
            steps.append((time.perf_counter() - start, 1))
            write(sample.new_text())
    except KeyboardInterrupt:
        interrupted = True
    sample.finish("interrupted")  # without half a character: the text goes on with the whole one
    write(sample.new_text() + "\n")
    window = model.config.n_positions
    if stats:
        print_stats(summarize(None, steps), seed)
        if outgrew(len(text), len(steps), window):
            print_outgrown(window)
    text[:] = (text + text_tokens(sample, model.tokenizer))[-window:]
    if interrupted:
        raise KeyboardInterrupt


def text_tokens(sample: TextStream, tokenizer: tiktoken.Encoding) -> list[int]:
    """The tokens of a sample's text. The sample's own tokens may end with half a character, or in a stop string.

    >>> from numpy_gpt2.tokenizer import byte_tokenizer
    >>> sample = TextStream(byte_tokenizer(), stop_strings=[])
    >>> for byte in "aé".encode()[:2]:
    ...     sample.append(byte)
    >>> sample.tokens, text_tokens(sample, sample.tokenizer)
    ([97, 195], [97])
    """
    tokens = [*sample.tokens]
    while not sample.text.startswith(tokenizer.decode(tokens)):
        tokens.pop()
    return tokens + tokenizer.encode_ordinary(sample.text[len(tokenizer.decode(tokens)) :])
