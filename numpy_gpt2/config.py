"""The settings in a checkpoint's `config.json`, and the parameters that follow from them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from .files import read_json
from .model import ACTIVATIONS

Shape = tuple[int, ...]

# The four models of Radford et al. 2019, table 2: (n_layer, n_head, n_embd).
RELEASED_SIZES = {
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
}

# Hugging Face's GPT2Config accepts these names too.
ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
}


@dataclass(frozen=True)
class GPT2Config:
    """The fields of Hugging Face's `config.json` that change what GPT-2 computes, with Hugging Face's defaults.

    Raises ValueError for an impossible value, before any memory is allocated.
    """

    vocab_size: int = 50257  # V
    n_positions: int = 1024  # the window: how many positions have an embedding
    n_embd: int = 768  # C
    n_layer: int = 12  # L
    n_head: int = 12  # H
    n_inner: int | None = None  # width of the MLP's hidden layer; None means 4C
    layer_norm_epsilon: float = 1e-5
    activation_function: str = "gelu_new"
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True  # the head is the token embedding, transposed
    bos_token_id: int | list[int] | None = 50256
    eos_token_id: int | list[int] | None = 50256
    pad_token_id: int | list[int] | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"):
            value = getattr(self, name)
            if value is None and name == "n_inner":
                continue
            largest = 10_000 if name == "n_layer" else 2**31 - 1  # above any real model; limits the table of parameters
            if type(value) is not int or not 1 <= value <= largest:
                raise ValueError(f"{name} is {value!r}; it must be an integer from 1 to {largest:,}")
        for name in ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "tie_word_embeddings"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be true or false")
        epsilon = self.layer_norm_epsilon
        if type(epsilon) is not float or not 0 < epsilon < math.inf:
            raise ValueError(f"layer_norm_epsilon is {epsilon!r}; it must be a number above 0, such as 1e-5")
        if self.activation_function not in ACTIVATIONS:
            raise ValueError(
                f"activation_function is {self.activation_function!r}; it must be one of {', '.join(ACTIVATIONS)}"
            )
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(self, name)
            tokens = value if isinstance(value, list) else [] if value is None else [value]
            if any(type(token) is not int for token in tokens):
                raise ValueError(f"{name} is {value!r}; it must be a token id, a list of them, or null")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd is {self.n_embd}; it must be a multiple of n_head, which is {self.n_head}")

    @classmethod
    def preset(cls, name: str) -> GPT2Config:
        """The config of gpt2, gpt2-medium, gpt2-large or gpt2-xl. Raises ValueError for any other name."""
        if name not in RELEASED_SIZES:
            raise ValueError(f"there is no preset {name!r}; it must be one of {', '.join(RELEASED_SIZES)}")
        n_layer, n_head, n_embd = RELEASED_SIZES[name]
        return cls(n_layer=n_layer, n_head=n_head, n_embd=n_embd)

    @classmethod
    def from_json(cls, path: str | Path) -> GPT2Config:
        """Read Hugging Face's `config.json`. Missing keys get the defaults, and keys without a field are ignored.

        Raises FileNotFoundError for a missing file, and ValueError if it is not JSON or not the config of a GPT-2.
        """
        values = read_json(path)
        model_type = values.get("model_type", "gpt2") if isinstance(values, dict) else None
        if model_type != "gpt2":
            raise ValueError(f"{path} is not a GPT-2: its model_type is {model_type!r}; it must be 'gpt2'")
        if "Classification" in (architectures := str(values.get("architectures"))):
            raise ValueError(
                f"{path}: the model is a classifier ({architectures:.100}); it must be a language model"
                " (GPT2LMHeadModel)"
            )
        if quantization := values.get("quantization_config"):
            method = quantization.get("quant_method", "unknown method") if isinstance(quantization, dict) else ""
            raise ValueError(
                f"{path}: the weights are quantized ({method!s:.100}); they must be F64, F32, F16 or BF16, so use the"
                " model from before its quantization (--int8 then saves memory)"
            )
        values = {ALIASES.get(name, name): value for name, value in values.items()}
        fields = {field.name for field in dataclasses.fields(cls)}
        try:
            return cls(**{name: value for name, value in values.items() if name in fields})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def with_generation_config(self, path: str | Path) -> GPT2Config:
        """This config with the `eos_token_id` and the `pad_token_id` of a `generation_config.json`, where it has them.

        Raises ValueError if the file is not JSON, or if they are not token ids. A missing file changes nothing.
        """
        values = read_json(path) if Path(path).exists() else {}
        if not isinstance(values, dict):
            raise ValueError(f"{path} is a {type(values).__name__}; it must be a JSON object")
        found = {name: values[name] for name in ("eos_token_id", "pad_token_id") if values.get(name) is not None}
        try:
            return dataclasses.replace(self, **found)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @property
    def inner_size(self) -> int:
        """Width of the MLP's hidden layer: n_inner, or 4C if n_inner is None."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    def attention_scale(self, layer: int) -> float:
        """The factor of the attention scores: 1/√D. Some checkpoints use 1 instead, or divide the factor by layer + 1.

        >>> GPT2Config().attention_scale(5)  # D = 768 / 12 = 64, and 1 / √64 = 1/8
        0.125
        >>> GPT2Config(scale_attn_by_inverse_layer_idx=True).attention_scale(1)  # 1/8 divided by 2
        0.0625
        >>> GPT2Config(scale_attn_weights=False).attention_scale(5)
        1.0
        """
        scale = 1 / math.sqrt(self.n_embd // self.n_head) if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale

    def block_shapes(self) -> dict[str, Shape]:
        """The parameters of one block: name -> shape. Matrices are stored (in, out), for `x @ weight + bias`."""
        C, inner = self.n_embd, self.inner_size
        return {
            "ln_1.weight": (C,),
            "ln_1.bias": (C,),
            "attn.c_attn.weight": (C, 3 * C),
            "attn.c_attn.bias": (3 * C,),
            "attn.c_proj.weight": (C, C),
            "attn.c_proj.bias": (C,),
            "ln_2.weight": (C,),
            "ln_2.bias": (C,),
            "mlp.c_fc.weight": (C, inner),
            "mlp.c_fc.bias": (inner,),
            "mlp.c_proj.weight": (inner, C),
            "mlp.c_proj.bias": (C,),
        }

    def parameter_shapes(self) -> dict[str, Shape]:
        """All parameters in the order of the forward pass: name -> shape.

        >>> shapes = GPT2Config().parameter_shapes()
        >>> shapes["wte.weight"], shapes["h.11.attn.c_attn.weight"]
        ((50257, 768), (768, 2304))
        >>> len(shapes)  # 12 in each of 12 blocks, 2 embeddings, and the weight and bias of ln_f
        148
        """
        V, P, C = self.vocab_size, self.n_positions, self.n_embd
        shapes: dict[str, Shape] = {"wte.weight": (V, C), "wpe.weight": (P, C)}
        for layer in range(self.n_layer):
            shapes |= {f"h.{layer}.{name}": shape for name, shape in self.block_shapes().items()}
        shapes |= {"ln_f.weight": (C,), "ln_f.bias": (C,)}
        if not self.tie_word_embeddings:
            shapes["lm_head.weight"] = (V, C)
        return shapes

    def num_parameters(self) -> int:
        """The number of learned parameters. A tied head is the token embedding, so it is not counted again.

        >>> V, P, C, L = 50257, 1024, 768, 12
        >>> block = 12 * C * C + 13 * C  # matrices: 3 + 1 + 4 + 4 times C * C; biases and layer norms: 13 times C
        >>> V * C + P * C + L * block + 2 * C
        124439808
        >>> GPT2Config().num_parameters()
        124439808
        """
        return sum(math.prod(shape) for shape in self.parameter_shapes().values())
