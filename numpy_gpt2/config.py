"""What a GPT-2 checkpoint says about itself: sizes, switches, and the table of its parameters."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

from .model import ACTIVATIONS

Shape = tuple[int, ...]

# The four models of Radford et al. 2019, table 2: (n_layer, n_head, n_embd).
RELEASED_SIZES = {
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
}

# Other names under which Hugging Face's GPT2Config takes the same value.
ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
}


@dataclass(frozen=True)
class GPT2Config:
    """The fields of Hugging Face's `config.json` that change what GPT-2 computes, with its defaults.

    Raises ValueError for values that no model can have, before anything is allocated.
    """

    vocab_size: int = 50257  # V
    n_positions: int = 1024  # the window: the longest sequence that has position embeddings
    n_embd: int = 768  # C
    n_layer: int = 12  # L
    n_head: int = 12  # H
    n_inner: int | None = None  # width of the MLP; None means 4 C
    layer_norm_epsilon: float = 1e-5
    activation_function: str = "gelu_new"
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True  # the head is the token embedding, transposed
    bos_token_id: int | list[int] | None = 50256
    eos_token_id: int | list[int] | None = 50256

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"):
            value = getattr(self, name)
            if value is None and name == "n_inner":
                continue
            largest = 10_000 if name == "n_layer" else 2**31 - 1  # far beyond any model, and no table grows too long
            if type(value) is not int or not 1 <= value <= largest:
                raise ValueError(f"{name} is {value!r}; it must be a whole number from 1 to {largest:,}")
        for name in ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "tie_word_embeddings"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be true or false")
        epsilon = self.layer_norm_epsilon
        if type(epsilon) is not float or not 0 < epsilon < math.inf:
            raise ValueError(f"layer_norm_epsilon is {epsilon!r}; it must be a number above 0, such as 1e-5")
        if self.activation_function not in ACTIVATIONS:
            raise ValueError(f"activation_function is {self.activation_function!r}; known are {', '.join(ACTIVATIONS)}")
        for name in ("bos_token_id", "eos_token_id"):
            value = getattr(self, name)
            if any(type(token) not in (int, type(None)) for token in (value if isinstance(value, list) else [value])):
                raise ValueError(f"{name} is {value!r}; it must be a token id, a list of them, or null")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} cannot be divided among n_head {self.n_head} heads of equal width")

    @classmethod
    def preset(cls, name: str) -> GPT2Config:
        """The config of a released size: gpt2, gpt2-medium, gpt2-large or gpt2-xl. ValueError for other names."""
        if name not in RELEASED_SIZES:
            raise ValueError(f"there is no preset {name!r}; presets are {', '.join(RELEASED_SIZES)}")
        n_layer, n_head, n_embd = RELEASED_SIZES[name]
        return cls(n_layer=n_layer, n_head=n_head, n_embd=n_embd)

    @classmethod
    def from_json(cls, path: str | Path) -> GPT2Config:
        """Read Hugging Face's `config.json`. Missing keys take the defaults; keys that change no result are skipped.

        Raises FileNotFoundError, and ValueError for a file that is not JSON or describes no GPT-2.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not JSON ({error}); download it again") from None
        model_type = values.get("model_type", "gpt2") if isinstance(values, dict) else None
        if model_type != "gpt2":
            raise ValueError(f"{path} describes no GPT-2: its model_type is {model_type!r}, not 'gpt2'")
        values = {ALIASES.get(name, name): value for name, value in values.items()}
        fields = {field.name for field in dataclasses.fields(cls)}
        try:
            return cls(**{name: value for name, value in values.items() if name in fields})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @property
    def inner_size(self) -> int:
        """Width of the MLP: n_inner, or 4 C where the checkpoint leaves it open."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    def attention_scale(self, layer: int) -> float:
        """What attention scores are multiplied by: 1/√D, times 1/(layer + 1) where the checkpoint asks for it."""
        scale = 1 / math.sqrt(self.n_embd // self.n_head) if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale

    def block_shapes(self) -> dict[str, Shape]:
        """The parameters of one block, name → shape. Matrices are (in, out): `x @ weight + bias`."""
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
        """Every parameter of the model in the order of the forward pass, name → shape."""
        V, P, C = self.vocab_size, self.n_positions, self.n_embd
        shapes: dict[str, Shape] = {"wte.weight": (V, C), "wpe.weight": (P, C)}
        for layer in range(self.n_layer):
            shapes |= {f"h.{layer}.{name}": shape for name, shape in self.block_shapes().items()}
        shapes |= {"ln_f.weight": (C,), "ln_f.bias": (C,)}
        if not self.tie_word_embeddings:
            shapes["lm_head.weight"] = (V, C)
        return shapes

    def num_parameters(self) -> int:
        """How many numbers the model has learned. A tied head counts once, as the embedding that it is."""
        return sum(math.prod(shape) for shape in self.parameter_shapes().values())
