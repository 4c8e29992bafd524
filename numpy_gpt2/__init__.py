"""GPT-2 in NumPy, written to be read.

Read these to understand GPT-2, in this order:

    model.py         the math: one function per equation, from layer norm to `forward`
    sampling.py      logits -> the next token
    generate.py      the loop; its first function is the whole idea
    cache.py         the KV cache: no key or value is computed twice
    decode.py        the loop at full speed, with the cache and with drafts
    backward.py      the gradient of every function in model.py
    train/step.py    one optimizer step: batch, dropout, loss and gradients, AdamW

Then the machinery around it:

    config.py, weights.py, pickled.py, tokenizer.py    the contents of a checkpoint, and how they are read
    special.py                                         the error function, for the exact GELU
    hub.py, hf_cache.py, model_files.py                find a model on this computer
    fetch.py, download.py, credentials.py              download what is missing
    unsupported.py                                     what to say about models that cannot be read
    checkpoint.py, files.py                            load and save a model
    prefill.py, lookup.py, int8.py, threads.py         more speed, or less memory
    beam.py                                            beam search: the best text, not the best next token
    arguments.py                                       checks of the arguments of `generate` and `beam_search`
    stream.py                                          tokens -> text, as soon as it is certain
    cli.py, console.py, interrupts.py                  what the command lines share
    options.py, samples.py, parameters.py, __main__.py the command that continues a prompt
    prompts.py, session.py                             several prompts in a file, or typed in a terminal
    windows.py, evaluate.py, logprobs.py               the loss of a text, and the log-probability of each token
    train/                                             the training loop, gradients in parallel, checkpoints, the log
    explain/                                           an HTML page that shows one prompt inside the model
    learn/                                             GPT-2's functions as exercises, and checks that name mistakes

Dimensions, the same letters everywhere:

    B  batch: sequences that are computed together
    T  tokens: the new tokens of one call
    S  keys: one for each token so far, including the new ones
    C  channels: the width of the residual stream (n_embd)
    H  heads (n_head)
    D  channels per head: C / H
    V  vocabulary size (vocab_size)
    L  layers (n_layer)

model.py, backward.py and special.py have no type hints: the shapes in their docstrings and comments say more. All other
modules have them.
"""

__version__ = "0.2.0"

from . import interrupts  # noqa: F401  (first, because the others import NumPy, and Ctrl-C may come before it is there)
from .backward import loss_and_gradients
from .cache import KVCache
from .checkpoint import Model, load, save_model
from .config import GPT2Config
from .generate import generate
from .logprobs import token_log_probabilities
from .model import (
    attention,
    block,
    causal_mask,
    cross_entropy,
    forward,
    gelu,
    gelu_exact,
    hidden_states,
    layer_norm,
    linear,
    logits,
    mlp,
    record,
    relu,
    softmax,
)
from .stream import generate_text
from .tokenizer import load_tokenizer, merge_steps
from .weights import init_weights, load_weights

__all__ = [
    "GPT2Config",
    "KVCache",
    "Model",
    "attention",
    "block",
    "causal_mask",
    "cross_entropy",
    "forward",
    "gelu",
    "gelu_exact",
    "generate",
    "generate_text",
    "hidden_states",
    "init_weights",
    "layer_norm",
    "linear",
    "load",
    "load_tokenizer",
    "load_weights",
    "logits",
    "loss_and_gradients",
    "merge_steps",
    "mlp",
    "record",
    "relu",
    "save_model",
    "softmax",
    "token_log_probabilities",
]
