"""What is measured of generation: from the shell to the first token, decoding, prefill, lookup, the cost of int8."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from numpy_gpt2 import GPT2Config
from numpy_gpt2.cli import progress_bar
from numpy_gpt2.generate import LOOKUP
from numpy_gpt2.hub import bundled_folder

from .limits import prefill_operations, weights_a_token
from .processes import Worker, first_token_commands, run_process, start_workers
from .report import DECODE, MEMORY, POSITION, PREFILL, START, Figure, Results
from .worker import IMPLEMENTATIONS

TEXT = Path(__file__).parents[2] / "shared" / "data" / "tinyshakespeare.txt"  # beside the checkout, if it is there

SHORT = 16  # tokens of a prompt that is there only to be continued
BATCHES = (1, 4, 16)
LENGTHS = (128, 512, 1000)  # of prompts that are there to be read
POSITIONS = (16, 128, 256, 512, 900)
CIRCLES = 200  # tokens after which greedy decoding, of a model with random weights too, repeats itself

BANDWIDTH = Figure("read bandwidth", "GB/s")
PRODUCTS = Figure("a large product", "GFLOP/s")

Measured = dict[tuple[Figure, str], float]  # the figure and whose it is


def take_turns(runs: int, turns: Sequence[Callable[[], Measured]]) -> Results:
    """Measure each once, `runs` times over, after one time that does not count."""
    results: Results = {}
    for run in progress_bar(iterable=range(1 + runs), unit="run", leave=False):
        for turn in turns:
            for (figure, name), value in turn().items():
                if run > 0:
                    results.setdefault(figure, {}).setdefault(name, []).append(value)
    return results


def first_token(name: str, arguments: list[str]) -> Measured:
    """A whole process, from the shell to one token."""
    elapsed, peak, _ = run_process(arguments)
    return {(START, name): elapsed, (MEMORY, name): peak}


def decode(worker: Worker, figure: Figure, name: str = "", batch: int = 1, **command: object) -> Measured:
    """Tokens a second, of all rows together."""
    return {(figure, name or worker.name): batch / worker("decode", batch=batch, **command)}


def prefill(worker: Worker, figure: Figure, prompt: list[int]) -> Measured:
    """Seconds from a prompt to one more token."""
    return {(figure, worker.name): worker("prefill", prompt=prompt)}


def bandwidth(limits: Worker, figures: list[Figure], config: GPT2Config) -> Measured:
    """Tokens a second, if all there is to do were to read each weight once: four bytes, or one in int8."""
    rate, n = limits("bandwidth"), weights_a_token(config)
    speeds = {"limit: bandwidth": rate / (4 * n), "limit: bandwidth int8": rate / n}
    return {(BANDWIDTH, "machine"): rate / 1e9} | {(f, name): speed for f in figures for name, speed in speeds.items()}


def products(limits: Worker, figures: list[Figure], config: GPT2Config) -> Measured:
    """Seconds of a prefill, if all its operations went as fast as those of a large product."""
    rate = limits("products")
    times = {(figure, "limit: products"): prefill_operations(figure.size, config) / rate for figure in figures}
    return {(PRODUCTS, "machine"): rate / 1e9} | times


class Generation:
    """The implementations that can be had, and what they are asked. Each method is a group of figures, a table's part.

    Prompts are random ids, the same for all, and decoding is greedy; `notes` takes what does not fit into a table.
    """

    def __init__(self, folder: Path, scratch: Path, runs: int, quick: bool, stack: ExitStack, notes: list[str]) -> None:
        self.folder, self.scratch, self.runs, self.quick, self.notes = folder, scratch, runs, quick, notes
        self.config = GPT2Config.from_json(folder / "config.json")
        self.window = self.config.n_positions - 1  # of it the prompt and what follows; the last token is not read
        self.ids = np.random.default_rng(0).integers(self.config.vocab_size, size=self.window).tolist()
        self.tokens = min(24 if quick else 64, self.window - SHORT)
        names = [name for name in IMPLEMENTATIONS if not (quick and name == "naive NumPy")]
        self.workers = start_workers(names, folder, scratch, stack, notes)
        self.limits = self.workers.pop("limits")

    def groups(self) -> Iterator[Results]:
        """All that is measured, group by group."""
        yield self.first_token()
        yield self.decoding()
        yield self.prefill()
        yield self.lookup()
        if not self.quick:
            yield self.positions()
            self.loss()

    def first_token(self) -> Results:
        """Whole processes: their time and their memory."""
        commands = first_token_commands(self.folder, self.scratch)
        here = [name for name in commands if name in self.workers]
        results = take_turns(self.runs, [partial(first_token, name, commands[name]) for name in here])
        weights = 4 * self.config.num_parameters() / 1e6
        results[MEMORY]["limit: the weights"] = [weights] * self.runs
        multiple = median(results[MEMORY]["numpy_gpt2"]) / weights
        self.notes.append(f"The peak memory in float32 is {multiple:.2f} times the bytes of the weights.")
        return results

    def decoding(self) -> Results:
        """Tokens a second after a short prompt, of one row and of several."""
        figures = [Figure(DECODE, "tokens/s", batch) for batch in (BATCHES[::2] if self.quick else BATCHES)]
        command = {"prompt": self.ids[:SHORT], "tokens": self.tokens}
        turns = [partial(bandwidth, self.limits, figures[:1], self.config)]
        for figure in figures:
            for name, worker in self.workers.items():
                if figure.size == 1 or name != "naive NumPy":
                    turns.append(partial(decode, worker, figure, batch=figure.size, **command))
        results = take_turns(self.runs, turns)
        results[figures[-1]]["batch 1"] = results[figures[0]]["numpy_gpt2"]
        self.notes.append(
            f"The machine reads {median(results[BANDWIDTH]['machine']):.3g} GB/s, and a token needs"
            f" {4 * weights_a_token(self.config) / 1e6:,.0f} MB of weights in float32, a quarter of that in int8."
        )
        return results

    def prefill(self) -> Results:
        """Seconds that it takes to read prompts of several lengths."""
        lengths = sorted({min(n, self.window) for n in (LENGTHS[-1:] if self.quick else LENGTHS)})
        figures = [Figure(PREFILL, "s", n) for n in lengths]
        turns = [partial(products, self.limits, figures, self.config)]
        for figure in figures:
            turns += [partial(prefill, w, figure, self.ids[: figure.size]) for w in self.workers.values()]
        results = take_turns(self.runs, turns)
        self.notes.append(
            f"A large float32 product runs at {median(results[PRODUCTS]['machine']):,.0f} GFLOP/s, and a prefill of"
            f" {lengths[-1]:,} tokens needs {prefill_operations(lengths[-1], self.config) / 1e9:,.0f} GFLOP."
        )
        return results

    def positions(self) -> Results:
        """Tokens a second from the beginning of the window to its end, with a cache and without."""
        figures = [Figure(POSITION, "tokens/s", n) for n in POSITIONS if n + self.tokens <= self.window]
        turns = [partial(bandwidth, self.limits, figures, self.config)]
        workers = [worker for name, worker in self.workers.items() if not name.startswith("CTranslate2")]
        for figure in figures:
            command = {"prompt": self.ids[: figure.size], "tokens": min(120, self.window - figure.size)}
            turns += [partial(decode, worker, figure, **command) for worker in workers]
        results = take_turns(self.runs, turns)
        results[figures[-1]]["position 16"] = results[figures[0]]["numpy_gpt2"]
        return results

    def lookup(self) -> Results:
        """Tokens a second where guesses come true, and where they do not."""
        ours = self.workers["numpy_gpt2"]
        circles = self.ids[:SHORT] + ours("continuation", prompt=self.ids[:SHORT], n=min(CIRCLES, self.window // 2))
        texts = {
            "decode, text that repeats": {"prompt": circles},
            "decode, text that does not": {"prompt": self.ids[:SHORT], "temperature": 1},
        }
        turns = []
        for text, command in texts.items():
            for name, lookup in {"with lookup": LOOKUP, "without lookup": 0}.items():
                command = {**command, "tokens": self.tokens, "lookup": lookup}
                turns.append(partial(decode, ours, Figure(text, "tokens/s"), name, **command))
        self.notes.append(
            f"The text that repeats is what greedy decoding comes to: its tokens after the first {CIRCLES}. The text"
            " that does not is sampled at temperature 1."
        )
        return take_turns(self.runs, turns)

    def loss(self) -> None:
        """What int8 costs: no measurement of time, so that it takes one run only."""
        if not TEXT.exists():
            return self.notes.append("How int8 changes the loss is not measured: tinyshakespeare.txt is absent.")
        text = TEXT.read_text("utf-8")
        with ExitStack() as stack:
            names = ["numpy_gpt2", "numpy_gpt2 int8"]
            workers = start_workers(names, bundled_folder(), self.scratch, stack, [])
            losses = [worker("loss", text=text[int(0.9 * len(text)) :]) for worker in workers.values()]
        if len(losses) == 2:
            self.notes.append(
                f"int8 changes the bundled model's loss on the last tenth of tinyshakespeare from {losses[0]:.4f} to"
                f" {losses[1]:.4f} nats per token, by {losses[1] / losses[0] - 1:+.2%}."
            )
