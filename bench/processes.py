"""Two kinds of processes: workers that hold a loaded implementation, and processes that are measured as a whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PROMPT = "Alan Turing theorized that computers would one day become"
QUIET = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
ENVIRONMENT = os.environ | QUIET
PAUSE = 0.1  # seconds before each call: idle threads of the previous worker may still be spinning

# The shortest scripts that print a continuation with transformers and CTranslate2.
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

LLAMA_CPP = """
import sys
from llama_cpp import Llama
path, prompt = sys.argv[1:]
print(Llama(path, n_ctx=1024, verbose=False)(prompt, max_tokens=1, temperature=0)["choices"][0]["text"])
"""

# A process inherits its parent's peak memory. This small process therefore starts the one that is measured.
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
    """A `bench.worker` process. Calling it runs a method of its implementation and returns the result."""

    def __init__(self, name: str, folder: Path, scratch: Path, stack: ExitStack) -> None:
        command = [sys.executable, "-m", "bench.worker", name, str(folder), str(scratch)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = stack.enter_context(subprocess.Popen(command, env=ENVIRONMENT, **pipes))
        assert process.stdin is not None
        assert process.stdout is not None
        self.name, self.process, self.requests, self.answers = name, process, process.stdin, process.stdout

    def problem(self) -> str | None:
        """Why the implementation is absent, from the worker's first line. None if it is ready."""
        line = self.answers.readline()
        return json.loads(line) if line else f"its process ended with status {self.process.wait()}"

    def __call__(self, method: str, **arguments: object) -> Any:
        time.sleep(PAUSE)
        print(json.dumps({"method": method, **arguments}), file=self.requests, flush=True)
        line = self.answers.readline()
        if not line:
            sys.exit(f"the worker of {self.name} failed; its error is above")
        return json.loads(line)


def start_workers(
    names: Iterable[str], folder: Path, scratch: Path, stack: ExitStack
) -> tuple[dict[str, Worker], dict[str, str]]:
    """Start a worker for each implementation, all at once. Also returns why the others are absent."""
    workers = {name: Worker(name, folder, scratch, stack) for name in names}
    absent = {name: problem for name, worker in workers.items() if (problem := worker.problem())}
    if "numpy_gpt2" in absent:
        sys.exit(f"numpy_gpt2 cannot load {folder}: {absent['numpy_gpt2']}")
    return {name: worker for name, worker in workers.items() if name not in absent}, absent


@contextmanager
def counting_loop() -> Iterator[None]:
    """Another program that keeps one core busy, as long as this block runs."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def has_transformers() -> bool:
    """Whether transformers can run: it needs PyTorch."""
    return bool(find_spec("torch") and find_spec("transformers"))


def first_token_commands(folder: Path, scratch: Path) -> dict[str, list[str]]:
    """Arguments for `python` that make each implementation print one token. `scratch` holds the peers' files."""
    ours = ["-m", "numpy_gpt2", "-m", str(folder), "-n", "1", "--greedy", "--no-lookup", PROMPT]
    return {
        "numpy_gpt2": ours,
        "numpy_gpt2 int8": [*ours[:-1], "--int8", PROMPT],
        "transformers": ["-c", TRANSFORMERS, str(folder), PROMPT],
        "CTranslate2": ["-c", CTRANSLATE2, str(folder), str(scratch / "float32"), "float32", PROMPT],
        "CTranslate2 int8": ["-c", CTRANSLATE2, str(folder), str(scratch / "int8"), "int8", PROMPT],
        "llama.cpp": ["-c", LLAMA_CPP, str(scratch / "float32.gguf"), PROMPT],
        "llama.cpp q8_0": ["-c", LLAMA_CPP, str(scratch / "q8_0.gguf"), PROMPT],
    }


def run_process(arguments: list[str]) -> tuple[float, float, str]:
    """Run `python` with these arguments. Returns wall time in seconds, peak memory in MB, and standard output."""
    command = [sys.executable, "-c", LAUNCHER, sys.executable, *arguments]
    launched = subprocess.run(command, env=ENVIRONMENT, capture_output=True)
    if launched.returncode:
        sys.exit(f"python {' '.join(arguments)} failed:\n{launched.stderr.decode()}")
    figures, _, output = launched.stdout.decode().partition("\n")
    elapsed, peak = map(float, figures.split())
    return elapsed, peak * (1 if sys.platform == "darwin" else 1024) / 1e6, output
