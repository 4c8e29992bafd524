"""GPT-2 in NumPy.

To understand GPT-2, read `model.py` from top to bottom: it is all of the math. Then, in this order:

    config.py, weights.py, tokenizer.py     what is in a checkpoint, and how it is read
    cache.py, sampling.py, generate.py      how text comes out of it
    lookup.py, int8.py, threads.py          how it comes out sooner, and out of less memory
    hub.py, checkpoint.py                   where it comes from
    backward.py                             the gradient of every function in model.py, beside it
    train.py, curve.py                      how a model learns, and the picture of it
    evaluate.py                             how well it has learned
    explain.py, explain.html                one prompt, followed through all of this, on a page
    __main__.py, cli.py                     the command line
    special.py                              the error function, for the few checkpoints that need it

Dimensions, the same letters everywhere:

    B  batch: rows that are computed side by side
    T  tokens: the new ones of this call
    S  keys: the tokens seen so far, the new ones included
    C  channels: the width of the residual stream (n_embd)
    H  heads (n_head)
    D  channels of one head: C / H
    V  vocabulary (vocab_size)
    L  layers (n_layer)
"""

__version__ = "0.2.0"

from .backward import loss_and_gradients
from .cache import KVCache
from .checkpoint import Model, load, save_model
from .config import GPT2Config
from .generate import generate
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
from .tokenizer import load_tokenizer
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
    "hidden_states",
    "init_weights",
    "layer_norm",
    "linear",
    "load",
    "load_tokenizer",
    "load_weights",
    "logits",
    "loss_and_gradients",
    "mlp",
    "record",
    "relu",
    "save_model",
    "softmax",
]
