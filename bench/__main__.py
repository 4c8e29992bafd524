"""`python -m bench`: numpy_gpt2 beside transformers, CTranslate2 and naive NumPy, on the same checkpoint, in one run.

Each has a process of its own, and they take turns, so that a machine that slows down slows all. A peer that is not
installed is left out, and it is said. All of it together also writes `bench/RESULTS.md`, with pictures.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import numpy_gpt2 as gpt2
from numpy_gpt2 import hub
from numpy_gpt2.cli import positive_int

from .generation import Generation, Measured, take_turns
from .processes import run_process
from .report import CAPTION, HEADER, Figure, Results, lines, machine, write_page

# nanoGPT's published CPU setting, and its GPU setting with a batch that fits two cores.
TRAINING = {
    "4 × 128, window 64, batch 12": (4, 4, 128, 64, 12),
    "6 × 384, window 256, batch 16": (6, 6, 384, 256, 16),
}


def training_step(title: str, name: str) -> Measured:
    """The time of a step, and the peak memory of the process."""
    _, peak, output = run_process(["-m", "bench.training", name, *map(str, TRAINING[title])])
    step, memory = (Figure(f"training step, {title}", unit) for unit in ("s", "MB"))
    return {(step, name): float(output), (memory, name): peak}


def training(runs: int, quick: bool, notes: list[str]) -> Iterator[Results]:
    """A small model and, unless it must be quick, a larger one."""
    names = ["numpy_gpt2", "transformers"]
    if not (find_spec("torch") and find_spec("transformers")):
        notes.append(f"{names.pop()} is absent from training: it takes PyTorch.")
    for title in list(TRAINING)[: 1 if quick else None]:
        yield take_turns(runs, [partial(training_step, title, name) for name in names])


def make_checkpoint(folder: Path) -> Path:
    """A model of gpt2's size with random weights, and the best tokenizer that is at hand."""
    shared = Path(__file__).parents[2] / "shared" / "gpt2-tokenizer"
    tokenizer = gpt2.load_tokenizer(shared if shared.is_dir() else hub.bundled_folder())
    config = gpt2.GPT2Config.preset("gpt2")
    gpt2.save_model(folder, gpt2.init_weights(config, np.random.default_rng(0)), config, tokenizer)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("what", nargs="?", choices=["generation", "training"], help="default: both, and bench/RESULTS.md")
    add("--model", help="name or folder (default: weights/gpt2, or without it a model of its size with random weights)")
    add("--runs", type=positive_int, help="counted runs (default: 5; quick: 2)")
    add("--quick", action="store_true", help="fewer runs and figures, and no training unless asked for; only printed")
    arguments = parser.parse_args()
    what, quick, runs = arguments.what, arguments.quick, arguments.runs or (2 if arguments.quick else 5)
    writes = not what and not quick
    if writes and not find_spec("matplotlib"):
        sys.exit("RESULTS.md needs matplotlib: pip install -e '.[peers]'; or choose --quick, generation or training")

    options = [what, "--quick" if quick else "", f"--runs {runs}"]
    if arguments.model:
        local = Path(arguments.model).exists()
        options.append(f"--model {Path(arguments.model).name if local else arguments.model}")
    command = " ".join(["python -m bench", *filter(None, options)])
    print(f"{command}\n{machine()}\n\n{CAPTION.format(runs=runs)}\n\n{HEADER}", flush=True)

    results: Results = {}
    notes: list[str] = []

    def show(groups: Iterator[Results]) -> None:
        for group in groups:
            print(*lines(group), sep="\n", flush=True)
            results.update(group)

    if what != "training":
        with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
            scratch, folder = Path(temporary), hub.weights_folder() / "gpt2"
            if arguments.model:
                folder = hub.model_folder(arguments.model)
            elif not hub.is_complete(folder):
                folder = make_checkpoint(scratch / "gpt2")
                notes.append("The checkpoint is one of gpt2's size with random weights.")
            show(Generation(folder, scratch, runs, quick, stack, notes).groups())
    if what == "training" or not (what or quick):
        show(training(runs, quick, notes))
    print("", *notes, sep="\n")
    if writes:
        write_page(Path(__file__).parent, command, runs, results, notes)


if __name__ == "__main__":
    main()
