"""safetensors files -> the weights dict, and back; every name and shape is checked against the config."""

from __future__ import annotations

import errno
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import DTypeLike

from .config import GPT2Config

Weights = dict[str, np.ndarray]

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"

STORED_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}

# The causal mask as PyTorch modules once saved it, one a layer. Not attn.c_attn.bias, which is a parameter.
MASK_BUFFER = re.compile(r"h\.\d+\.attn\.(masked_)?bias")


def load_weights(folder: str | Path, dtype: DTypeLike = np.float32) -> Weights:
    """The weights of a model folder, name -> array, in Hugging Face's names without the "transformer." prefix.

    Reads `model.safetensors`, or the shards that `model.safetensors.index.json` lists. Tensors stored as `dtype`
    (float32 or float64) are read-only views of the memory-mapped file, others are converted. Raises FileNotFoundError
    for a missing file, and ValueError for one that is damaged or does not fit `config.json`: the message then lists
    every name that is missing, unexpected or misshaped.
    """
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype is {dtype}; weights are computed with in float32 or float64")
    return {name: as_dtype(tensor, dtype) for name, tensor in read_tensors(Path(folder)).items()}


def read_tensors(folder: Path) -> Weights:
    """The tensors of a model folder as they are stored, checked."""
    config = GPT2Config.from_json(folder / "config.json")
    tensors: Weights = {}
    for path in weight_files(folder):
        for name, tensor in map_tensors(path):
            name = name.removeprefix("transformer.")
            if name in tensors:
                raise ValueError(f"{folder}: {name} is there twice")
            tensors[name] = tensor
    if config.tie_word_embeddings and "lm_head.weight" in tensors and has_copied_head(tensors):
        del tensors["lm_head.weight"]
    check_names_and_shapes(tensors, config, folder)
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: the one, or all that the index names."""
    if (folder / FILE).exists():
        return [folder / FILE]
    if (folder / INDEX).exists():
        return [folder / name for name in shard_names(folder / INDEX)]
    raise FileNotFoundError(
        f"{folder} has neither {FILE} nor {INDEX}; a checkpoint in another format must be saved as safetensors first"
    )


def shard_names(index: Path) -> list[str]:
    """The file names in a shard index. Raises ValueError for an index that is damaged or points outside its folder."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if not names or any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
            raise ValueError(f"it names the files {names}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is no index of safetensors shards ({error}); download it again") from None
    return names


def map_tensors(path: Path, dtypes: Mapping[str, str] = STORED_DTYPES) -> Iterable[tuple[str, np.ndarray]]:
    """Memory-map a safetensors file and yield (name, view) for its tensors. BF16 comes as its raw 16 bits.

    The format: header length (u64, little-endian), header (JSON: name -> dtype, shape, data_offsets), data. The library
    has checked all of it, file size included, before a byte is mapped.
    """
    try:
        with safetensors.safe_open(path, framework="np"):
            pass
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); delete it and download it again") from None
    data = np.memmap(path, np.uint8, mode="r").view(np.ndarray)
    header_end = 8 + int.from_bytes(data[:8].tobytes(), "little")
    header = json.loads(data[8:header_end].tobytes())
    for name, entry in header.items():
        if name == "__metadata__" or MASK_BUFFER.fullmatch(name.removeprefix("transformer.")):
            continue
        if entry["dtype"] not in dtypes:
            raise ValueError(f"{path}: {name} is stored as {entry['dtype']}; known are {', '.join(dtypes)}")
        start, end = (header_end + offset for offset in entry["data_offsets"])
        yield name, data[start:end].view(dtypes[entry["dtype"]]).reshape(entry["shape"])


def as_dtype(tensor: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The tensor in `dtype`, as it is where it can be. BF16 is the upper half of a float32."""
    if tensor.dtype == np.uint16:
        tensor = (tensor.astype(np.uint32) << 16).view(np.float32)
    return np.require(tensor, dtype, "A")  # unaligned, as a header of odd length makes them, products would be slow


def has_copied_head(tensors: Weights) -> bool:
    """Whether the head is the embedding saved a second time. One that differs is kept, whatever the config says."""
    embedding = tensors.get("wte.weight")
    return embedding is not None and np.array_equal(tensors["lm_head.weight"], embedding)


def check_names_and_shapes(tensors: Weights, config: GPT2Config, folder: Path) -> None:
    """Raise one ValueError that lists all that is missing, unexpected and misshaped."""
    if config.n_layer > len(tensors):  # one line instead of thousands of names
        raise ValueError(f"{folder}: config.json says {config.n_layer} layers, the file holds {len(tensors)} tensors")
    expected = config.parameter_shapes()
    if "lm_head.weight" in tensors:
        expected["lm_head.weight"] = (config.vocab_size, config.n_embd)
    problems = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [name for name in tensors if name not in expected],
        "misshaped": [
            f"{name} is {tensors[name].shape}, not {shape}"
            for name, shape in expected.items()
            if name in tensors and tensors[name].shape != shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{len(names)} {kind}: {', '.join(names)}" for kind, names in problems.items() if names)
        raise ValueError(f"{folder}: the tensors do not fit config.json: {listed}")


def save_weights(path: Path, weights: Weights) -> None:
    """Write one safetensors file in the layout of transformers' GPT2LMHeadModel."""
    tensors = {name if name == "lm_head.weight" else f"transformer.{name}": array for name, array in weights.items()}
    save_tensors(path, tensors, {"format": "pt"})


def save_tensors(path: Path, tensors: Weights, metadata: dict[str, str]) -> None:
    """Write one safetensors file. Raises OSError where that is not possible."""
    path.touch()
    mode = path.stat().st_mode  # safetensors would leave the file to its owner alone
    try:
        contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        safetensors.numpy.save_file(contiguous, path, metadata)
    except safetensors.SafetensorError as error:
        raise OSError(errno.EIO, f"cannot write: {error}", str(path)) from None
    path.chmod(mode)


def init_weights(config: GPT2Config, rng: np.random.Generator) -> Weights:
    """GPT-2's initialisation, float32: N(0, 0.02²) for matrices, the identity for layer norms, 0 for biases.

    The two projections that add to the residual stream get 1/√(2L) of that, because 2L of them add up: as the paper has
    it (Radford et al. 2019, section 2.3) and Hugging Face does it; its released code scales nothing, and wpe by 0.01.
    """
    weights: Weights = {}
    for name, shape in config.parameter_shapes().items():
        if name.endswith(".bias"):
            weights[name] = np.zeros(shape, np.float32)
        elif len(shape) == 1:
            weights[name] = np.ones(shape, np.float32)
        else:
            std = 0.02 / math.sqrt(2 * config.n_layer) if name.endswith("c_proj.weight") else 0.02
            weights[name] = std * rng.standard_normal(shape, np.float32)
    return weights
