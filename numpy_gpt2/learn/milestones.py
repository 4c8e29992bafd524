"""What the learner's functions can do together: printed when a part is complete and the next one is not begun."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from .. import backward, model
from ..checkpoint import Model, load
from ..config import GPT2Config
from ..hub import bundled_folder
from ..threads import SerialExecutor
from ..train import step as training
from ..train.config import TrainConfig
from ..weights import init_weights
from .checking import hook_problems
from .exercises import EXERCISES
from .numerical import slope
from .own import Own

decoding: Any = import_module("..generate", __package__)  # the module: the package's attribute is the function

PROMPT = "O Romeo, Romeo! wherefore art"
N_TOKENS = 48  # of a text
N_STEPS = 50  # of training
AGREE = 1e-5  # how exact numerical gradients are: most have an error of 1e-7


def bundled() -> tuple[Model, list[int]]:
    """The bundled model, and the prompt in its tokens."""
    loaded = load(bundled_folder())
    return loaded, loaded.tokenizer.encode_ordinary(PROMPT)


def with_hook(own: Own, problems: Iterable[str]) -> tuple[list[str], list[str]]:
    """The functions to use, and those of `problems` to leave out: gradients need the results that `hook` records.

    A function that only uses `dropout` in a wrong way may stay.
    """
    left_out = [name for name in problems if EXERCISES[name].hook == "hook"]
    return [name for name in own.functions if name not in left_out], left_out


def not_used(left_out: list[str]) -> Iterator[str]:
    """A line about functions that were left out, if there are any."""
    if left_out:
        yield f"The package's own were used for {', '.join(left_out)}: they do not use the hook."


def own_logits(own: Own) -> Iterator[str]:
    """Part 1: the logits of the bundled model."""
    (weights, config, tokenizer), tokens = bundled()
    want = model.forward(tokens, weights, config)
    with own.installed():
        got = model.forward(tokens, weights, config)
    difference = float(np.abs(got - want).max() / np.abs(want).max())
    yield f"your forward pass gives the bundled model's logits; they differ by {difference:.0e} of the largest."
    yield f"After {PROMPT!r}, the first word of your model is {tokenizer.decode([int(got[-1].argmax())])!r}."


def own_text(own: Own) -> Iterator[str]:
    """Part 2: a text."""
    (weights, config, tokenizer), tokens = bundled()
    with own.installed():
        text = [*decoding.generate_plainly(tokens, weights, config, N_TOKENS, np.random.default_rng(0))]
    yield "this is the first text that your functions have written:"
    yield from tokenizer.decode([*tokens, *text]).split("\n")


def own_cache(own: Own) -> Iterator[str]:
    """Part 3: the speed without and with the cache."""
    (weights, config, _), tokens = bundled()
    speeds, texts = [], []
    with own.installed():
        plainly = decoding.generate_plainly(tokens, weights, config, N_TOKENS, np.random.default_rng(0))
        cached = decoding.generate(tokens, weights, config, max_new_tokens=N_TOKENS, lookup=0, rng=0)
        for text in (plainly, cached):
            start = time.perf_counter()
            texts.append([*text])
            speeds.append(N_TOKENS / (time.perf_counter() - start))
    same = "the same text" if texts[0] == texts[1] else "another text, which must not be"
    yield f"{same}, {speeds[0]:,.0f} tokens/s without your cache, {speeds[1]:,.0f} with it."


def own_gradients(own: Own) -> Iterator[str]:
    """Part 4: gradients of a small model, beside numerical ones."""
    config = GPT2Config(vocab_size=11, n_positions=6, n_embd=8, n_layer=2, n_head=2)
    rng = np.random.default_rng(0)
    weights = {name: 5 * array.astype(np.float64) for name, array in init_weights(config, rng).items()}
    tokens, targets = rng.integers(11, size=(2, 3, 6))
    largest = 0.0
    names, left_out = with_hook(own, hook_problems(own, own.functions))
    with own.installed(names):
        _, gradients = backward.loss_and_gradients(tokens, targets, weights, config)
        for name, array in weights.items():
            terms = gradients[name] * (direction := rng.standard_normal(array.shape))
            numerical = slope(lambda: loss(tokens, targets, weights, config), array, direction)
            largest = max(largest, abs(terms.sum() - numerical) / float(np.linalg.norm(terms)))
    agree = "agree with" if largest < AGREE else "do not agree with"
    yield f"your gradients of all {len(weights)} weights {agree} numerical ones, to {largest:.0e} of their size."
    yield from not_used(left_out)


def loss(tokens: np.ndarray, targets: np.ndarray, weights: dict[str, np.ndarray], config: GPT2Config) -> float:
    """The loss, as a function of the weights."""
    return float(model.cross_entropy(model.forward(tokens, weights, config), targets))


def own_training(own: Own) -> Iterator[str]:
    """Part 5: some steps of training, beside the package's."""
    text = np.frombuffer(Path(model.__file__).read_bytes(), np.uint8)
    config = GPT2Config(vocab_size=256, n_positions=32, n_embd=32, n_layer=2, n_head=2)
    problems = hook_problems(own, own.functions)
    names, left_out = with_hook(own, problems)
    without_dropout = [name for name in problems if EXERCISES[name].hook == "dropout"]
    dropout = 0.0 if without_dropout else 0.1
    options = TrainConfig(
        n_positions=config.n_positions, batch_size=8, max_steps=N_STEPS, warmup=10, lr=0.01, dropout=dropout
    )
    runs = [training.new_run(options, config, init_weights(config, np.random.default_rng(0)))]
    runs.append(copy.deepcopy(runs[0]))
    for run, functions in zip(runs, (names, []), strict=True):
        with own.installed(functions):
            for _ in range(N_STEPS):
                training.take_step(run, text, SerialExecutor())
    yield f"{N_STEPS} steps of training, on the text of model.py. The loss with your functions, and with the package's:"
    mine, theirs = (run.losses for run in runs)
    differences = [abs(a - b) for a, b in zip(mine, theirs, strict=True)]
    largest = int(np.argmax(differences))
    step = f", in step {largest + 1}" if differences[largest] > AGREE else ""
    for i in sorted({0, *range(9, N_STEPS, 10), *([largest] if step else [])}):
        yield f"   step {i + 1:>2}   {mine[i]:.6f}   {theirs[i]:.6f}"
    yield f"The largest difference is {differences[largest]:.0e}{step}."
    yield from not_used(left_out)
    if without_dropout:
        yield f"There was no dropout, because {', '.join(without_dropout)} does not use it as it must."


MILESTONES: dict[int, Callable[[Own], Iterator[str]]] = {
    1: own_logits,
    2: own_text,
    3: own_cache,
    4: own_gradients,
    5: own_training,
}
