"""Write one small GPT-2 in every format of `torch.save`: `python -m tests.reference.make_pickles`.

The script writes pickles.npz into its own folder:

    <folder>/<file>     a file of a model folder, as bytes
    logits <folder>     what transformers computes for `PICKLED_TOKENS` after it has read the folder
    weights <dtype>     all parameters one after another, sorted by name, converted by PyTorch before they were saved
"""

import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from .seeded import FOLDER, PICKLED_SIZES, PICKLED_TOKENS

State = dict[str, torch.Tensor]


def transposed(state: State) -> State:
    """Every matrix is stored column by column, and every vector is a column of a matrix."""
    return {
        name: tensor.t().contiguous().t() if tensor.ndim == 2 else torch.stack([tensor, -tensor], 1)[:, 0]
        for name, tensor in state.items()
    }


def with_masks(state: State) -> State:
    """The mask buffers of old versions of transformers."""
    masks: State = {}
    for i, dtype in enumerate([torch.uint8, torch.bool]):
        masks[f"transformer.h.{i}.attn.bias"] = torch.tril(torch.ones(8, 8)).to(dtype).view(1, 1, 8, 8)
        masks[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    return masks | state


def as_parameters(state: State) -> State:
    return {name: torch.nn.Parameter(tensor) for name, tensor in state.items()}


def in_a_checkpoint(state: State) -> dict[str, Any]:
    """A checkpoint of a training run."""
    moments = {
        "state": {0: {"step": 3, "exp_avg": torch.ones(5)}},
        "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.99)}],
    }
    return {"epoch": 2, "done": False, "state_dict": state, "optimizer": moments}


LAYOUTS: dict[str, tuple[torch.dtype, Callable[[Any], Any]]] = {
    "f32": (torch.float32, lambda state: state),
    "f16": (torch.float16, lambda state: state),
    "bf16": (torch.bfloat16, lambda state: state),
    "f64": (torch.float64, lambda state: state),
    "transposed": (torch.float32, transposed),
    "masks": (torch.float16, with_masks),
    "parameters": (torch.bfloat16, as_parameters),
    "state_dict": (torch.float16, in_a_checkpoint),
    "sharded": (torch.float16, lambda state: state),
}


def write_shards(folder: Path, state: State, save: Callable[[Any, Path], None]) -> None:
    """Two shards with an index, as transformers 4 names them."""
    names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    weight_map = {name: names[i * 2 // len(state)] for i, name in enumerate(state)}
    for shard in names:
        save({name: tensor for name, tensor in state.items() if weight_map[name] == shard}, folder / shard)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def main() -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(**PICKLED_SIZES, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    arrays: dict[str, np.ndarray] = {}
    for format_ in ("zip", "legacy"):

        def save(value: Any, path: Path, is_zip: bool = format_ == "zip") -> None:
            torch.save(value, path, _use_new_zipfile_serialization=is_zip)

        for layout, (dtype, change) in LAYOUTS.items():
            name = f"{format_}-{layout}"
            stored = copy.deepcopy(model).to(dtype)
            state = stored.state_dict()  # the head and the embedding have one storage
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                config.save_pretrained(folder)
                if layout == "sharded":
                    write_shards(folder, state, save)
                else:
                    save(change(state), folder / "pytorch_model.bin")
                arrays |= {
                    f"{name}/{path.name}": np.frombuffer(path.read_bytes(), np.uint8)
                    for path in sorted(folder.glob("pytorch_model*"))
                }
                if layout == "state_dict":  # transformers does not unwrap it
                    save(state, folder / "pytorch_model.bin")
                read = transformers.GPT2LMHeadModel.from_pretrained(folder, use_safetensors=False, dtype=torch.float64)
            parameters = stored.transformer.state_dict()
            flat = torch.cat([parameters[key].flatten() for key in sorted(parameters)])
            arrays[f"weights {dtype}"] = flat.double().numpy().astype(np.float32)
            with torch.no_grad():
                arrays[f"logits {name}"] = read.eval()(torch.tensor([PICKLED_TOKENS])).logits[0].numpy()
    np.savez_compressed(FOLDER / "pickles.npz", **arrays)


if __name__ == "__main__":
    main()
