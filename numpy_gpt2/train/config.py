"""The settings of a training run.

`TrainConfig` states each setting once: its default, the values it may have, and its text for `--help`. The command line
takes all three from here: the field `grad_clip` is the flag `--grad-clip`.

With `init_from`, a run fine-tunes a model, and many settings have another default. The steps are few and short. Each
one changes the weights only a little, because most of what the model knows must stay.
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
BATCH = Kind("N", int, lambda n: 1 <= n <= 10**4, "a whole number from 1 to 10,000")
COUNT_OR_ZERO = Kind("N", int, lambda n: 0 <= n <= 10**18, "a whole number from 0 to 10^18")
SEED = Kind("N", int, lambda n: n >= 0, "a whole number, 0 or more")
POSITIVE = Kind("X", float, lambda x: 0 < x < math.inf, "a number above 0")
PASSES = Kind("X", float, lambda x: 0 < x <= 10**6, "a number above 0 and at most 1,000,000")
NON_NEGATIVE = Kind("X", float, lambda x: 0 <= x < math.inf, "a number, 0 or more")
FRACTION = Kind("P", float, lambda x: 0 <= x < 1, "a number from 0 to below 1")
SWITCH = Kind("on|off", lambda x: {"on": True, "off": False}.get(x, x), lambda x: type(x) is bool, "on or off")
SCHEDULE = Kind("NAME", str, lambda name: name in ("cosine", "linear"), "cosine or linear")
MODEL = Kind("MODEL", str, lambda name: name != "", "the name of a model")
FILE = Kind("FILE", str, lambda name: name != "", "a file or a folder")
TRAINED = Kind(
    "WHAT",
    str,
    lambda what: re.fullmatch(r"all|(last|lora):[1-9]\d{0,8}", what) is not None,
    "all, last:N or lora:R, with N and R from 1 on",
)
TOKENIZER = Kind(
    "NAME",
    str,
    lambda name: int(name.removeprefix("bpe:")) in LEARNABLE_SIZES if name.startswith("bpe:") else name != "",
    "byte, bpe:N with N from 257 to 1,000,000, gpt2, or a folder",
)


class Derived(NamedTuple):
    """A default that depends on the settings before it."""

    words: str  # for --help
    of: Callable[[Any], Any]  # from the TrainConfig


def tenth_of_steps(largest: int) -> Derived:
    """A tenth of the steps, rounded up, or `largest` if that is less. None if the number of steps is not known."""
    return Derived(
        f"a tenth of the steps, at most {largest}",
        lambda options: min(largest, -(-options.max_steps // 10)) if options.max_steps else None,
    )


SAME = object()  # the default with `init_from` is the default of the other runs


def setting(default: Any, kind: Kind, help: str, tuning: Any = SAME) -> Any:
    """A field of `TrainConfig` that is also a flag of the command. `tuning` is its default with `init_from`.

    The default of a dataclass cannot depend on another field. So each field is None at first, and `TrainConfig`
    replaces None by the default.
    """
    defaults = (default, default if tuning is SAME else tuning)
    return dataclasses.field(default=None, metadata={"kind": kind, "help": help, "defaults": defaults})


def stated_default(field: dataclasses.Field[Any]) -> str:
    """The default of a setting for --help: with and without `init_from`.

    >>> [field] = [field for field in FLAGS if field.name == "batch_size"]
    >>> stated_default(field)
    'default: 32; with --init-from: 4'
    """

    usual, tuning = field.metadata["defaults"]
    stated = [] if usual is None else [f"default: {in_words(usual)}"]
    if tuning is not usual and tuning is not None:
        stated.append(f"with --init-from: {in_words(tuning)}")
    return "; ".join(stated)


def in_words(value: Any) -> str:
    """A value or a default as the command line shows it.

    >>> in_words(True), in_words(0.1)
    ('on', '0.1')
    """
    if isinstance(value, Derived):
        return value.words
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training run. Raises ValueError for a value that a setting cannot have.

    A setting that is None takes its default. With `epochs`, `max_steps` and what derives from it stay None until
    `with_steps` computes them from the text.

    >>> TrainConfig(lr=0.01).min_lr
    0.001
    >>> TrainConfig().batch_size, TrainConfig(init_from="gpt2").batch_size
    (32, 4)
    >>> TrainConfig(dropout=1.5)
    Traceback (most recent call last):
    ValueError: dropout is 1.5; it must be a number from 0 to below 1
    """

    # The model.
    tokenizer: str = setting("byte", TOKENIZER, "byte, bpe:N (N tokens, learned from the text), gpt2, or a folder")
    init_from: str | None = setting(None, MODEL, "fine-tune this model: start with its weights, tokenizer and sizes")
    train: str = setting(
        "all",
        TRAINED,
        "what is trained, with --init-from: all; last:N, the last N blocks; lora:R, adapters of rank R. For GPT-2, all"
        " takes 2.7 GB, last:2 takes 1.3 GB and half of the time, lora:8 takes 1.7 GB and 0.9 of the time",
    )
    n_layer: int = setting(4, COUNT, "number of blocks")
    n_head: int = setting(4, COUNT, "attention heads per block")
    n_embd: int = setting(192, COUNT, "channels: the width of the residual stream")
    n_positions: int = setting(
        128,
        COUNT,
        "length in tokens of a window, a piece of the text that the model reads at once",
        tuning=Derived("256, or the model's own if smaller", lambda _: 256),
    )

    # Optimization.
    dropout: float = setting(0.1, FRACTION, "probability that dropout sets a number to 0")
    batch_size: int = setting(32, BATCH, "windows per batch", tuning=4)
    grad_accumulation: int = setting(1, COUNT, "batches per step")
    epochs: float | None = setting(
        None,
        PASSES,
        "passes over the training text, in place of --max-steps",
        tuning=Derived("3", lambda options: None if options.max_steps else 3.0),
    )
    max_steps: int = setting(
        Derived("2000", lambda options: None if options.epochs else 2000),
        COUNT,
        "number of steps, in place of --epochs",
        tuning=None,
    )
    # Adapters need a larger rate. For two texts and the bundled model, the best one was ten times that of `all`.
    lr: float = setting(
        1e-3,
        POSITIVE,
        "highest learning rate",
        tuning=Derived("0.00005, and 0.0005 for lora", lambda options: 5e-4 if "lora" in options.train else 5e-5),
    )
    schedule: str = setting("cosine", SCHEDULE, "how the learning rate falls: cosine or linear", tuning="linear")
    min_lr: float = setting(
        Derived("lr / 10", lambda options: options.lr / 10),
        NON_NEGATIVE,
        "learning rate of the last step",
    )
    warmup: int = setting(
        100,
        COUNT_OR_ZERO,
        "steps in which the learning rate rises to lr",
        tuning=tenth_of_steps(100),
    )
    # Decay pulls the weights towards 0, and not towards the model that a run fine-tunes.
    weight_decay: float = setting(0.1, NON_NEGATIVE, "weight decay of AdamW, for matrices only", tuning=0)
    beta1: float = setting(0.9, FRACTION, "decay rate of AdamW's mean of the gradient")
    beta2: float = setting(0.99, FRACTION, "decay rate of AdamW's mean of the squared gradient")
    grad_clip: float = setting(1.0, NON_NEGATIVE, "largest norm of the gradient; 0: no limit")
    average: bool = setting(True, SWITCH, "evaluate and save the running mean of the weights", tuning=False)
    seed: int = setting(0, SEED, "seed of all random numbers")

    # Evaluation and output.
    val_fraction: float = setting(0.1, FRACTION, "fraction of the text, at its end, that is held out for validation")
    val_file: str | None = setting(None, FILE, "held-out text of its own, a file or a folder; excludes --val-fraction")
    eval_interval: int = setting(
        250,
        COUNT_OR_ZERO,
        "steps between evaluations; the last step is always evaluated",
        tuning=tenth_of_steps(250),
    )
    eval_batches: int = setting(200, COUNT, "largest number of held-out batches in an evaluation", tuning=16)
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
            if value is not None and not kind.includes(value):
                raise ValueError(f"{field.name} is {value!r}; it must be {kind.wanted}")
        for field in FLAGS:
            if getattr(self, field.name) is None:
                default = field.metadata["defaults"][self.init_from is not None]
                value = default.of(self) if isinstance(default, Derived) else default
                object.__setattr__(self, field.name, value)  # the class is frozen
        if self.train != "all" and self.init_from is None:
            raise ValueError(f"train is {self.train}; it must be all without init_from, because new weights are random")

    def with_steps(self, n_windows: int) -> TrainConfig:
        """The settings with `max_steps`: the number of steps in which `epochs` passes over `n_windows` are made.

        >>> TrainConfig(epochs=3, batch_size=4).with_steps(n_windows=10).max_steps  # 30 windows
        8
        >>> TrainConfig(max_steps=5).with_steps(n_windows=10).max_steps
        5
        """
        if self.epochs is None:
            return self
        n_steps = math.ceil(self.epochs * n_windows / (self.batch_size * self.grad_accumulation))
        return dataclasses.replace(self, max_steps=n_steps)


# The settings that are flags.
FLAGS = [field for field in dataclasses.fields(TrainConfig) if field.metadata]

# The settings that --resume may change. Any other change would make it a different run.
CHANGEABLE = ("epochs", "max_steps", "time_limit", "eval_interval", "sample_interval", "checkpoint_interval")
