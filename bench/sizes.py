"""All sizes of GPT-2 with random weights: what loading, the first token, a prompt, a token and memory cost.

`python -m bench --sizes` writes `SIZES.md` and its picture. gpt2-xl needs 8 GB on the disk.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from numpy_gpt2 import GPT2Config
from numpy_gpt2.config import RELEASED_SIZES

from .data import make_checkpoint
from .generation import SHORT, decode, first_token, prefill
from .measure import Metric, Results, Sample, take_turns
from .processes import first_token_commands, has_transformers, run_process, start_workers

PROMPT = 128  # tokens of a prompt for prefill
TOKENS = 16  # that are decoded
ROOM = 3  # transformers is left out if its weights would take more than a third of the free memory

LOAD = "load {}"
TOKEN = "decode, batch 1, {}"
READ = "prefill of 128 tokens, {}"
STARTED = "shell to first token, {}"
PEAK = "peak memory, {}"

# The seconds that loading takes, without the imports before it.
LOAD_OURS = """
import sys, time
import numpy_gpt2
start = time.perf_counter()
numpy_gpt2.load(sys.argv[1], dtype=sys.argv[2])
print(time.perf_counter() - start)
"""
LOAD_TRANSFORMERS = """
import sys, time
from transformers import GPT2LMHeadModel
start = time.perf_counter()
GPT2LMHeadModel.from_pretrained(sys.argv[1])
print(time.perf_counter() - start)
"""
READ_FILES = """
import pathlib, sys, time
start, buffer = time.perf_counter(), bytearray(1 << 24)
for path in pathlib.Path(sys.argv[1]).glob("model*.safetensors"):
    if path.name != "model.int8.safetensors":
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
print(time.perf_counter() - start)
"""


def free_memory() -> float:
    """The bytes of memory that no program uses."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def seconds_printed(metric: Metric, name: str, arguments: list[str]) -> Sample:
    """What a process prints."""
    return {(metric, name): float(run_process(arguments)[2])}


def started(name: str, size: str, arguments: list[str]) -> Sample:
    """Time and memory of a whole process, from the shell to one token."""
    elapsed, peak = first_token(name, arguments).values()
    return {(Metric(STARTED.format(size), "s"), name): elapsed, (Metric(PEAK.format(size), "MB"), name): peak}


def one_size(size: str, scratch: Path, runs: int, notes: list[str]) -> Results:
    """Measure one size, all implementations in turn."""
    folder, config = scratch / size, GPT2Config.preset(size)
    make_checkpoint(folder, [], size)
    names = ["numpy_gpt2", "numpy_gpt2 int8"]
    if has_transformers():
        if free_memory() > ROOM * 4 * config.num_parameters():
            names.append("transformers")
        else:
            notes.append(f"transformers is left out for {size}: {free_memory() / 1e9:.0f} GB of memory are free.")
    load = {
        "numpy_gpt2": ["-c", LOAD_OURS, str(folder), "float32"],
        "numpy_gpt2 int8": ["-c", LOAD_OURS, str(folder), "int8"],
        "transformers": ["-c", LOAD_TRANSFORMERS, str(folder)],
    }
    starts = first_token_commands(folder, scratch)
    ids = np.random.default_rng(0).integers(config.vocab_size, size=PROMPT).tolist()
    with ExitStack() as stack:
        workers, _ = start_workers(names, folder, scratch, stack)
        loading, read, start = (Metric(title.format(size), "s") for title in (LOAD, READ, STARTED))
        token = Metric(TOKEN.format(size), "tokens/s")
        turns = [partial(seconds_printed, start, "limit: reading the file", ["-c", READ_FILES, str(folder)])]
        turns += [partial(started, name, size, starts[name]) for name in names]
        turns += [partial(seconds_printed, loading, name, load[name]) for name in names]
        turns += [partial(decode, worker, token, prompt=ids[:SHORT], tokens=TOKENS) for worker in workers.values()]
        turns += [partial(prefill, worker, read, ids) for worker in workers.values()]
        return take_turns(runs, turns)


def sizes(runs: int, quick: bool, notes: list[str]) -> Iterator[Results]:
    """Measure each size after another. Only one of them is on the disk at a time."""
    if not has_transformers():
        notes.append("transformers is absent: it needs PyTorch.")
    for size in list(RELEASED_SIZES)[: 2 if quick else None]:
        with tempfile.TemporaryDirectory() as scratch:
            yield one_size(size, Path(scratch), runs, notes)
