"""Processes: workers, which hold an implementation and wait for their turn, and those that are measured as a whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

PROMPT = "Alan Turing theorized that computers would one day become"
QUIET = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
ENVIRONMENT = os.environ | QUIET
PAUSE = 0.1  # seconds before a turn, in which the threads of the one before stop waiting for more work

# The shortest scripts with which the others print a continuation.
TRANSFORMERS = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, prompt = sys.argv[1:]
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
tokens = model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=1, do_sample=False)
print(tokenizer.decode(tokens[0]))
"""
CTRANSLATE2 = """
import sys
import ctranslate2, tokenizers
folder, converted, dtype, prompt = sys.argv[1:]
tokenizer = tokenizers.ByteLevelBPETokenizer(folder + "/vocab.json", folder + "/merges.txt")
generator = ctranslate2.Generator(converted, compute_type=dtype)
options = {"max_length": 1, "sampling_topk": 1, "include_prompt_in_result": False}
results = generator.generate_batch([tokenizer.encode(prompt).tokens], **options)
print(tokenizer.decode(results[0].sequences_ids[0]))
"""

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


class Worker:
    """This end of a `bench.worker`. Called, it has the implementation do something, and waits for the result."""

    def __init__(self, name: str, folder: Path, scratch: Path, stack: ExitStack) -> None:
        command = [sys.executable, "-m", "bench.worker", name, str(folder), str(scratch)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.name = name
        self.process = stack.enter_context(subprocess.Popen(command, env=ENVIRONMENT, **pipes))

    def answer(self) -> Any:
        """The next line from it; the first is null, or why it is absent."""
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the worker of {self.name} has failed; see above")
        return json.loads(line)

    def __call__(self, what: str, **arguments: object) -> float:
        time.sleep(PAUSE)
        print(json.dumps({"what": what, **arguments}), file=self.process.stdin, flush=True)
        return self.answer()


def start_workers(
    names: Iterable[str], folder: Path, scratch: Path, stack: ExitStack, notes: list[str]
) -> dict[str, Worker]:
    """Those that can be had, by name; of the others it is noted why not. They load at the same time."""
    workers = {name: Worker(name, folder, scratch, stack) for name in names}
    absent = {name: problem for name, worker in workers.items() if (problem := worker.answer())}
    if "numpy_gpt2" in absent:
        sys.exit(f"numpy_gpt2 cannot load {folder}: {absent['numpy_gpt2']}")
    notes += [f"{name} is absent: {problem}" for name, problem in absent.items()]
    return {name: worker for name, worker in workers.items() if name not in absent}


def first_token_commands(folder: Path, scratch: Path) -> dict[str, list[str]]:
    """How each implementation is asked for one token, in Python's arguments. CTranslate2's models are in `scratch`."""
    ours = ["-m", "numpy_gpt2", "-m", str(folder), "-n", "1", "--greedy", "--no-lookup", PROMPT]
    return {
        "numpy_gpt2": ours,
        "numpy_gpt2 int8": [*ours[:-1], "--int8", PROMPT],
        "transformers": ["-c", TRANSFORMERS, str(folder), PROMPT],
        "CTranslate2": ["-c", CTRANSLATE2, str(folder), str(scratch / "float32"), "float32", PROMPT],
        "CTranslate2 int8": ["-c", CTRANSLATE2, str(folder), str(scratch / "int8"), "int8", PROMPT],
    }


def run_process(arguments: list[str]) -> tuple[float, float, str]:
    """Wall time in seconds and peak memory in MB of a whole Python process, and what it prints."""
    command = [sys.executable, "-c", LAUNCHER, sys.executable, *arguments]
    launched = subprocess.run(command, env=ENVIRONMENT, capture_output=True)
    if launched.returncode:
        sys.exit(f"python {' '.join(arguments)} failed:\n{launched.stderr.decode()}")
    figures, _, output = launched.stdout.decode().partition("\n")
    elapsed, peak = map(float, figures.split())
    return elapsed, peak * (1 if sys.platform == "darwin" else 1024) / 1e6, output
