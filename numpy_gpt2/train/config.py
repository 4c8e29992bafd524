"""The settings of a training run.

`TrainConfig` states each setting once: its default, the values it may have, and its text for `--help`. The command line
takes all three from here: the field `grad_clip` is the flag `--grad-clip`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..tokenizer import LEARNABLE_SIZES


class Kind(NamedTuple):
    """The values that a setting may have."""

    metavar: str  # the value's name in --help
    convert: Callable[[Any], Any]  # from the text of a command line
    accepts: Callable[[Any], bool]
    wanted: str  # the accepted values in words, for error messages

    def includes(self, value: Any) -> bool:
        """Whether a setting of this kind may have the value."""
        with suppress(TypeError, ValueError, OverflowError):
            return self.convert(value) == value and self.accepts(value)
        return False


COUNT = Kind("N", int, lambda n: 1 <= n <= 10**18, "a whole number from 1 to 10^18")
COUNT_OR_ZERO = Kind("N", int, lambda n: 0 <= n <= 10**18, "a whole number from 0 to 10^18")
SEED = Kind("N", int, lambda n: n >= 0, "a whole number, 0 or more")
POSITIVE = Kind("X", float, lambda x: 0 < x < math.inf, "a number above 0")
NON_NEGATIVE = Kind("X", float, lambda x: 0 <= x < math.inf, "a number, 0 or more")
FRACTION = Kind("P", float, lambda x: 0 <= x < 1, "a number from 0 to below 1")
MODEL = Kind("MODEL", str, lambda name: True, "the name of a model")
SWITCH = Kind("on|off", lambda x: {"on": True, "off": False}.get(x, x), lambda x: type(x) is bool, "on or off")
TRAINED = Kind(
    "WHAT",
    str,
    lambda what: re.fullmatch(r"all|(last|lora):[1-9]\d{0,8}", what) is not None,
    "all, last:N or lora:R, with N and R from 1 on",
)
TOKENIZER = Kind(
    "NAME",
    str,
    lambda name: not name.startswith("bpe:") or int(name.removeprefix("bpe:")) in LEARNABLE_SIZES,
    "byte, bpe:N with N from 257 to 1,000,000, gpt2, or a folder",
)


def setting(default: Any, kind: Kind, help: str) -> Any:
    """A field of `TrainConfig` that is also a flag of the command."""
    return dataclasses.field(default=default, metadata={"kind": kind, "help": help})


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training run. Raises ValueError for a value that a setting cannot have.

    >>> TrainConfig(lr=0.01).min_lr
    0.001
    >>> TrainConfig(dropout=1.5)
    Traceback (most recent call last):
    ValueError: dropout is 1.5; it must be a number from 0 to below 1
    """

    # The model.
    tokenizer: str = setting("byte", TOKENIZER, "byte, bpe:N (N tokens, learned from the text), gpt2, or a folder")
    init_from: str | None = setting(None, MODEL, "start with the weights, tokenizer and sizes of this model")
    train: str = setting("all", TRAINED, "what is trained: all; last:N, the last N blocks; lora:R, adapters of rank R")
    n_layer: int = setting(4, COUNT, "number of blocks")
    n_head: int = setting(4, COUNT, "attention heads per block")
    n_embd: int = setting(192, COUNT, "channels: the width of the residual stream")
    n_positions: int = setting(128, COUNT, "length of a window in tokens")

    # Optimization.
    dropout: float = setting(0.1, FRACTION, "probability that dropout sets a number to 0")
    batch_size: int = setting(32, COUNT, "windows per batch")
    grad_accumulation: int = setting(1, COUNT, "batches per step")
    max_steps: int = setting(2000, COUNT, "number of steps")
    lr: float = setting(1e-3, POSITIVE, "highest learning rate")
    min_lr: float = setting(None, NON_NEGATIVE, "learning rate of the last step (default: lr / 10)")
    warmup: int = setting(100, COUNT_OR_ZERO, "steps in which the learning rate rises to lr")
    weight_decay: float = setting(0.1, NON_NEGATIVE, "weight decay of AdamW, for matrices only")
    beta1: float = setting(0.9, FRACTION, "decay rate of AdamW's mean of the gradient")
    beta2: float = setting(0.99, FRACTION, "decay rate of AdamW's mean of the squared gradient")
    grad_clip: float = setting(1.0, NON_NEGATIVE, "largest norm of the gradient; 0: no limit")
    average: bool = setting(True, SWITCH, "evaluate and save the running mean of the weights")
    seed: int = setting(0, SEED, "seed of all random numbers")

    # Evaluation and output.
    val_fraction: float = setting(0.1, FRACTION, "fraction of the text, at its end, that is held out for validation")
    eval_interval: int = setting(250, COUNT_OR_ZERO, "steps between evaluations; the last step is always evaluated")
    eval_batches: int = setting(200, COUNT, "largest number of held-out batches in an evaluation")
    sample_interval: int = setting(500, COUNT_OR_ZERO, "steps between samples on standard output")
    checkpoint_interval: int = setting(250, COUNT_OR_ZERO, "steps between checkpoints, which --resume needs")
    time_limit: float | None = setting(
        None, POSITIVE._replace(metavar="MINUTES"), "save and stop after this time; --resume continues"
    )

    # Not a flag.
    corpus: str = ""  # SHA-256 of the text: --resume needs the same text

    def __post_init__(self) -> None:
        for field in FLAGS:
            value, kind = getattr(self, field.name), field.metadata["kind"]
            if not kind.includes(value) and not (value is None and field.default is None):
                raise ValueError(f"{field.name} is {value!r}; it must be {kind.wanted}")
        if self.train != "all" and self.init_from is None:
            raise ValueError(f"train is {self.train}; it must be all without init_from, because new weights are random")
        if self.min_lr is None:
            object.__setattr__(self, "min_lr", self.lr / 10)  # the class is frozen


# The settings that are flags.
FLAGS = [field for field in dataclasses.fields(TrainConfig) if field.metadata]

# The settings that --resume may change. Any other change would make it a different run.
CHANGEABLE = ("max_steps", "time_limit", "eval_interval", "sample_interval", "checkpoint_interval")
