"""Prompts -> samples: the texts of a batch while their tokens arrive, and their timings and results."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arguments import warn_of_cut
from .checkpoint import Model
from .console import print_stderr
from .decode import Observe
from .generate import generate
from .logprobs import prompt_logprobs, token_logprobs
from .lookup import LONGEST_DRAFT
from .stream import TextStream, end_of_text, excluded_tokens
from .tokenizer import prompt_ids


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

    def seed_of(self, i: int) -> int | None:
        """The seed of prompt number i, from 1 on. A beam search has none, because nothing in it is random."""
        return None if self.beams else self.seed + i - 1


def cut_prompt_ids(prompt: str, model: Model, place: str = "") -> list[int]:
    """The tokens of a prompt. If it is longer than the window, it is cut from the left, with a warning."""
    ids, window = prompt_ids(prompt, model.tokenizer), model.config.n_positions
    warn_of_cut(len(ids), window, place)
    return ids[-window:]


def continue_prompts(
    prompts: np.ndarray,
    samples: Sequence[TextStream],
    model: Model,
    settings: Settings,
    rng: np.random.Generator | int | None,
) -> Iterator[np.ndarray]:
    """Continue row i of `prompts` (B, T) in `samples[i]`. Yields their numbers of new tokens (B,) after each step."""
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
    return append_rows(samples, rows)


def score_prompt(ids: list[int], samples: Sequence[TextStream], model: Model, n_top: int) -> None:
    """Give the samples of a prompt the log-probabilities of its tokens."""
    logprobs = prompt_logprobs(np.array(ids), model, n_top)
    for sample in samples:
        sample.prompt_logprobs = logprobs


def search_texts(
    prompts: np.ndarray, samples: Sequence[TextStream], model: Model, settings: Settings, options: dict[str, Any]
) -> Iterator[np.ndarray]:
    """Continue each prompt by beam search. Yields once for each, because a text is known only at its end."""
    from .beam import beam_search  # most commands do not need it

    options = {**options, "beams": settings.beams, "length_penalty": settings.length_penalty}
    for i, sample in enumerate(samples):
        sample.score, tokens = beam_search(prompts[i], model.weights, model.config, **options)[0]
        for token in tokens:
            sample.append(token)
        yield np.where(np.arange(len(samples)) == i, len(tokens), 0)


def score_tokens(samples: Sequence[TextStream], model: Model, n_top: int) -> Observe:
    """An observer for `generate`: it gives each sample the log-probabilities of its tokens."""
    lists: list[list[dict[str, Any]]] = [[] for _ in samples]
    for sample, tokens_of_sample in zip(samples, lists, strict=True):
        sample.logprobs = tokens_of_sample

    def observe(logits: np.ndarray, tokens: np.ndarray) -> None:
        for tokens_of_sample, token in zip(lists, token_logprobs(logits, tokens, model.tokenizer, n_top), strict=True):
            tokens_of_sample.append(token)

    return observe


def append_rows(samples: Sequence[TextStream], rows: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Append each row of tokens (B,) to the samples, until all have ended. Yields the number of new tokens of each."""
    for row in rows:
        running = np.array([not sample.finish_reason for sample in samples])
        for sample, token in zip(samples, row.tolist(), strict=True):
            sample.append(token)
        yield running & (row >= 0)
        if all(sample.finish_reason for sample in samples):
            break


def end_reason(sample: TextStream, settings: Settings) -> str:
    """Why a sample ended whose tokens have ended."""
    return "length" if len(sample.tokens) == settings.max_new_tokens else "stop"


def json_line(prompt: str, sample: TextStream, seed: int | None, timings: dict[str, float | None]) -> str:
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


def summarize(loaded: float | None, steps: list[tuple[float, int]], settings: Settings) -> dict[str, float | None]:
    """Seconds since the start, and the decoding speed in tokens per second.

    The first step gives the first token, or the best text of a beam search. The speed counts the tokens of all samples
    in the other steps.
    """
    speed = None
    if len(steps) > 1:
        speed = sum(n for _, n in steps[1:]) / (steps[-1][0] - steps[0][0])
    return {
        "loaded": loaded,
        "best_text" if settings.beams else "first_token": steps[0][0] if steps else None,
        "total": steps[-1][0] if steps else loaded,
        "tokens_per_second": speed,
    }


def print_stats(timings: dict[str, float | None], seed: int | None) -> None:
    """Print the seed, the timings and the memory in one line on standard error."""
    formats = {
        "seed": "seed {}",
        "loaded": "loaded after {:.2f} s",
        "first_token": "first token after {:.2f} s",
        "best_text": "best text after {:.2f} s",
        "tokens_per_second": "then {:.1f} tokens/s",
    }
    values = {"seed": seed, **timings}
    parts = [text.format(values[name]) for name, text in formats.items() if values.get(name) is not None]
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS and in KiB on Linux
        parts.append(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6:.0f} MB")
    print_stderr(f"stats: {' · '.join(parts)}")


def outgrew(n_prompt: int, n_new: int, window: int) -> bool:
    """Whether a text had to be read again, because the window was full before its last token."""
    return min(n_prompt, window) + n_new - 1 > window


def print_outgrown(window: int) -> None:
    """Say on standard error that a text was read again."""
    print_stderr(f"note: the text outgrew the window of {window:,} tokens; the last half of the window was read again")
