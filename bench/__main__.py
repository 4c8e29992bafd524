"""`python -m bench`: measure numpy_gpt2 beside transformers, CTranslate2, llama.cpp and naive NumPy.

All of them have the same weights, and each has its own process. They take turns, so that a slow moment of the machine
affects all of them. The row of an implementation that is absent says why. Without arguments, the command also writes
`bench/RESULTS.md` and its pictures; with `--sizes`, it writes `bench/SIZES.md`.
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

from numpy_gpt2 import hub
from numpy_gpt2.cli import positive_int

from .data import make_checkpoint
from .generation import Generation
from .measure import Metric, Results, Sample, take_turns
from .processes import counting_loop, has_transformers, run_process
from .report import CAPTION, HEADER, absent_lines, machine, page, table_lines
from .sizes import sizes

# Layers, heads, channels, vocabulary, window, batch, dropout: nanoGPT's published CPU setting, its GPU setting with a
# smaller batch, and GPT-2's size, as in fine-tuning.
TRAINING = {
    "4 × 128, window 64, batch 12": (4, 4, 128, 257, 64, 12, 0.0),
    "6 × 384, window 256, batch 16": (6, 6, 384, 257, 256, 16, 0.0),
    "12 × 768, window 256, batch 4": (12, 12, 768, 50257, 256, 4, 0.0),
    "12 × 768, window 256, batch 4, dropout 0.1": (12, 12, 768, 50257, 256, 4, 0.1),
    "12 × 768, window 1,024, batch 1": (12, 12, 768, 50257, 1024, 1, 0.0),
    "12 × 768, window 1,024, batch 1, dropout 0.1": (12, 12, 768, 50257, 1024, 1, 0.1),
}


def training_step(title: str, name: str) -> Sample:
    """Seconds per training step, and the peak memory of the process."""
    _, peak, output = run_process(["-m", "bench.training", name, *map(str, TRAINING[title])])
    time, memory = (Metric(f"training step, {title}", unit) for unit in ("s", "MB"))
    return {(time, name): float(output), (memory, name): peak}


def training(runs: int, quick: bool, notes: list[str]) -> Iterator[Results]:
    """Training steps of a small model and, unless `quick`, of larger ones. Each process warms up by itself."""
    names = ["numpy_gpt2", "transformers"]
    if not has_transformers():
        notes.append(f"{names.pop()} is absent from training: it needs PyTorch.")
    for title in list(TRAINING)[: 1 if quick else None]:
        yield take_turns(runs, [partial(training_step, title, name) for name in names], warm_up=0)


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    description = "Measure numpy_gpt2 beside transformers, CTranslate2, llama.cpp and naive NumPy."
    parser = argparse.ArgumentParser(prog="python -m bench", description=description)
    add = parser.add_argument
    add("what", nargs="?", choices=["generation", "training"], help="default: both; then bench/RESULTS.md is written")
    add("--model", help="name or folder (default: weights/gpt2 if it exists, else random weights of the same size)")
    add("--runs", type=positive_int, help="measured runs, after a warm-up run (default: 5; with --quick: 2)")
    add("--sizes", action="store_true", help="measure random models of all four sizes; writes bench/SIZES.md")
    add("--busy", action="store_true", help="keep one core busy with another program meanwhile; nothing is written")
    add("--quick", action="store_true", help="fewer runs and metrics; training only if it is named; nothing is written")
    return parser


def command_line(arguments: argparse.Namespace, runs: int) -> str:
    """The command that repeats the measurement. The path of a folder is left out."""
    flags = [f"--{name}" for name in ("sizes", "busy", "quick") if getattr(arguments, name)]
    options = [arguments.what, *flags, f"--runs {runs}"]
    if arguments.model:
        is_folder = Path(arguments.model).exists()
        options.append(f"--model {Path(arguments.model).name if is_folder else arguments.model}")
    return " ".join(["python -m bench", *filter(None, options)])


def main() -> None:
    arguments = parser().parse_args()
    what, quick, runs = arguments.what, arguments.quick, arguments.runs or (2 if arguments.quick else 5)
    writes_page = not (what or quick or arguments.busy)
    if writes_page and not find_spec("matplotlib"):
        sys.exit("the page needs matplotlib: pip install -e '.[peers]'; or choose --quick, generation or training")

    command = command_line(arguments, runs)
    print(f"{command}\n{machine()}\n\n{CAPTION.format(runs=runs)}\n\n{HEADER}", flush=True)

    results: Results = {}
    notes: list[str] = []
    absent: dict[str, str] = {}

    def show(groups: Iterator[Results]) -> None:
        for group in groups:
            print(*table_lines(group), sep="\n", flush=True)
            results.update(group)

    with ExitStack() as stack:
        if arguments.busy:
            stack.enter_context(counting_loop())
        if arguments.sizes:
            show(sizes(runs, quick, notes))
        elif what != "training":
            scratch, folder = Path(stack.enter_context(tempfile.TemporaryDirectory())), hub.weights_folder() / "gpt2"
            if arguments.model:
                folder = hub.model_folder(arguments.model)
            elif not hub.is_complete(folder):
                folder = scratch / "gpt2"
                make_checkpoint(folder, notes)
            generation = Generation(folder, scratch, runs, quick, stack, notes)
            absent = generation.absent
            show(generation.groups())
        if what == "training" or not (what or quick or arguments.sizes):
            show(training(runs, quick, notes))
    print(*absent_lines(absent), "", *notes, sep="\n")
    if writes_page:
        from .pictures import draw, draw_sizes

        here = Path(__file__).parent
        pictures = (draw_sizes if arguments.sizes else draw)(results, here)
        text = page(command, runs, results, absent, notes, pictures)
        (here / ("SIZES.md" if arguments.sizes else "RESULTS.md")).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
