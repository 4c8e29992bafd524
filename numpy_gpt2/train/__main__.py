"""`python -m numpy_gpt2.train TEXT.txt --out weights/NAME`: the command line of training."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken

from ..checkpoint import Model, load
from ..cli import Parser, argument_type, exit_status, keep_freed_memory, limit_threads, use_functions
from ..config import GPT2Config
from ..console import print_stderr
from ..files import staged_writes, try_lock
from ..hub import tokenizer_folder
from ..model_files import MODEL_FILES
from ..tokenizer import (
    ENDOFTEXT,
    TOKENIZER_JSON,
    byte_tokenizer,
    has_tokenizer,
    load_tokenizer,
    train_tokenizer,
)
from ..weights import FILE, WEIGHT_FILES, init_weights
from .config import CHANGEABLE, FLAGS, TrainConfig, stated_default
from .cost import MANY_PASSES, check_space, checkpoint_bytes, memory, model_bytes, passes, size
from .data import LARGE, Texts, Tokens, encode_documents, load_tokens, read_texts
from .run import (
    CHECKPOINT,
    is_complete,
    load_checkpoint,
    sample,
    save_best,
    save_log,
    train,
    write_sample,
)
from .step import Run, new_run, windows_per_epoch

EXAMPLES = """\
examples:
  python -m numpy_gpt2.train shakespeare.txt --out weights/mine
  python -m numpy_gpt2.train shakespeare.txt --out weights/mine --resume --max-steps 5000
  python -m numpy_gpt2.train mails.txt --out weights/mails --init-from gpt2 --n-positions 256 --batch-size 8 --lr 1e-4
"""

# The groups of flags in --help: the first setting of each, and its title.
GROUPS = {
    "tokenizer": "the model",
    "dropout": "optimization",
    "val_fraction": "evaluation and output (an interval of 0 means never)",
}

folder_name = argument_type(str, lambda name: name != "", "a folder")


def flag(name: str) -> str:
    """Return the flag of a setting.

    >>> flag("grad_clip")
    '--grad-clip'
    """
    return "--" + name.replace("_", "-")


def parse_arguments(argv: list[str] | None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Return the parsed command line: the arguments that are not settings, and the given settings."""
    parser = Parser(
        prog="python -m numpy_gpt2.train",
        usage="%(prog)s CORPUS.txt [MORE.txt …] --out FOLDER [options]",
        description="Train a GPT-2 on text files. With the default settings this takes about ten minutes on two cores.",
        epilog=EXAMPLES,
    )
    parser.add_argument("corpus", metavar="CORPUS.txt", nargs="+", help="UTF-8 text files; - is standard input")
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        type=folder_name,
        required=True,
        help="folder for the model and the log, such as weights/NAME",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --out from its checkpoint")
    parser.add_threads()
    parser.add_with(needs_hook=True)
    for field in FLAGS:
        if field.name in GROUPS:
            group = parser.add_argument_group(GROUPS[field.name])
        kind, default = field.metadata["kind"], field.default
        group.add_argument(
            flag(field.name),
            metavar=kind.metavar,
            type=argument_type(kind.convert, kind.accepts, kind.wanted),
            default=argparse.SUPPRESS,
            help=field.metadata["help"] + ("" if default is None else f" (default: {default})"),
        )
    arguments = parser.parse_args(argv)
    given = {field.name: getattr(arguments, field.name) for field in FLAGS if hasattr(arguments, field.name)}
    if "init_from" in given and (other := given.keys() & {"tokenizer", "n_layer", "n_head", "n_embd"}):
        names = ", ".join(map(flag, sorted(other)))
        parser.error(f"--init-from takes the tokenizer and the sizes from the model; leave out {names}")
    return arguments, given


def split(text: str, val_fraction: float) -> tuple[str, str]:
    """Return the training part of a text, and its end, which is held out.

    >>> split("abcdefghij", val_fraction=0.2)
    ('abcdefgh', 'ij')
    """
    end = int(len(text) * (1 - val_fraction))
    return text[:end], text[end:]


def make_tokenizer(name: str, text: str) -> tiktoken.Encoding:
    """Return the tokenizer that `--tokenizer` names. `bpe:N` learns one from the text."""
    if name == "byte":
        return byte_tokenizer()
    if name.startswith("bpe:"):
        return train_tokenizer(text, int(name.removeprefix("bpe:")))
    return load_tokenizer(tokenizer_folder(name))


def new_model(options: TrainConfig, text: str) -> Model:
    """Return a model with GPT-2's random initialization, in the size of the settings."""
    tokenizer = make_tokenizer(options.tokenizer, text)
    end = tokenizer.eot_token if ENDOFTEXT in tokenizer.special_tokens_set else None
    config = GPT2Config(
        vocab_size=tokenizer.n_vocab,
        n_positions=options.n_positions,
        n_embd=options.n_embd,
        n_layer=options.n_layer,
        n_head=options.n_head,
        bos_token_id=end,
        eos_token_id=end,
    )
    return Model(init_weights(config, np.random.default_rng(options.seed)), config, tokenizer)


def model_to_tune(name: str, window: int | None) -> Model:
    """Load the model of `--init-from`, and shorten its window to `--n-positions` if that was given."""
    weights, config, tokenizer = load(name)
    window = window or config.n_positions
    if window > config.n_positions:
        raise ValueError(f"--n-positions is {window}; it must be at most {config.n_positions}, the window of {name}")
    weights["wpe.weight"] = weights["wpe.weight"][:window]
    tied = "lm_head.weight" not in weights
    return Model(weights, dataclasses.replace(config, n_positions=window, tie_word_embeddings=tied), tokenizer)


def begin(given: dict[str, Any], text: str, folder: Path) -> tuple[Run, tiktoken.Encoding]:
    """Return a new run with these settings. Raises ValueError if the folder already has a run or a model."""
    if (folder / CHECKPOINT).exists():
        raise ValueError(f"{folder} already has a run; continue it with --resume, or start a run in another --out")
    if found := [name for name in (*WEIGHT_FILES, *MODEL_FILES, TOKENIZER_JSON) if (folder / name).exists()]:
        raise ValueError(
            f"{folder} already has a {found[0]}; use another --out, and --init-from {folder} to start with this model"
        )
    options = TrainConfig(**given)
    if options.init_from:
        weights, config, tokenizer = model_to_tune(options.init_from, given.get("n_positions"))
        sizes = {name: getattr(config, name) for name in ("n_layer", "n_head", "n_embd", "n_positions")}
        options = dataclasses.replace(options, tokenizer=options.init_from, **sizes)
    else:
        weights, config, tokenizer = new_model(options, split(text, options.val_fraction)[0])
    return new_run(options, config, weights), tokenizer


def resume_run(given: dict[str, Any], text: str, folder: Path) -> tuple[Run, tiktoken.Encoding]:
    """Return the run of the checkpoint. Raises ValueError if a setting that must stay the same was changed."""
    run = load_checkpoint(folder)
    for name, value in given.items():
        before = getattr(run.options, name)
        if name not in CHANGEABLE and value != before:
            if name == "corpus":
                raise ValueError("the text is not the text of this run; with --resume it must be the same")
            same = "left out" if before is None else before
            raise ValueError(f"{flag(name)} is {value}; with --resume it must be {same}, as when the run began")
    run.options = dataclasses.replace(run.options, **{"time_limit": None} | given)  # an old time limit has no effect
    if has_tokenizer(folder):
        return run, load_tokenizer(folder)
    return run, make_tokenizer(run.options.tokenizer, split(text, run.options.val_fraction)[0])  # killed while saving


def saved_at(folder: Path) -> list[int]:
    """When the checkpoint and the model in a folder were saved; empty if there are none."""
    return [path.stat().st_mtime_ns for path in (folder / CHECKPOINT, folder / FILE) if path.exists()]


def command(argv: list[str] | None) -> int:
    """Do what the command line says. Returns the exit status."""
    arguments, given = parse_arguments(argv)
    folder = Path(arguments.out)
    limit_threads(arguments.threads)
    use_functions(arguments)
    text = ENDOFTEXT.join(read_text(path) for path in arguments.corpus)
    given["corpus"] = hashlib.sha256(text.encode()).hexdigest()
    keep_freed_memory()
    before = saved_at(folder)
    run, tokenizer = resume_run(given, text, folder) if arguments.resume else begin(given, text, folder)
    tokens, held_out = (encode(part, tokenizer) for part in split(text, run.options.val_fraction))
    if len(tokens) <= run.config.n_positions:
        raise ValueError(
            f"the training text has {len(tokens):,} tokens; it must have at least {run.config.n_positions + 1:,}, one"
            " window and the token after it. Use more text or a smaller --n-positions"
        )
    if run.options.val_fraction and len(held_out) < 2:
        raise ValueError(
            f"the held-out text has {len(held_out)} token(s); it must have at least 2. Use more text, or"
            " --val-fraction 0 to hold out nothing"
        )

    if run.step >= run.options.max_steps and is_log_complete(run, folder):
        print_stderr(f"the run in {folder} has done its {run.step:,} steps; a larger --max-steps continues it")
        return 0
    with staged_writes(folder):
        pass  # fails now, before any computation, if the folder cannot be written
    with try_lock(folder) as locked:
        if locked is False or saved_at(folder) != before:
            problem = "is in use by" if locked is False else "was just changed by"
            raise OSError(
                f"{folder} {problem} another training; use another --out, or --resume when that one has ended"
            )
        return train_and_report(run, tokens, held_out, tokenizer, folder)


def train_and_report(
    run: Run, tokens: np.ndarray, held_out: np.ndarray, tokenizer: tiktoken.Encoding, folder: Path
) -> int:
    """Train, and say on standard error what is trained and what was saved. Returns the exit status."""
    if run.rows:  # undo what was written after the checkpoint
        save_best(run, tokenizer, folder)
        save_log(run, folder)
    print_stderr(
        f"{run.config.num_parameters():,} parameters; {len(tokens):,} training tokens, {len(held_out):,} held out"
    )
    interrupted = train(run, tokens, held_out, tokenizer, folder)
    if run.step < run.options.max_steps:
        again = "; --resume continues" if run.options.checkpoint_interval else ""
        print_stderr(f"stopped after {run.step:,} of {run.options.max_steps:,} steps{again}")
    if run.rows:
        loss = f" (validation loss {run.best_loss:.4f} nats per token)" if len(held_out) else ""
        print_stderr(f"the best model{loss} is in {folder}: python -m numpy_gpt2 -m {shlex.quote(str(folder))}")
    return 130 if interrupted else 0


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status."""
    return exit_status(lambda: command(argv))


if __name__ == "__main__":
    sys.exit(main())
