"""The command `python -m numpy_gpt2 "prompt"`: continue a prompt and print the text."""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module

import numpy as np

from . import hub, interrupts
from .cli import exit_status, load_model, read_prompt
from .console import write
from .options import parse_arguments, settings_of
from .samples import (
    continue_prompts,
    end_reason,
    json_line,
    outgrew,
    print_outgrown,
    print_stats,
    score_prompt,
    summarize,
)
from .stream import TextStream
from .tokenizer import prompt_ids

PROGRAMS = {
    "train": ".train.__main__",
    "evaluate": ".evaluate",
    "explain": ".explain.__main__",
    "learn": ".learn.__main__",
}


def run(arguments: argparse.Namespace) -> int:
    """Continue one prompt and print its samples. Returns the exit status."""
    start = time.perf_counter()
    settings, n = settings_of(arguments), arguments.num_samples
    prompt = read_prompt(arguments.prompt)
    model = load_model(arguments)
    loaded = time.perf_counter() - start
    ids = prompt_ids(prompt, model.tokenizer)
    samples = [TextStream(model.tokenizer, settings.stop) for _ in range(n)]
    if settings.echo:
        score_prompt(ids, samples, model, settings.logprobs or 0)
    prompts = np.broadcast_to(ids, (n, len(ids)))  # no copies: `generate` cuts a long prompt first
    seed = settings.seed_of(1)
    progress = continue_prompts(prompts, samples, model, settings, seed)
    steps: list[tuple[float, int]] = []  # for each step: seconds since the start, number of new tokens
    interrupted = False
    if n > 1 and not arguments.json:
        write(f"--- sample 1 of {n}\n")
    try:
        for n_tokens in progress:
            steps.append((time.perf_counter() - start, int(n_tokens.sum())))
            if not arguments.json:
                write(samples[0].new_text())
    except KeyboardInterrupt:
        interrupted = True

    timings = summarize(loaded, steps, settings)
    for i, sample in enumerate(samples, start=1):
        sample.finish("interrupted" if interrupted else end_reason(sample, settings))
        if arguments.json:
            write(json_line(prompt, sample, seed, timings))
        else:
            write((f"--- sample {i} of {n}\n" if i > 1 else "") + sample.new_text() + "\n")
    if arguments.stats:
        print_stats(timings, seed)
        if outgrew(len(ids), len(steps), model.config.n_positions):
            print_outgrown(model.config.n_positions)
    return interrupts.STATUS if interrupted else 0


def command(argv: list[str] | None) -> int:
    """Run the command line. Returns the exit status."""
    arguments = parse_arguments(argv)
    if arguments.params:
        from .parameters import print_parameters

        print_parameters(hub.DEFAULT_MODEL if arguments.model is None else arguments.model)
        return 0
    if arguments.prompts is not None:
        from .prompts import run_prompts

        return run_prompts(arguments)
    if arguments.interactive:
        from .session import run_session

        return run_session(arguments)
    return run(arguments)


def main(argv: list[str] | None = None) -> int:
    """Run the command, or the program that its first word names. Returns the exit status; see `exit_status`."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in PROGRAMS:
        return import_module(PROGRAMS[words[0]], __package__).main(words[1:])
    return exit_status(lambda: command(words))


if __name__ == "__main__":
    sys.exit(main())
