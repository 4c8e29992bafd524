"""`python -m bench.worker NAME FOLDER SCRATCH`: one implementation, in a process of its own, that does what it is told.

In one process, the thread pools of the libraries would be in each other's way. The process loads the model and writes a
line: null, or why the implementation is absent. Then each line that it reads is a call of a method,
{"what": "decode", "prompt": [5, 7], "tokens": 64}, and each that it writes is the result.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from .limits import Limits, seconds


class Implementation:
    """What is measured of each: how long its `generate` takes. Other modules than NumPy are imported where needed."""

    def generate(self, prompt: list[int], batch: int, n: int, **options: Any) -> object:
        """`n` tokens more for each of `batch` equal prompts, by greedy decoding."""
        raise NotImplementedError

    def prefill(self, prompt: list[int]) -> float:
        """Seconds to the first new token."""
        return seconds(lambda: self.generate(prompt, 1, 1))

    def decode(self, prompt: list[int], tokens: int, batch: int = 1, **options: Any) -> float:
        """Seconds a token after the first, of all rows together."""
        first = seconds(lambda: self.generate(prompt, batch, 1, **options))
        return (seconds(lambda: self.generate(prompt, batch, 1 + tokens, **options)) - first) / tokens


class NumpyGPT2(Implementation):
    """This project."""

    def __init__(self, folder: Path, scratch: Path, dtype: str = "float32") -> None:
        import numpy_gpt2 as gpt2

        self.gpt2, self.model = gpt2, gpt2.load(folder, dtype=dtype)

    def generate(self, prompt: list[int], batch: int, n: int, temperature: float = 0, lookup: int = 0) -> list:
        weights, config, _ = self.model
        rows = prompt if batch == 1 else [prompt] * batch
        options = {"temperature": temperature, "lookup": lookup, "rng": 0}
        return list(self.gpt2.generate(rows, weights, config, max_new_tokens=n, **options))

    def continuation(self, prompt: list[int], n: int) -> list[int]:
        """What greedy decoding makes of a prompt."""
        return self.generate(prompt, 1, n)

    def loss(self, text: str) -> float:
        """The mean loss over a text, in nats per token."""
        from numpy_gpt2.evaluate import evaluate
        from numpy_gpt2.windows import encode

        weights, config, tokenizer = self.model
        return evaluate(encode(text, tokenizer), weights, config)[0]


class Naive(Implementation):
    """A forward pass over the whole text for each token."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        import numpy_gpt2 as gpt2

        self.weights, self.config, _ = gpt2.load(folder)

    def generate(self, prompt: list[int], batch: int, n: int) -> object:
        from .naive import next_token

        text = list(prompt)
        for _ in range(n):
            text.append(next_token(text, self.weights, self.config))
        return text[len(prompt) :]

    def decode(self, prompt: list[int], tokens: int, batch: int = 1) -> float:
        """As of the others, but of fewer tokens, for it takes long."""
        return super().decode(prompt, min(tokens, 4))


class Transformers(Implementation):
    """Hugging Face's, on PyTorch."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        import torch
        import transformers

        self.torch = torch
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def generate(self, prompt: list[int], batch: int, n: int) -> object:
        rows = self.torch.tensor([prompt] * batch)
        options = {"max_new_tokens": n, "min_new_tokens": n, "do_sample": False, "pad_token_id": 0}
        with self.torch.inference_mode():
            return self.model.generate(rows, attention_mask=self.torch.ones_like(rows), **options)[0, len(prompt) :]


class CTranslate2(Implementation):
    """It has a format of its own: another process, for that takes PyTorch, converts the model, into SCRATCH."""

    def __init__(self, folder: Path, scratch: Path, dtype: str = "float32") -> None:
        import ctranslate2

        self.tokens = sorted(vocabulary := json.loads((folder / "vocab.json").read_text("utf-8")), key=vocabulary.get)
        converter = [sys.executable, "-m", "ctranslate2.converters.transformers", "--model", str(folder)]
        options = ["--output_dir", str(scratch / dtype), "--quantization", dtype]
        converted = subprocess.run(converter + options, capture_output=True, text=True)
        if converted.returncode:
            raise RuntimeError(converted.stderr.strip() or "the converter failed")
        threads = {"inter_threads": 1, "intra_threads": os.cpu_count()}
        self.generator = ctranslate2.Generator(str(scratch / dtype), device="cpu", compute_type=dtype, **threads)

    def generate(self, prompt: list[int], batch: int, n: int) -> object:
        rows = [[self.tokens[token] for token in prompt]] * batch
        options = {"max_length": n, "min_length": n, "beam_size": 1, "sampling_topk": 1}
        results = self.generator.generate_batch(rows, include_prompt_in_result=False, **options)
        return results[0].sequences_ids[0]


IMPLEMENTATIONS = {
    "numpy_gpt2": NumpyGPT2,
    "numpy_gpt2 int8": partial(NumpyGPT2, dtype="int8"),
    "transformers": Transformers,
    "CTranslate2": CTranslate2,
    "CTranslate2 int8": partial(CTranslate2, dtype="int8"),
    "naive NumPy": Naive,
    "limits": lambda folder, scratch: Limits(),
}


def main(name: str, folder: str, scratch: str) -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer

    def answer(value: object) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        implementation = IMPLEMENTATIONS[name](Path(folder), Path(scratch))
    except Exception as error:  # whatever keeps a peer from loading: it is then absent
        return answer(str(error).splitlines()[-1] if str(error) else repr(error))
    answer(None)
    for line in sys.stdin:
        command = json.loads(line)
        answer(getattr(implementation, command.pop("what"))(**command))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
