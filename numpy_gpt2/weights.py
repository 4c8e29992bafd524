"""Files of a model -> the weights dict, and back. Names and shapes are checked against the config.

Also GPT-2's initialization, `init_weights`, which training starts from.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import DTypeLike

from .config import GPT2Config
from .files import files_of
from .unsupported import OTHER_WEIGHTS, found_instead

Weights = dict[str, np.ndarray]

FILE = "model.safetensors"
INDEX = f"{FILE}.index.json"
PICKLED_FILE = "pytorch_model.bin"
WEIGHT_FILES = (FILE, INDEX, PICKLED_FILE, f"{PICKLED_FILE}.index.json")  # the first that exists is read

LONGEST_HEADER = 1 << 20  # bytes that `check_start` waits for; the header of gpt2-xl has 1 << 16

WRITTEN_TOGETHER = 1 << 24  # bytes

STORED_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}

# The causal mask of each layer, which old checkpoints contain. attn.c_attn.bias is not a mask but a parameter.
MASK_BUFFER = re.compile(r"h\.\d+\.attn\.(masked_)?bias")


def load_weights(folder: str | Path, dtype: DTypeLike = np.float32) -> Weights:
    """The weights of a model folder: name -> array. Names are Hugging Face's without the prefix "transformer.".

    Reads the first of `WEIGHT_FILES` that exists. An index lists shards. `dtype` is float32 or float64.
    Tensors that are stored in this dtype become read-only views of the memory-mapped file. The others are converted.

    Raises FileNotFoundError for a missing file, and ValueError if a file is damaged or does not fit `config.json`. The
    message lists missing, unexpected and misshaped tensors.
    """
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype is {dtype}; it must be float32 or float64")
    return {name: as_dtype(tensor, dtype) for name, tensor in read_tensors(Path(folder)).items()}


def read_tensors(folder: Path) -> Weights:
    """The tensors of a model folder in their stored dtypes, with names and shapes checked."""
    config = GPT2Config.from_json(folder / "config.json")
    tensors: Weights = {}
    for path in weight_files(folder):
        for name, tensor in map_pickled(path) if path.suffix == ".bin" else map_tensors(path):
            name = name.removeprefix("transformer.")
            if not name.isprintable():
                raise ValueError(f"{path} has a tensor with the name {name!r:.100}; it must be printable")
            if name in tensors:
                raise ValueError(f"{folder} has {name:.100} twice; it must be there once")
            tensors[name] = tensor
    if config.tie_word_embeddings and "lm_head.weight" in tensors and has_copied_head(tensors):
        del tensors["lm_head.weight"]
    check_names_and_shapes(tensors, config, folder)
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights of a model folder: a single file, or all shards of an index."""
    files = files_of(folder)
    if names := weight_names(files):
        return [folder / name for name in names if not name.endswith(".json")]
    raise FileNotFoundError(no_weights(folder, files))


def weight_names(files: Mapping[str, Path]) -> list[str]:
    """The files with the weights of a model that has these files: the first of `WEIGHT_FILES`, and all its shards."""
    first = [name for name in WEIGHT_FILES if name in files][:1]
    return first + [shard for name in first if name.endswith(".json") for shard in shard_names(files[name])]


def no_weights(place: object, names: Iterable[str]) -> str:
    """The message for a model without weights that can be read. `names` are those of its files."""
    other = found_instead(names, OTHER_WEIGHTS)
    problem = f"has no weights that can be read{other}" if other else "has no weights"
    advice = ", as written by save_pretrained of transformers" if other else ""
    return f"{place} {problem}; it must have one of {', '.join(WEIGHT_FILES)}{advice}"


def shard_names(index: Path) -> list[str]:
    """The file names in a shard index. Raises ValueError if it is damaged or names a file outside its folder."""
    suffix = "bin" if index.name.startswith(PICKLED_FILE) else "safetensors"
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if not names or any(Path(name).name != name or not name.endswith(f".{suffix}") for name in names):
            raise ValueError(f"it lists the files {names}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is not an index of {suffix} shards ({error}); download it again") from None
    return names


def map_tensors(path: Path, dtypes: Mapping[str, str] = STORED_DTYPES) -> Iterable[tuple[str, np.ndarray]]:
    """Memory-map a safetensors file and yield (name, view) for each tensor. NumPy has no BF16, so BF16 becomes uint16.

    The file holds the header's length (8 bytes, little-endian), the header (JSON: name -> dtype, shape, data_offsets)
    and the data. The safetensors library checks the header and the size of the file first.
    """
    try:
        with safetensors.safe_open(path, framework="np"):
            pass
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is not a complete safetensors file ({error}); delete it and download it again"
        ) from None
    data = np.memmap(path, np.uint8, mode="r").view(np.ndarray)
    header_end = 8 + int.from_bytes(data[:8].tobytes(), "little")
    for name, entry in stored_tensors(json.loads(data[8:header_end].tobytes()), path, dtypes):
        start, end = (header_end + offset for offset in entry["data_offsets"])
        yield name, data[start:end].view(dtypes[entry["dtype"]]).reshape(entry["shape"])


def stored_tensors(
    header: dict[str, Any], path: Path, dtypes: Mapping[str, str] = STORED_DTYPES
) -> Iterable[tuple[str, dict[str, Any]]]:
    """The entries of a safetensors header, without masks. Raises ValueError for a dtype that is not in `dtypes`."""
    for name, entry in header.items():
        if name == "__metadata__" or is_mask(name):
            continue
        if entry["dtype"] not in dtypes:
            raise ValueError(
                f"{path}: {name:.100} is stored as {entry['dtype']}; it must be one of {', '.join(dtypes)}, so for"
                " quantized weights, use the model from before its quantization"
            )
        yield name, entry


def check_start(path: Path) -> bool:
    """Check the dtypes of a safetensors file as soon as its header is there. Returns False until then."""
    with open(path, "rb") as file:
        size = min(int.from_bytes(file.read(8), "little"), LONGEST_HEADER)
        data = file.read(size)
    if len(data) < size:
        return False
    try:
        header = json.loads(data)
    except (ValueError, RecursionError):
        return True  # the complete file is checked when it is loaded
    with suppress(AttributeError, LookupError, TypeError):
        list(stored_tensors(header, path))
    return True


def map_pickled(path: Path) -> Iterable[tuple[str, np.ndarray]]:
    """The same for a file of `torch.save`."""
    from .pickled import read_pickled  # zipfile and pickletools take 30 ms to import

    return read_pickled(path, STORED_DTYPES, is_mask).items()


def is_mask(name: str) -> bool:
    """Whether a tensor is a causal mask and not a parameter."""
    return MASK_BUFFER.fullmatch(name.removeprefix("transformer.")) is not None


def as_dtype(tensor: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The tensor in `dtype`, without a copy if possible. uint16 stands for BF16, the upper half of a float32."""
    if tensor.dtype == np.uint16:
        tensor = (tensor.astype(np.uint32) << 16).view(np.float32)
    return np.require(tensor, dtype, "A")  # A: aligned; products with unaligned arrays are slow


def has_copied_head(tensors: Weights) -> bool:
    """Whether the head is a copy of the embedding. A head that differs is used even if the config says it is tied."""
    embedding = tensors.get("wte.weight")
    return embedding is not None and np.array_equal(tensors["lm_head.weight"], embedding)


def check_names_and_shapes(tensors: Weights, config: GPT2Config, folder: Path) -> None:
    """Raise one ValueError that counts the missing, unexpected and misshaped tensors, and lists the first of each."""
    if config.n_layer > len(tensors):  # do not list thousands of names
        raise ValueError(
            f"{folder}: n_layer is {config.n_layer}; it must be at most the number of tensors, {len(tensors)}"
        )
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
        listed = "; ".join(f"{len(names)} {kind}: {first_of(names)}" for kind, names in problems.items() if names)
        raise ValueError(f"{folder}: the tensors do not fit config.json: {listed}")


def first_of(names: list[str], n: int = 5) -> str:
    """The first n names in a list, cut to 100 characters each.

    >>> first_of(["a", "b", "c", "d"], 2)
    'a, b, …'
    """
    return ", ".join([f"{name:.100}" for name in names[:n]] + ["…"] * (len(names) > n))


def save_weights(path: Path, weights: Weights) -> None:
    """Write one safetensors file with the names that transformers' GPT2LMHeadModel uses."""
    tensors = {name if name == "lm_head.weight" else f"transformer.{name}": array for name, array in weights.items()}
    save_tensors(path, tensors, {"format": "pt"})


def save_tensors(path: Path, tensors: Weights, metadata: dict[str, str]) -> None:
    """Write one safetensors file; `map_tensors` explains the format. Raises OSError if it cannot be written.

    The writer of the library safetensors copies all arrays first, and cannot be interrupted. This one copies nothing,
    and Ctrl-C has an effect after each block. Larger numbers come first, so all arrays are aligned.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    names, end = sorted(arrays, key=lambda name: -arrays[name].itemsize), 0
    for name in names:
        array = arrays[name]
        start, end = end, end + array.nbytes
        dtype = {"f": "F", "i": "I", "u": "U"}[array.dtype.kind] + str(8 * array.itemsize)
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    try:
        path.unlink(missing_ok=True)  # the arrays may be memory maps of this file
        with open(path, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                data = np.asarray(arrays[name], arrays[name].dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
                for start in range(0, len(data), WRITTEN_TOGETHER):
                    file.write(data[start : start + WRITTEN_TOGETHER].data)
    except OSError as error:
        error.filename = str(path)
        raise


def init_weights(config: GPT2Config, rng: np.random.Generator) -> Weights:
    """GPT-2's initialization in float32: matrices from N(0, 0.02²), layer-norm weights 1, all biases 0.

    The matrices attn.c_proj and mlp.c_proj are divided by √(2L). Each block adds the outputs of these two projections
    to the residual stream. L blocks add 2L terms. At the start of training, the terms are nearly independent, and the
    variances of independent terms add. So the standard deviation of the sum is √(2L) times that of one term. The
    division cancels this factor: the sum starts equally small in deep and in shallow models.

    Sources: Radford et al. 2019, section 2.3, and Hugging Face's code. OpenAI's released code does not divide, and
    draws wpe from N(0, 0.01²).

    >>> config = GPT2Config(vocab_size=100, n_positions=10, n_embd=64, n_layer=8, n_head=4)
    >>> weights = init_weights(config, np.random.default_rng(0))
    >>> print(f"{weights['h.0.attn.c_attn.weight'].std():.3f}")
    0.020
    >>> print(f"{weights['h.0.attn.c_proj.weight'].std():.3f}")  # 0.02 / √(2 · 8)
    0.005
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
