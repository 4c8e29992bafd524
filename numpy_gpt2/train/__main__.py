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
from .config import CHANGEABLE, FLAGS, TrainConfig, in_words, stated_default
from .data import LARGE, Texts, Tokens, encode_documents, load_tokens, read_texts
from .report import print_gain, print_plan, write_both_samples
from .run import CHECKPOINT, is_complete, load_checkpoint, restore_best, save_log, train
from .step import Run, new_run, windows_per_epoch

EXAMPLES = """\
examples:
  python -m numpy_gpt2.train shakespeare.txt --out weights/mine
  python -m numpy_gpt2.train --out weights/mine --resume --max-steps 5000
  python -m numpy_gpt2.train mails.txt --out weights/mails --init-from gpt2
  python -m numpy_gpt2.train notes/ posts.jsonl --out weights/notes \\
      --init-from gpt2 --epochs 2 --val-file talk.md
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
        usage="%(prog)s TEXT [MORE …] --out FOLDER [options]",
        description="Train a GPT-2 on texts, or fine-tune one with --init-from. With the default\n"
        "settings, both take minutes on two cores. A run first states the memory, the\n"
        "disk space and the time that it takes.",
        epilog=EXAMPLES,
    )
    help = (
        "text files in UTF-8; folders, for their files *.txt and *.md; files *.jsonl, for the field text of each line;"
        f" - is standard input. {ENDOFTEXT} separates documents. --resume needs no text"
    )
    parser.add_argument("corpus", metavar="TEXT", nargs="*", help=help)
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
        kind, default = field.metadata["kind"], stated_default(field)
        group.add_argument(
            flag(field.name),
            metavar=kind.metavar,
            type=argument_type(kind.convert, kind.accepts, kind.wanted),
            default=argparse.SUPPRESS,
            help=field.metadata["help"] + (f" ({default})" if default else ""),
        )
    arguments = parser.parse_args(argv)
    given = {field.name: getattr(arguments, field.name) for field in FLAGS if hasattr(arguments, field.name)}
    if not arguments.corpus and not arguments.resume:
        parser.error("there is no text: give the names of text files, or --resume to continue a run")
    for one, other_one in (("epochs", "max_steps"), ("val_file", "val_fraction")):
        if one in given and other_one in given:
            parser.error(f"{flag(one)} and {flag(other_one)} exclude each other; leave one out")
    if "init_from" in given and (other := given.keys() & {"tokenizer", "n_layer", "n_head", "n_embd"}):
        names = ", ".join(map(flag, sorted(other)))
        parser.error(f"--init-from takes the tokenizer and the sizes from the model; leave out {names}")
    if given.get("train", "all") != "all" and not ("init_from" in given or arguments.resume):
        parser.error(f"--train {given['train']} needs --init-from: without it, the weights that stay frozen are random")
    return arguments, given


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


def model_to_tune(name: str, window: int) -> Model:
    """Load the model of `--init-from`. Raises ValueError if the training windows are longer than those of the model."""
    weights, config, tokenizer = load(name)
    if window > config.n_positions:
        raise ValueError(f"--n-positions is {window}; it must be at most {config.n_positions}, the window of {name}")
    tied = "lm_head.weight" not in weights
    return Model(weights, dataclasses.replace(config, tie_word_embeddings=tied), tokenizer)


def begin(given: dict[str, Any], paths: list[str], folder: Path) -> tuple[Run, Tokens, tiktoken.Encoding]:
    """Return a new run with these settings. Raises ValueError if the folder already has a run or a model."""
    if (folder / CHECKPOINT).exists():
        raise ValueError(f"{folder} already has a run; continue it with --resume, or start a run in another --out")
    if found := [name for name in (*WEIGHT_FILES, *MODEL_FILES, TOKENIZER_JSON) if (folder / name).exists()]:
        raise ValueError(
            f"{folder} already has a {found[0]}; use another --out, and --init-from {folder} to start with this model"
        )
    options = TrainConfig(**given)
    texts = read_texts(paths, options)
    if options.val_file and texts.held_out in texts.training:
        print_stderr(
            f"warning: the text of {options.val_file} is in the training text, too, so the held-out loss will be too"
            " low; remove it from one of them"
        )
    if options.init_from:
        weights, config, tokenizer = model_to_tune(options.init_from, given.get("n_positions", 1))
        sizes = {name: getattr(config, name) for name in ("n_layer", "n_head", "n_embd")}
        window = min(options.n_positions, config.n_positions)
        options = dataclasses.replace(options, tokenizer=options.init_from, n_positions=window, **sizes)
    else:
        weights, config, tokenizer = new_model(options, texts.training)
    tokens = encode_texts(texts, tokenizer)
    check_lengths(tokens, options)
    n_windows = windows_per_epoch(len(tokens.training), options.n_positions)
    options = dataclasses.replace(options, corpus=texts.sha256).with_steps(n_windows)
    return new_run(options, config, weights), tokens, tokenizer


def resume_run(given: dict[str, Any], paths: list[str], folder: Path) -> tuple[Run, Tokens, tiktoken.Encoding]:
    """Return the run of the checkpoint. Raises ValueError if a setting that must stay the same was changed."""
    run = load_checkpoint(folder)
    for name, value in given.items():
        before = getattr(run.options, name)
        if name not in CHANGEABLE and value != before:
            same = "left out" if before is None else in_words(before)
            raise ValueError(
                f"{flag(name)} is {in_words(value)}; with --resume it must be {same}, as when the run began"
            )
    tokens, tokenizer = read_again(run, paths, folder)
    changed = {"time_limit": None} | given  # an old time limit has no effect
    if "max_steps" in given:
        changed["epochs"] = None
    options = dataclasses.replace(run.options, **changed)
    run.options = options.with_steps(windows_per_epoch(len(tokens.training), options.n_positions))
    return run, tokens, tokenizer


def read_again(run: Run, paths: list[str], folder: Path) -> tuple[Tokens, tiktoken.Encoding]:
    """Return the tokens and the tokenizer of a run that began earlier, from its folder if they are there.

    Raises ValueError if other texts are given, or none if the folder does not have the tokens.
    """
    options = run.options
    tokenizer = load_tokenizer(folder) if has_tokenizer(folder) else None
    tokens = load_tokens(folder, options.corpus) if tokenizer else None
    if paths:
        texts = read_texts(paths, options)
        if texts.sha256 != options.corpus:
            raise ValueError("the text is not the text of this run; with --resume it must be the same, or left out")
        tokenizer = tokenizer or make_tokenizer(options.tokenizer, texts.training)  # the run was killed while it saved
        tokens = tokens or encode_texts(texts, tokenizer)
    if tokens is None or tokenizer is None:
        raise ValueError(f"{folder} does not have the tokens of its run; give the texts with which the run began")
    return tokens, tokenizer


def encode_texts(texts: Texts, tokenizer: tiktoken.Encoding) -> Tokens:
    """Encode both texts. This takes time for large ones, so a line on standard error says that it is done."""
    if (n := len(texts.training) + len(texts.held_out)) > LARGE:
        print_stderr(f"encoding the text: {n:,} characters")
    return Tokens(*(encode_documents(text, tokenizer) for text in (texts.training, texts.held_out)))


def check_lengths(tokens: Tokens, options: TrainConfig) -> None:
    """Raise ValueError if a text is too short."""
    if len(tokens.training) <= options.n_positions:
        raise ValueError(
            f"the training text has {len(tokens.training):,} tokens; it must have at least {options.n_positions + 1:,},"
            " one window and the token after it. Use more text or a smaller --n-positions"
        )
    if (options.val_fraction or options.val_file) and len(tokens.held_out) < 2:
        raise ValueError(
            f"the held-out text has {len(tokens.held_out)} token(s); it must have at least 2. Use more text, or"
            " --val-fraction 0 to hold out nothing"
        )


def saved_at(folder: Path) -> list[int]:
    """When the checkpoint and the model in a folder were saved; empty if there are none."""
    return [path.stat().st_mtime_ns for path in (folder / CHECKPOINT, folder / FILE) if path.exists()]


def command(argv: list[str] | None) -> int:
    """Do what the command line says. Returns the exit status."""
    arguments, given = parse_arguments(argv)
    folder = Path(arguments.out)
    limit_threads(arguments.threads)
    use_functions(arguments)
    keep_freed_memory()
    before = saved_at(folder)
    run, tokens, tokenizer = (resume_run if arguments.resume else begin)(given, arguments.corpus, folder)
    if is_complete(run, folder):
        more = "--epochs" if run.options.epochs else "--max-steps"
        print_stderr(f"the run in {folder} has done its {run.step:,} steps; a larger {more} continues it")
        return 0
    with staged_writes(folder):
        pass  # fails now, before any computation, if the folder cannot be written
    with try_lock(folder) as locked:
        if locked is False or saved_at(folder) != before:
            problem = "is in use by" if locked is False else "was just changed by"
            raise OSError(
                f"{folder} {problem} another training; use another --out, or --resume when that one has ended"
            )
        return train_and_report(run, tokens, tokenizer, folder)


def train_and_report(run: Run, tokens: Tokens, tokenizer: tiktoken.Encoding, folder: Path) -> int:
    """Train, and say on standard error what is trained and what was saved. Returns the exit status."""
    print_plan(run, tokens, folder)
    if run.rows:  # undo what was written after the checkpoint
        if run.best_step is not None:
            restore_best(run, tokenizer, folder)
        save_log(run, folder)
    interrupted = train(run, tokens, tokenizer, folder)
    if run.step < run.options.max_steps:
        again = "; --resume continues" if run.options.checkpoint_interval else ""
        print_stderr(f"stopped after {run.step:,} of {run.options.max_steps:,} steps{again}")
    if run.best_step is not None:
        if run.rows[0]["step"] == 0:
            print_gain(run)
        loss = f" (validation loss {run.best_loss:.4f} nats per token)" if len(tokens.held_out) else ""
        print_stderr(f"the best model{loss} is in {folder}: python -m numpy_gpt2 -m {shlex.quote(str(folder))}")
        is_whole = run.step == run.options.max_steps and not interrupted
        if run.options.init_from and run.options.sample_interval and is_whole:
            write_both_samples(run, folder)
    return 130 if interrupted else 0


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status."""
    return exit_status(lambda: command(argv))


if __name__ == "__main__":
    sys.exit(main())
