"""`python -m bench.worker NAME FOLDER SCRATCH`: one implementation in its own process.

In one shared process, the libraries' thread pools would compete. The process loads the model and writes one line: null,
or the reason why the implementation is absent. Then each input line is a method call, such as
{"method": "decode", "prompt": [5, 7], "tokens": 64}, and each output line is its result.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from .limits import Limits, seconds


class Implementation:
    """A language model whose `generate` is timed. Each subclass imports its own libraries."""

    def generate(self, prompt: list[int], batch: int, n: int) -> list[int]:
        """Greedy decoding of n tokens, for `batch` equal prompts. Returns the tokens of the first row."""
        raise NotImplementedError

    def prefill(self, prompt: list[int]) -> float:
        """Seconds from a prompt to the first new token."""
        return seconds(lambda: self.generate(prompt, 1, 1))

    def decode(self, prompt: list[int], tokens: int, batch: int = 1, **options: Any) -> float:
        """Seconds per step, after the first token. A step adds one token to every row."""
        first = seconds(lambda: self.generate(prompt, batch, 1, **options))
        return (seconds(lambda: self.generate(prompt, batch, 1 + tokens, **options)) - first) / tokens


class NumpyGPT2(Implementation):
    """This project."""

    def __init__(self, folder: Path, scratch: Path, dtype: str = "float32") -> None:
        import numpy_gpt2 as gpt2

        self.gpt2, self.model = gpt2, gpt2.load(folder, dtype=dtype)

    def generate(self, prompt: list[int], batch: int, n: int, **options: Any) -> list[int]:
        weights, config, _ = self.model
        rows = prompt if batch == 1 else [prompt] * batch
        options = {"temperature": 0, "lookup": 0, "rng": 0} | options
        tokens = list(self.gpt2.generate(rows, weights, config, max_new_tokens=n, **options))
        return tokens if batch == 1 else [int(row[0]) for row in tokens]

    def loss(self, text: str) -> float:
        """Mean loss over a text, in nats per token."""
        from numpy_gpt2.evaluate import evaluate
        from numpy_gpt2.windows import encode

        weights, config, tokenizer = self.model
        return evaluate(encode(text, tokenizer), weights, config)[0]


class Naive(Implementation):
    """NumPy without a cache: a forward pass over the whole text for each token."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        import numpy_gpt2 as gpt2

        self.weights, self.config, _ = gpt2.load(folder)

    def generate(self, prompt: list[int], batch: int, n: int) -> list[int]:
        from .naive import next_token

        text = list(prompt)
        for _ in range(n):
            text.append(next_token(text, self.weights, self.config))
        return text[len(prompt) :]

    def decode(self, prompt: list[int], tokens: int, batch: int = 1, **options: Any) -> float:
        """At most 4 tokens are timed, because each of them takes long."""
        return super().decode(prompt, min(tokens, 4), batch, **options)


class Transformers(Implementation):
    """Hugging Face's implementation, which runs on PyTorch."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        import torch
        import transformers

        self.torch = torch
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def generate(self, prompt: list[int], batch: int, n: int) -> list[int]:
        rows = self.torch.tensor([prompt] * batch)
        options = {"max_new_tokens": n, "min_new_tokens": n, "do_sample": False, "pad_token_id": 0}
        with self.torch.inference_mode():
            tokens = self.model.generate(rows, attention_mask=self.torch.ones_like(rows), **options)
        return tokens[0, len(prompt) :].tolist()


class CTranslate2(Implementation):
    """CTranslate2 has its own file format. A separate process converts the model into `scratch`, with PyTorch."""

    def __init__(self, folder: Path, scratch: Path, dtype: str = "float32") -> None:
        import ctranslate2

        vocabulary = json.loads((folder / "vocab.json").read_text("utf-8"))
        self.tokens = sorted(vocabulary, key=vocabulary.get)
        converter = [sys.executable, "-m", "ctranslate2.converters.transformers", "--model", str(folder)]
        converter += ["--output_dir", str(scratch / dtype), "--quantization", dtype]
        converted = subprocess.run(converter, capture_output=True, text=True)
        if converted.returncode:
            raise RuntimeError(converted.stderr.strip() or "the converter failed")
        threads = {"inter_threads": 1, "intra_threads": os.cpu_count()}
        self.generator = ctranslate2.Generator(str(scratch / dtype), device="cpu", compute_type=dtype, **threads)

    def generate(self, prompt: list[int], batch: int, n: int) -> list[int]:
        rows = [[self.tokens[token] for token in prompt]] * batch
        options = {"max_length": n, "min_length": n, "beam_size": 1, "sampling_topk": 1}
        results = self.generator.generate_batch(rows, include_prompt_in_result=False, **options)
        return results[0].sequences_ids[0]


class LlamaCpp(Implementation):
    """llama.cpp, through llama-cpp-python. The package gguf writes the model into `scratch`, in llama.cpp's format."""

    def __init__(self, folder: Path, scratch: Path, dtype: str = "float32") -> None:
        from numpy_gpt2 import GPT2Config

        from .llama import Llama, write_gguf

        path = scratch / f"{dtype}.gguf"
        write_gguf(folder, path, dtype)
        self.llama = Llama(path, GPT2Config.from_json(folder / "config.json").n_positions)

    def generate(self, prompt: list[int], batch: int, n: int) -> list[int]:
        return self.llama.generate(prompt, n)


IMPLEMENTATIONS: dict[str, Callable[[Path, Path], Implementation | Limits]] = {
    "numpy_gpt2": NumpyGPT2,
    "numpy_gpt2 int8": partial(NumpyGPT2, dtype="int8"),
    "transformers": Transformers,
    "CTranslate2": CTranslate2,
    "CTranslate2 int8": partial(CTranslate2, dtype="int8"),
    "llama.cpp": LlamaCpp,
    "llama.cpp q8_0": partial(LlamaCpp, dtype="q8_0"),
    "naive NumPy": Naive,
    "limits": lambda folder, scratch: Limits(),
}


def main(name: str, folder: str, scratch: str) -> None:
    """Answer calls until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library that prints must not disturb the answers

    def answer(value: object) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        implementation = IMPLEMENTATIONS[name](Path(folder), Path(scratch))
        if isinstance(implementation, Implementation):
            implementation.generate([0, 1], 1, 2)  # what cannot run is absent, too
    except Exception as error:  # it cannot be loaded, for whatever reason
        return answer(str(error).splitlines()[-1] if str(error) else repr(error))
    answer(None)
    for line in sys.stdin:
        command = json.loads(line)
        answer(getattr(implementation, command.pop("method"))(**command))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
