"""Train a GPT-2: `python -m numpy_gpt2.train TEXT.txt --out weights/NAME`. README.md in this folder shows how.

Reading order:

    step.py           one optimizer step: batch, loss and gradients with dropout, gradient clipping, AdamW
    gradients.py      the gradients of a batch, one after another, from parts that threads compute
    trained.py        what is trained: all weights, the last blocks, or low-rank adapters (LoRA)
    adapter_files.py  adapters as files of the library peft
    config.py         the settings of a run, with their defaults
    data.py           texts -> documents -> tokens
    cost.py           what a run takes: memory, disk space, passes over the text
    run.py            the training loop, evaluation, log and checkpoints
    progress.py       the bar in a terminal, and Ctrl-C
    report.py         what the command says before and after a run
    curve.py          the picture of the loss
    __main__.py       the command line
"""

from .config import TrainConfig

__all__ = ["TrainConfig"]
