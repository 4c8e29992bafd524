"""Measurements of generation: startup, decoding, prefill, lookup drafts, and the loss with int8 weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from numpy_gpt2 import GPT2Config
from numpy_gpt2.hub import bundled_folder
from numpy_gpt2.lookup import LONGEST_DRAFT

from .data import data_path
from .limits import prefill_operations, weights_per_token
from .measure import (
    BUSY_DECODE,
    BUSY_PREFILL,
    DECODE,
    MEMORY,
    POSITION,
    PREFILL,
    START,
    Metric,
    Results,
    Sample,
    take_turns,
)
from .processes import Worker, counting_loop, first_token_commands, run_process, start_workers
from .worker import IMPLEMENTATIONS

SHORT = 16  # tokens of a prompt for decoding
BATCHES = (1, 4, 16)
LENGTHS = (128, 512, 1000)  # tokens of a prompt for prefill
POSITIONS = (16, 128, 256, 512, 900)
ONE_TEXT = ("naive NumPy", "llama.cpp", "llama.cpp q8_0")  # these are measured without batches
CHECKED = 16  # greedy tokens that every float32 implementation must agree on
REPETITIVE = 200  # tokens after which greedy decoding repeats itself, even with random weights

BANDWIDTH = Metric("read bandwidth", "GB/s")
PRODUCTS = Metric("a large product", "GFLOP/s")


def first_token(name: str, arguments: list[str]) -> Sample:
    """Time and memory of a whole process, from the shell to one token."""
    elapsed, peak, _ = run_process(arguments)
    return {(START, name): elapsed, (MEMORY, name): peak}


def decode(worker: Worker, metric: Metric, name: str = "", batch: int = 1, **arguments: object) -> Sample:
    """Tokens per second, summed over all rows."""
    return {(metric, name or worker.name): batch / worker("decode", batch=batch, **arguments)}


def prefill(worker: Worker, metric: Metric, prompt: list[int]) -> Sample:
    """Seconds from a prompt to the next token."""
    return {(metric, worker.name): worker("prefill", prompt=prompt)}


def bandwidth(limits: Worker, metrics: list[Metric], config: GPT2Config) -> Sample:
    """Tokens per second if a decode step only read its weights: four bytes for each weight, or one in int8."""
    rate, n = limits("bandwidth"), weights_per_token(config)
    speeds = {"limit: bandwidth": rate / (4 * n), "limit: bandwidth int8": rate / n}
    return {(BANDWIDTH, "machine"): rate / 1e9} | {(m, name): speed for m in metrics for name, speed in speeds.items()}


def products(limits: Worker, metrics: list[Metric], config: GPT2Config) -> Sample:
    """Seconds of a prefill if all of its operations ran at the speed of a large matrix product."""
    rate = limits("products")
    times = {(metric, "limit: products"): prefill_operations(metric.size, config) / rate for metric in metrics}
    return {(PRODUCTS, "machine"): rate / 1e9} | times


class Generation:
    """The workers of all installed implementations. Each method measures one group of metrics.

    Prompts are random token ids, the same for every implementation. Decoding is greedy. `notes` collects remarks that
    belong below the table.
    """

    def __init__(self, folder: Path, scratch: Path, runs: int, quick: bool, stack: ExitStack, notes: list[str]) -> None:
        self.folder, self.scratch, self.runs, self.quick, self.notes = folder, scratch, runs, quick, notes
        self.config = GPT2Config.from_json(folder / "config.json")
        self.window = self.config.n_positions - 1  # prompt and timed tokens; one more token is generated
        self.ids = np.random.default_rng(0).integers(self.config.vocab_size, size=self.window).tolist()
        self.tokens = min(24 if quick else 64, self.window - SHORT)
        names = [name for name in IMPLEMENTATIONS if not (quick and name == "naive NumPy")]
        self.workers, self.absent = start_workers(names, folder, scratch, stack)
        self.limits = self.workers.pop("limits")
        self.compare_tokens()

    def groups(self) -> Iterator[Results]:
        """Measure everything, one group after another."""
        yield self.first_token()
        yield self.decoding()
        yield self.prefill()
        yield self.lookup()
        if not self.quick:
            yield self.positions()
            yield self.busy()
            self.loss()

    def compare_tokens(self) -> None:
        """Note whether the float32 implementations generate the same tokens. Otherwise they are not the same model."""
        tokens = {
            name: worker("generate", prompt=self.ids[:SHORT], batch=1, n=CHECKED)
            for name, worker in self.workers.items()
            if not name.endswith(("int8", "q8_0"))
        }
        different = [name for name, found in tokens.items() if found != tokens["numpy_gpt2"]]
        same = f"All float32 implementations generate the same {CHECKED} greedy tokens."
        self.notes.append(f"OTHER GREEDY TOKENS than numpy_gpt2: {', '.join(different)}." if different else same)

    def first_token(self) -> Results:
        """Time and memory of whole processes."""
        commands = first_token_commands(self.folder, self.scratch)
        installed = [name for name in commands if name in self.workers]
        results = take_turns(self.runs, [partial(first_token, name, commands[name]) for name in installed])
        weights = 4 * self.config.num_parameters() / 1e6
        results[MEMORY]["limit: the weights"] = [weights] * self.runs
        multiple = median(results[MEMORY]["numpy_gpt2"]) / weights
        self.notes.append(f"The peak memory in float32 is {multiple:.2f} times the size of the weights.")
        return results

    def decoding(self) -> Results:
        """Tokens per second after a short prompt, for several batch sizes."""
        metrics = [Metric(DECODE, "tokens/s", batch) for batch in (BATCHES[::2] if self.quick else BATCHES)]
        arguments: dict[str, Any] = {"prompt": self.ids[:SHORT], "tokens": self.tokens}
        turns = [partial(bandwidth, self.limits, metrics[:1], self.config)]
        for metric in metrics:
            for name, worker in self.workers.items():
                if metric.size == 1 or name not in ONE_TEXT:
                    turns.append(partial(decode, worker, metric, batch=metric.size, **arguments))
        results = take_turns(self.runs, turns)
        results[metrics[-1]]["batch 1"] = results[metrics[0]]["numpy_gpt2"]
        self.notes.append(
            f"The machine reads {median(results[BANDWIDTH]['machine']):.3g} GB/s. A token needs"
            f" {4 * weights_per_token(self.config) / 1e6:,.0f} MB of weights in float32, and a quarter of that in int8."
        )
        return results

    def prefill(self) -> Results:
        """Seconds to process prompts of several lengths."""
        lengths = sorted({min(n, self.window) for n in (LENGTHS[-1:] if self.quick else LENGTHS)})
        metrics = [Metric(PREFILL, "s", n) for n in lengths]
        turns = [partial(products, self.limits, metrics, self.config)]
        for metric in metrics:
            turns += [partial(prefill, w, metric, self.ids[: metric.size]) for w in self.workers.values()]
        results = take_turns(self.runs, turns)
        self.notes.append(
            f"A large float32 product runs at {median(results[PRODUCTS]['machine']):,.0f} GFLOP/s. A prefill of"
            f" {lengths[-1]:,} tokens needs {prefill_operations(lengths[-1], self.config) / 1e9:,.0f} GFLOP."
        )
        return results

    def positions(self) -> Results:
        """Tokens per second at several positions of the window, with a cache and without."""
        metrics = [Metric(POSITION, "tokens/s", n) for n in POSITIONS if n + self.tokens <= self.window]
        turns = [partial(bandwidth, self.limits, metrics, self.config)]
        workers = [worker for name, worker in self.workers.items() if not name.startswith("CTranslate2")]
        for metric in metrics:
            arguments: dict[str, Any] = {"prompt": self.ids[: metric.size], "tokens": self.tokens}
            turns += [partial(decode, worker, metric, **arguments) for worker in workers]
        results = take_turns(self.runs, turns)
        results[metrics[-1]]["position 16"] = results[metrics[0]]["numpy_gpt2"]
        return results

    def busy(self) -> Results:
        """Decoding and prefill while another program keeps one core busy."""
        n = min(LENGTHS[-1], self.window)
        decoding, reading = Metric(BUSY_DECODE, "tokens/s"), Metric(BUSY_PREFILL, "s", n)
        arguments: dict[str, Any] = {"prompt": self.ids[:SHORT], "tokens": self.tokens}
        workers = [worker for name, worker in self.workers.items() if name != "naive NumPy"]
        turns = [partial(decode, worker, decoding, **arguments) for worker in workers]
        turns += [partial(prefill, worker, reading, self.ids[:n]) for worker in workers]
        with counting_loop():
            return take_turns(self.runs, turns)

    def lookup(self) -> Results:
        """Tokens per second with and without lookup drafts, where most drafts are accepted and where few are."""
        ours = self.workers["numpy_gpt2"]
        start = self.ids[:SHORT]
        repetitive = start + ours("generate", prompt=start, batch=1, n=min(REPETITIVE, self.window // 2))
        texts: dict[str, dict[str, Any]] = {
            "decode, repetitive text": {"prompt": repetitive},
            "decode, other text": {"prompt": start, "temperature": 1},
        }
        turns = []
        for text, arguments in texts.items():
            for name, draft_length in {"with lookup": LONGEST_DRAFT, "without lookup": 0}.items():
                options = {"tokens": self.tokens, "lookup": draft_length, **arguments}
                turns.append(partial(decode, ours, Metric(text, "tokens/s"), name, **options))
        self.notes.append(
            f"The repetitive text is what greedy decoding produces after {REPETITIVE} tokens. The other text is sampled"
            " at temperature 1."
        )
        return take_turns(self.runs, turns)

    def loss(self) -> None:
        """How much int8 weights change the loss. One run is enough, because no time is measured."""
        path = data_path("data/tinyshakespeare.txt")
        if path is None:
            self.notes.append(
                "The loss with int8 weights is not measured. It needs data/tinyshakespeare.txt in the folder that"
                " NUMPY_GPT2_DATA names."
            )
            return
        text = path.read_text("utf-8")
        with ExitStack() as stack:
            workers, _ = start_workers(["numpy_gpt2", "numpy_gpt2 int8"], bundled_folder(), self.scratch, stack)
            before, after = [worker("loss", text=text[int(0.9 * len(text)) :]) for worker in workers.values()]
        self.notes.append(
            f"int8 weights change the bundled model's loss on the last tenth of tinyshakespeare from {before:.4f} to"
            f" {after:.4f} nats per token ({after / before - 1:+.2%})."
        )
