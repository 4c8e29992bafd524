"""The adapters of `--train lora:R` as files of the library peft, which loads them on top of the base model.

peft keeps the transposed matrices, as PyTorch's linear layers do: lora_A is (R, in) and lora_B is (out, R).
"""

from __future__ import annotations

import json
from pathlib import Path

from ..hub import is_on_hub, model_folder
from ..weights import Weights, map_tensors, save_tensors
from .trained import SCALE

ADAPTER = "adapter"  # the subfolder of a model's folder
FILE = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def peft_name(name: str) -> str:
    """The name of an adapter's matrix in peft.

    >>> peft_name("h.0.mlp.c_fc.weight.lora_A")
    'base_model.model.transformer.h.0.mlp.c_fc.lora_A.weight'
    """
    weight, _, letter = name.partition(".weight.")
    return f"base_model.model.transformer.{weight}.{letter}.weight"


def save_adapters(folder: Path, adapters: Weights, rank: int, base: str) -> None:
    """Write the adapters into a new folder. `base` is the model that was adapted, as `--init-from` names it."""
    folder.mkdir()
    description = {
        "base_model_name_or_path": base if is_on_hub(base) and not Path(base).is_dir() else base_path(base),
        "bias": "none",
        "fan_in_fan_out": True,
        "inference_mode": True,
        "lora_alpha": SCALE * rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": ["c_attn", "c_fc", "c_proj"],
        "task_type": "CAUSAL_LM",
    }
    (folder / CONFIG).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    tensors = {peft_name(name): array.T for name, array in adapters.items()}
    save_tensors(folder / FILE, tensors, {"format": "pt"})


def base_path(base: str) -> str:
    """The absolute path of a model on this computer."""
    return str(model_folder(base).resolve())


def load_adapters(folder: Path, names: list[str]) -> Weights:
    """Read the adapters with these names."""
    tensors = dict(map_tensors(folder / FILE))
    return {name: tensors[peft_name(name)].T for name in names}
