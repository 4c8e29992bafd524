"""Several prompts, `--prompts FILE`: a JSON object for each sample, in the order of the file.

Each line is a prompt. Prompts of equal length, in tokens, are continued together, because a batch gives several times
as many tokens per second as one text. A thread reads ahead to find them. Work waits for input only if there is none.

The batches do not change the texts. The prompt in line i has its own random numbers, with the seed N + i − 1. So its
texts are those of a command with this prompt and this seed, except where rounding differs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from . import interrupts
from .checkpoint import Model
from .cli import load_model
from .console import print_stderr, write
from .files import replace_surrogates
from .options import settings_of
from .samples import (
    Settings,
    continue_prompts,
    cut_prompt_ids,
    end_reason,
    json_line,
    outgrew,
    print_outgrown,
    print_stats,
    score_prompt,
    summarize,
)
from .stream import TextStream
from .tokenizer import prompt_ids

BATCH_SAMPLES = 32  # 6 times as many tokens per second as one sample, and 1.5 times as many as 16
BATCH_POSITIONS = 8192  # samples times tokens: their keys and values take about as much memory as the weights
AHEAD = 1024  # prompts that may wait for others of equal length
PATIENCE = 0.01  # seconds: a batch waits so long for more lines
LONGEST_LINE = 1 << 20  # bytes

Line = tuple[int, bytes]  # its number, from 1 on, and what it contains
Lines = queue.Queue[Line | OSError | None]  # the last item is None, or an error that ended the input


@dataclass(eq=False)
class Prompt:
    """A line of the file: its number, the prompt, its tokens and its samples."""

    line: int
    text: str
    ids: list[int]  # at most those of the window
    seed: int | None
    samples: list[TextStream] = field(default_factory=list)
    steps: list[tuple[float, int]] = field(default_factory=list)  # for each step: the time, the number of new tokens

    def has_ended(self) -> bool:
        """Whether all samples have ended."""
        return bool(self.samples) and all(sample.finish_reason for sample in self.samples)


class Generators(np.random.Generator):
    """The random numbers of a batch. Each prompt has its own generator, for an equal share of the rows."""

    def __init__(self, seeds: Iterable[int | None]) -> None:
        super().__init__(np.random.PCG64(0))  # not used
        self.generators = [np.random.default_rng(seed) for seed in seeds]

    def random(self, size: Sequence[int]) -> np.ndarray:  # type: ignore[override]
        """Random numbers for the rows of the batch."""
        [n_rows] = size
        return np.concatenate([g.random(n_rows // len(self.generators)) for g in self.generators])


def run_prompts(arguments: argparse.Namespace) -> int:
    """Continue the prompts in a file. Returns the exit status: 1 if a line has an error."""
    start = time.perf_counter()
    lines = read_ahead(open_prompts(arguments.prompts))
    run = Run(load_model(arguments), settings_of(arguments), start)
    waiting: list[Prompt] = []
    status = 0
    try:
        while (received := receive(lines, AHEAD - len(waiting), wait=not waiting)) or waiting:
            for number, line in received:
                try:
                    waiting.append(run.prompt(number, line))
                except ValueError as error:
                    run.add_error(number, error)
            if waiting:
                batch = run.choose_batch(waiting)
                waiting = [prompt for prompt in waiting if prompt not in batch]
                run.continue_batch(batch)
    except KeyboardInterrupt:
        status = interrupts.STATUS
    if arguments.stats:
        print_stats(summarize(run.loaded, run.steps, run.settings), run.settings.seed_of(1))
        if run.outgrew_window:
            print_outgrown(run.model.config.n_positions)
    if run.n_failed and not status:
        print_stderr(f"error: {run.n_failed} of {run.n_printed} lines failed; their objects say why")
        status = 1
    return status


# Reading


def open_prompts(name: str) -> BinaryIO:
    """Open a file, or standard input if the name is "-". Raises OSError.

    A thread that waits for input does not end with the command. Python would fail at exit, because it closes
    `sys.stdin`, so the thread gets the file below it.
    """
    return sys.stdin.detach() if name == "-" else open(name, "rb")  # type: ignore[union-attr]


def read_ahead(file: BinaryIO) -> Lines:
    """A queue that a thread fills with the lines of a file. Raises OSError if no thread can be started."""
    lines: Lines = queue.Queue(AHEAD)

    def read() -> None:
        end = None
        try:
            for line in numbered_lines(file):
                lines.put(line)
        except OSError as error:
            end = error
        lines.put(end)

    try:
        threading.Thread(target=read, daemon=True).start()
    except RuntimeError as error:
        raise OSError(f"the prompts are read in a thread of their own, and this failed: {error}") from None
    return lines


def numbered_lines(file: BinaryIO) -> Iterator[Line]:
    """The lines of a file with their numbers. Only the beginning of a line that is too long is kept."""
    limit = LONGEST_LINE + len(b"\r\n")
    with file:
        for number in itertools.count(1):
            line = part = file.readline(limit)
            while len(part) == limit and not part.endswith(b"\n"):
                part = file.readline(limit)
            if not line:
                return
            yield number, line


def receive(lines: Lines, n: int, wait: bool) -> list[Line]:
    """Up to n lines that have arrived. If `wait`, wait for the first one: an empty list is then the end.

    Raises OSError instead of returning an empty list if the end was an error.
    """
    received: list[Line] = []
    deadline = 0.0 if wait else time.monotonic() + PATIENCE
    with suppress(queue.Empty):
        while len(received) < n:
            line = lines.get(timeout=max(0, deadline - time.monotonic()) if deadline else None)
            if not isinstance(line, tuple):
                lines.put(line)  # for the next call
                if line and wait and not received:
                    raise line
                break
            received.append(line)
            deadline = deadline or time.monotonic() + PATIENCE
    return received


def parse_line(line: bytes) -> str:
    """The prompt of a line: a JSON string if it begins with a quotation mark, else the line itself.

    Raises ValueError if the line is too long, not UTF-8, or not a JSON string.
    """
    line = line.removesuffix(b"\n").removesuffix(b"\r")
    if len(line) > LONGEST_LINE:
        raise ValueError(f"the prompt is longer than {LONGEST_LINE:,} bytes; cut it from the left")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the prompt is not UTF-8 ({error}); convert it first") from None
    if not text.startswith('"'):
        return text
    try:
        prompt: str = json.loads(text)
    except json.JSONDecodeError as error:
        problem = f"{error.msg.removesuffix(' at')} at character {error.colno}"
        raise ValueError(f"the prompt begins with a quotation mark and is not a JSON string ({problem})") from None
    return replace_surrogates(prompt)


# Continuing


class Run:
    """Continues prompts, and prints the results of the lines in order, each when all before it are printed."""

    def __init__(self, model: Model, settings: Settings, start: float) -> None:
        self.model, self.settings, self.start = model, settings, start
        self.loaded = time.perf_counter() - start
        self.results: dict[int, str] = {}  # of lines that wait for an earlier line
        self.n_printed = self.n_failed = 0
        self.steps: list[tuple[float, int]] = []  # the first step; the time of the last, and the tokens after the first
        self.outgrew_window = False

    def prompt(self, number: int, line: bytes) -> Prompt:
        """The prompt of a line. Raises ValueError if the line is not a prompt."""
        text = parse_line(line)
        ids = cut_prompt_ids(text, self.model, f"line {number}: ")
        return Prompt(number, text, ids, self.settings.seed_of(number))

    def choose_batch(self, waiting: list[Prompt]) -> list[Prompt]:
        """The first prompt that waits, and others of the same length: as many as a batch may have."""
        n_tokens = len(waiting[0].ids)
        positions = min(n_tokens + self.settings.max_new_tokens, self.model.config.n_positions)
        n_samples = min(BATCH_SAMPLES, BATCH_POSITIONS // positions)
        n = 1 if self.settings.beams else max(1, n_samples // self.settings.num_samples)
        return [prompt for prompt in waiting if len(prompt.ids) == n_tokens][:n]

    def continue_batch(self, batch: list[Prompt]) -> None:
        """Continue prompts of equal length, and print the results. If this fails, continue each prompt alone."""
        try:
            self.try_batch(batch)
        except (ValueError, MemoryError) as error:
            if len(batch) == 1:
                self.add_error(batch[0].line, error)
                return
            for prompt in batch:
                if not prompt.has_ended():
                    self.continue_batch([prompt])

    def try_batch(self, batch: list[Prompt]) -> None:
        """Continue prompts of equal length. The result of a prompt is added when all of its samples have ended."""
        n, interrupted = self.settings.num_samples, False
        for prompt in batch:
            prompt.samples = [TextStream(self.model.tokenizer, self.settings.stop) for _ in range(n)]
            prompt.steps = []
            if self.settings.echo:
                ids = prompt_ids(prompt.text, self.model.tokenizer)  # all of them, not only those in the window
                score_prompt(ids, prompt.samples, self.model, self.settings.logprobs or 0)
        progress = continue_prompts(
            np.repeat([prompt.ids for prompt in batch], n, axis=0),
            [sample for prompt in batch for sample in prompt.samples],
            self.model,
            self.settings,
            Generators(prompt.seed for prompt in batch),
        )
        unfinished = [*batch]
        try:
            for n_tokens in progress:
                now = time.perf_counter() - self.start
                self.count(now, int(n_tokens.sum()))
                for prompt, n_of_prompt in zip(batch, n_tokens.reshape(-1, n).sum(axis=1).tolist(), strict=True):
                    if n_of_prompt:
                        prompt.steps.append((now, n_of_prompt))
                for prompt in [prompt for prompt in unfinished if prompt.has_ended()]:
                    unfinished.remove(prompt)
                    self.add(prompt)
        except KeyboardInterrupt:
            interrupted = True
        for prompt in unfinished:
            for sample in prompt.samples:
                sample.finish("interrupted" if interrupted else end_reason(sample, self.settings))
            self.add(prompt)
        if interrupted:
            raise KeyboardInterrupt

    def count(self, now: float, n_tokens: int) -> None:
        """Add the tokens of a step to the totals."""
        self.steps = [*self.steps[:1], (now, n_tokens + sum(n for _, n in self.steps[1:]))]

    def add(self, prompt: Prompt) -> None:
        """Add the result of a prompt."""
        self.outgrew_window |= outgrew(len(prompt.ids), len(prompt.steps), self.model.config.n_positions)
        timings = summarize(self.loaded, prompt.steps, self.settings)
        lines = [json_line(prompt.text, sample, prompt.seed, timings) for sample in prompt.samples]
        self.print_in_order(prompt.line, "".join(lines))

    def add_error(self, line: int, error: Exception) -> None:
        """Add an error as the result of a line."""
        self.n_failed += 1
        result = {"error": f"line {line}: {str(error) or 'out of memory'}", "line": line}
        self.print_in_order(line, json.dumps(result, ensure_ascii=False) + "\n")

    def print_in_order(self, line: int, result: str) -> None:
        """Print the result of a line, and of lines that waited for it, unless it must wait itself."""
        self.results[line] = result
        while self.n_printed + 1 in self.results:
            self.n_printed += 1
            write(self.results.pop(self.n_printed))
