"""Prompts -> samples: the texts of a batch while their tokens arrive, and their timings and results."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .checkpoint import Model
from .console import print_stderr
from .decode import Observe
from .generate import generate
from .logprobs import prompt_logprobs, token_logprobs
from .lookup import LONGEST_DRAFT
from .stream import TextStream, end_of_text, excluded_tokens


@dataclass(frozen=True)
class Settings:
    """How a prompt is continued. The names and the defaults are those of the options."""

    max_new_tokens: int = 100
    stop: Sequence[str] = ()
    ignore_eos: bool = False
    lookup: bool = True
    temperature: float = 0.8
    top_k: int = 40
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    seed: int = 0
    num_samples: int = 1
    logprobs: int | None = None  # the length of each `top`
    echo: bool = False
    beams: int | None = None
    length_penalty: float = 1.0


def continue_prompts(
    prompts: np.ndarray, samples: Sequence[TextStream], model: Model, settings: Settings, rng: np.random.Generator | int
) -> Iterator[int]:
    """Continue row i of `prompts` (B, T) in `samples[i]`. Yields the number of new tokens after each step."""
    if settings.echo:
        score_prompts(prompts, samples, model, settings.logprobs or 0)
    options: dict[str, Any] = {  # of `generate` and `beam_search`
        "max_new_tokens": settings.max_new_tokens,
        "repetition_penalty": settings.repetition_penalty,
        "no_repeat_ngram": settings.no_repeat_ngram,
        "stop_tokens": () if settings.ignore_eos else end_of_text(model),
        "n_vocab": model.tokenizer.n_vocab,
        "excluded": excluded_tokens(model),
    }
    if settings.beams:
        return search_texts(prompts, samples, model, settings, options)
    rows = generate(
        prompts,
        model.weights,
        model.config,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        min_p=settings.min_p,
        lookup=LONGEST_DRAFT if settings.lookup else 0,
        rng=rng,
        observe=None if settings.logprobs is None else score_tokens(samples, model, settings.logprobs),
        **options,
    )
    return append_rows(samples, rows, settings.max_new_tokens)


def search_texts(
    prompts: np.ndarray, samples: Sequence[TextStream], model: Model, settings: Settings, options: dict[str, Any]
) -> Iterator[int]:
    """Continue each prompt by beam search. Yields once for each, because a text is known only at its end."""
    from .beam import beam_search  # most commands do not need it

    options = {**options, "beams": settings.beams, "length_penalty": settings.length_penalty}
    for prompt, sample in zip(prompts, samples, strict=True):
        sample.score, tokens = beam_search(prompt, model.weights, model.config, **options)[0]
        for token in tokens:
            sample.append(token)
        sample.finish("length" if len(sample.tokens) == settings.max_new_tokens else "stop")
        yield len(tokens)


def score_prompts(prompts: np.ndarray, samples: Sequence[TextStream], model: Model, n_top: int) -> None:
    """Give each sample the log-probabilities of its prompt. Equal prompts are computed once."""
    scored: dict[bytes, list[dict[str, Any]]] = {}
    for prompt, sample in zip(prompts, samples, strict=True):
        if (key := prompt.tobytes()) not in scored:
            scored[key] = prompt_logprobs(prompt, model, n_top)
        sample.prompt_logprobs = scored[key]


def score_tokens(samples: Sequence[TextStream], model: Model, n_top: int) -> Observe:
    """An observer for `generate`: it gives each sample the log-probabilities of its tokens."""
    lists: list[list[dict[str, Any]]] = [[] for _ in samples]
    for sample, tokens_of_sample in zip(samples, lists, strict=True):
        sample.logprobs = tokens_of_sample

    def observe(logits: np.ndarray, tokens: np.ndarray) -> None:
        for tokens_of_sample, token in zip(lists, token_logprobs(logits, tokens, model.tokenizer, n_top), strict=True):
            tokens_of_sample.append(token)

    return observe


def append_rows(samples: Sequence[TextStream], rows: Iterator[np.ndarray], max_new_tokens: int) -> Iterator[int]:
    """Append a token of each row to each sample, until all samples have ended. Yields the number of new tokens."""
    for row in rows:
        for sample, token in zip(samples, row.tolist(), strict=True):
            sample.append(token)
        yield int((row >= 0).sum())
        if all(sample.finish_reason for sample in samples):
            break
    for sample in samples:
        sample.finish("length" if len(sample.tokens) == max_new_tokens else "stop")


def json_line(prompt: str, sample: TextStream, seed: int, timings: dict[str, float | None]) -> str:
    """What --json prints for a sample: an object in one line."""
    result: dict[str, Any] = {"prompt": prompt, "text": sample.text, "tokens": sample.tokens}
    if sample.logprobs is not None:  # a stop string removes the last tokens
        result["logprobs"] = sample.logprobs[: len(sample.tokens)]
    if sample.prompt_logprobs is not None:  # an empty prompt became <|endoftext|>
        result["prompt_logprobs"] = sample.prompt_logprobs if prompt else []
    if sample.score is not None:
        result["score"] = sample.score
    result |= {"finish_reason": sample.finish_reason, "seed": seed, "timings": timings}
    return json.dumps(result, ensure_ascii=False) + "\n"


def summarize(loaded: float, steps: list[tuple[float, int]]) -> dict[str, float | None]:
    """Seconds since the start, and the decoding speed in tokens per second.

    The speed counts the tokens of all samples, except the first token of each.
    """
    first, last = (steps[0][0], steps[-1][0]) if steps else (loaded, loaded)
    return {
        "loaded": loaded,
        "first_token": first if steps else None,
        "total": last,
        "tokens_per_second": sum(n for _, n in steps[1:]) / (last - first) if len(steps) > 1 else None,
    }


def print_stats(timings: dict[str, float | None], seed: int) -> None:
    """Print the seed, the timings and the memory in one line on standard error."""
    formats = {
        "loaded": "loaded after {:.2f} s",
        "first_token": "first token after {:.2f} s",
        "tokens_per_second": "then {:.1f} tokens/s",
    }
    parts = [f"seed {seed}", *(text.format(timings[name]) for name, text in formats.items() if timings[name])]
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS and in KiB on Linux
        parts.append(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6:.0f} MB")
    print_stderr(f"stats: {' · '.join(parts)}")
