"""`python -m bench`: numpy_gpt2 beside transformers on PyTorch, on the same checkpoint, in one run.

Every figure is the median of several runs in which the two take turns, so that a machine that slows down slows both.
Times inside a process are taken after a warm-up; times from the shell are of whole processes, and so is their memory.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import transformers

import numpy_gpt2 as gpt2
from numpy_gpt2.hub import bundled_folder

PROMPT = "Alan Turing theorized that computers would one day become"

# The shortest script with which transformers prints a continuation.
TRANSFORMERS_SCRIPT = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = AutoModelForCausalLM.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
tokens = model.generate(**tokenizer(sys.argv[2], return_tensors="pt"), max_new_tokens=1, do_sample=False)
print(tokenizer.decode(tokens[0]))
"""


Measured = TypeVar("Measured")


def in_turn(runs: int, ours: Callable[[], Measured], theirs: Callable[[], Measured]) -> list[tuple[Measured, Measured]]:
    """Measure the two alternately, `runs` times each, after one run of each that does not count."""
    ours(), theirs()
    return [(ours(), theirs()) for _ in range(runs)]


def report(title: str, unit: str, pairs: list[tuple[float, float]], higher_is_better: bool) -> None:
    """One line: both medians, and the median of the ratios with its range. Above 1 is in our favour."""
    ratios = [ours / theirs if higher_is_better else theirs / ours for ours, theirs in pairs]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"{title:<36}{ours:>10.3g} {unit:<9}{theirs:>10.3g} {unit:<9}"
        f"{statistics.median(ratios):>7.2f} ×   ({min(ratios):.2f} … {max(ratios):.2f})",
        flush=True,
    )


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare_in_process(folder: Path, runs: int) -> None:
    """Decoding one text greedily, and reading a long prompt."""
    weights, config, _ = gpt2.load(folder)
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rng = np.random.default_rng(0)
    short, long = (rng.integers(0, config.vocab_size, n) for n in (16, min(1000, config.n_positions - 1)))

    def ours(tokens: np.ndarray, n: int) -> None:
        for _ in gpt2.generate(tokens, weights, config, max_new_tokens=n, temperature=0):
            pass

    def theirs(tokens: np.ndarray, n: int) -> None:
        batch = torch.from_numpy(tokens)[None]
        options = {"max_new_tokens": n, "min_new_tokens": n, "do_sample": False, "pad_token_id": 0}
        peer.generate(batch, attention_mask=torch.ones_like(batch), **options)

    def decode_speed(run: Callable[[np.ndarray, int], None]) -> float:
        return 64 / (seconds(lambda: run(short, 65)) - seconds(lambda: run(short, 1)))

    with torch.inference_mode():
        pairs = in_turn(runs, lambda: decode_speed(ours), lambda: decode_speed(theirs))
        report("decode, batch 1", "tokens/s", pairs, higher_is_better=True)
        pairs = in_turn(runs, lambda: seconds(lambda: ours(long, 1)), lambda: seconds(lambda: theirs(long, 1)))
        report(f"prefill of {len(long):,} tokens", "s", pairs, higher_is_better=False)


# A process starts with the peak memory of its parent, so a small one stands between this one and those measured.
LAUNCHER = """
import os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
output = process.stdout.read()
_, status, usage = os.wait4(process.pid, 0)
print(time.perf_counter() - start, usage.ru_maxrss, flush=True)
sys.stdout.buffer.write(output)
sys.exit(status != 0)
"""


def run_process(command: list[str]) -> tuple[float, float, str]:
    """Wall time in seconds and peak memory in MB of a whole process, and what it prints."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    launched = subprocess.run([sys.executable, "-c", LAUNCHER, *command], env=environment, capture_output=True)
    if launched.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{launched.stderr.decode()}")
    figures, _, output = launched.stdout.decode().partition("\n")
    elapsed, peak = map(float, figures.split())
    return elapsed, peak * (1 if sys.platform == "darwin" else 1024) / 1e6, output


def compare_processes(folder: Path, runs: int) -> None:
    """From the shell to the first token, and the memory that it takes."""
    ours = [sys.executable, "-m", "numpy_gpt2", "-m", str(folder), "-n", "1", "--greedy", PROMPT]
    theirs = [sys.executable, "-c", TRANSFORMERS_SCRIPT, str(folder), PROMPT]
    results = in_turn(runs, lambda: run_process(ours), lambda: run_process(theirs))
    for title, unit, column in [("shell to first token", "s", 0), ("peak memory", "MB", 1)]:
        report(title, unit, [(a[column], b[column]) for a, b in results], higher_is_better=False)


# nanoGPT's published CPU setting, and its GPU setting with a batch that fits two cores.
TRAINING = {
    "4 × 128, window 64, batch 12": (4, 4, 128, 64, 12),
    "6 × 384, window 256, batch 16": (6, 6, 384, 256, 16),
}


def compare_training(runs: int) -> None:
    """The time of a training step and the peak memory of the process, for a small and a larger model."""
    for title, sizes in TRAINING.items():

        def measure(side: str, sizes: tuple[int, ...] = sizes) -> tuple[float, float]:
            _, peak, output = run_process([sys.executable, "-m", "bench.training", side, *map(str, sizes)])
            return float(output), peak

        results = in_turn(runs, lambda: measure("numpy_gpt2"), lambda: measure("transformers"))
        report(f"step, {title}", "s", [(a[0], b[0]) for a, b in results], higher_is_better=False)
        report("  its peak memory", "MB", [(a[1], b[1]) for a, b in results], higher_is_better=False)


def make_checkpoint(folder: Path) -> None:
    """A model of gpt2's size with random weights, and the best tokenizer that is at hand."""
    shared = Path(__file__).parents[2] / "shared" / "gpt2-tokenizer"
    tokenizer = gpt2.load_tokenizer(shared if shared.is_dir() else bundled_folder())
    config = gpt2.GPT2Config.preset("gpt2")
    gpt2.save_model(folder, gpt2.init_weights(config, np.random.default_rng(0)), config, tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="?", choices=["generation", "training"], help="default: both")
    parser.add_argument("--model", type=Path, help="a model folder (default: one of gpt2's size, with random weights)")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each (default: 5)")
    arguments = parser.parse_args()
    print(
        f"{os.cpu_count()} cores, NumPy {np.__version__}, PyTorch {torch.__version__},"
        f" transformers {transformers.__version__}; medians of {arguments.runs} runs in turn"
    )
    print(f"{'':<36}{'numpy_gpt2':>19} {'transformers':>19} {'ratio':>9}   (range)")
    if arguments.what != "training":
        with tempfile.TemporaryDirectory() as temporary:
            folder = arguments.model or Path(temporary)
            if not arguments.model:
                make_checkpoint(folder)
            compare_processes(folder, arguments.runs)
            compare_in_process(folder, arguments.runs)
    if arguments.what != "generation":
        compare_training(arguments.runs)


if __name__ == "__main__":
    main()
