"""int8 weights: a model takes a quarter of the memory, and `x @ weight` works as before.

Each output channel n of a matrix has its own scale. Its weights are stored as integers, in units of that scale:

    W[:, n] ≈ scale[n] · q[n],    scale[n] = max |W[:, n]| / 127,    q[n] = round(W[:, n] / scale[n]) in −127 … 127

This is symmetric vector-wise quantization (Dettmers et al. 2022, "LLM.int8()", section 2.1). It is applied to the
weights only: activations stay float32. For each product, blocks of int8 weights are converted to float32 in a
cache-sized buffer. Decoding one token reads a quarter of the bytes, and the conversion takes most of the time.
"""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import DTypeLike

from .config import GPT2Config
from .console import progress_bar
from .files import staged_writes
from .hub import own_folder
from .threads import run_in_threads
from .weights import Weights, as_dtype, check_names_and_shapes, map_tensors, read_tensors, save_tensors, weight_files

FILE = "model.int8.safetensors"
SCALES = ".scales"  # the scales of the matrix "name" are the tensor "name.scales"
INT8 = {"I8": "i1", "F32": "<f4"}
TABLES = ("wte.weight", "lm_head.weight")  # (V, C): a row for each output channel. Other matrices have a column.
BLOCK = 1 << 18  # weights that are converted together: 1 MB in float32. From 460,000 on, OpenBLAS uses two threads.
SHARED = 1 << 19  # weights per thread: with fewer, handing over the work takes as long. For many rows, BLOCK is enough.
FEW_ROWS = 4  # up to here, a product for each row is faster. Products of more rows are fastest with 8 blocks together.


class Int8Matrix:
    """An (N, C) matrix in int8 with a scale for each row. `np.asarray` converts all of it to float32."""

    __array_ufunc__ = None  # makes NumPy leave `x @ matrix` to `__rmatmul__`
    dtype, ndim = np.dtype(np.float32), 2

    def __init__(self, values: np.ndarray, scales: np.ndarray) -> None:
        self.values, self.scales, self.shape = values, scales, values.shape
        self.T = Int8Transpose(self)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self.values[rows] * self.scales[rows][..., None]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def __rmatmul__(self, x: np.ndarray) -> np.ndarray:
        return x @ np.asarray(self)


class Int8Transpose:
    """The transpose of an `Int8Matrix`, (C, N): activations are multiplied with it, `x @ transpose`."""

    __array_ufunc__ = None
    dtype, ndim = np.dtype(np.float32), 2

    def __init__(self, matrix: Int8Matrix) -> None:
        self.T, self.shape = matrix, matrix.shape[::-1]

    def __getitem__(self, rows: Any) -> np.ndarray:
        return np.asarray(self)[rows]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.T, dtype).T

    def __rmatmul__(self, x: np.ndarray) -> np.ndarray:
        C, N = self.shape
        few = x.size <= FEW_ROWS * C
        batches = x.reshape(-1, 1, C) if few else x.reshape(1, -1, C)
        y = np.empty((*batches.shape[:2], N), np.result_type(x, self.dtype))
        n = math.ceil(N / (2 * math.ceil(N * C / (2 * BLOCK if few else 8 * BLOCK))))  # an even number of equal blocks
        blocks = iter([slice(start, start + n) for start in range(0, N, n)])  # each thread takes the next one

        def multiply_blocks() -> None:
            buffer = np.empty((n, C), np.float32)
            for block in blocks:
                floats = buffer[: len(self.T.values[block])]
                np.copyto(floats, self.T.values[block])
                for i, rows in enumerate(batches):
                    y[i, :, block] = np.dot(rows, floats.T)  # `np.dot` always releases the GIL; `@` may not

        run_in_threads(multiply_blocks, N * C // (SHARED if few else BLOCK), products_are_small=few)
        y *= self.T.scales
        return y.reshape(*x.shape[:-1], N)


def load_int8(folder: str | Path) -> Weights:
    """The weights of a model folder. Each matrix except wpe is an `Int8Matrix` or its transpose; the rest is float32.

    The first call quantizes the matrices and saves them in `own_folder(folder)`. The file is made again when the
    model's files have changed, or when its tensors cannot be those of the model. Raises the errors of `load_weights`.
    """
    folder, saved = Path(folder), own_folder(Path(folder)) / FILE
    config = GPT2Config.from_json(folder / "config.json")
    paths = [folder / "config.json", *weight_files(folder)]
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    commit = [] if saved.parent == folder else [folder.resolve().name]
    metadata = {"int8, first format, of": json.dumps([*commit, *files])}
    if (tensors := read_saved(saved, metadata, config)) is None:
        tensors = quantize_all(read_tensors(folder))
        try:
            with staged_writes(saved.parent) as staging:
                save_tensors(staging / FILE, tensors, metadata)
            tensors = dict(map_tensors(saved, INT8))
        except OSError as error:
            warnings.warn(f"the int8 weights are not saved, so each start computes them again: {error}", stacklevel=2)

    weights: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if name + SCALES in tensors:
            matrix = Int8Matrix(tensor, tensors[name + SCALES])
            weights[name] = matrix if name in TABLES else matrix.T
        elif not name.endswith(SCALES):
            weights[name] = tensor
    check_names_and_shapes(weights, config, folder)
    return weights


def read_saved(path: Path, metadata: dict[str, str], config: GPT2Config) -> Weights | None:
    """The tensors that an earlier call saved. None if there is no such file, or it is damaged or of another model."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            if file.metadata() != metadata:
                return None
        tensors = dict(map_tensors(path, INT8))
    except (OSError, ValueError, safetensors.SafetensorError):
        return None
    return tensors if can_be_quantized(tensors, config) else None


def can_be_quantized(tensors: Weights, config: GPT2Config) -> bool:
    """Whether `quantize_all` can give such tensors: names, dtypes, shapes, finite numbers, positive scales."""
    shapes = config.parameter_shapes()
    if "lm_head.weight" in tensors:  # also used if the config says that it is tied
        shapes["lm_head.weight"] = shapes["wte.weight"]
    expected: dict[str, tuple[Any, tuple[int, ...]]] = {name: (np.float32, shape) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        if is_quantized(name, shape):
            N, C = shape if name in TABLES else shape[::-1]
            expected |= {name: (np.int8, (N, C)), name + SCALES: (np.float32, (N,))}
    return {name: (tensor.dtype.type, tensor.shape) for name, tensor in tensors.items()} == expected and all(
        np.isfinite(tensor).all() and (tensor.min() > 0 or not name.endswith(SCALES))
        for name, tensor in tensors.items()
        if tensor.dtype == np.float32
    )


def is_quantized(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a parameter is stored in int8: every matrix except wpe."""
    return len(shape) == 2 and name != "wpe.weight"


def quantize_all(tensors: Weights) -> Weights:
    """Quantize the matrices: int8 values (N, C) and their scales. The other tensors become float32."""
    quantized: Weights = {}
    for name in progress_bar(iterable=tensors, desc="int8", unit="tensor", delay=1, leave=False):
        tensor = as_dtype(tensors[name], np.dtype(np.float32))
        quantized[name] = tensor
        if is_quantized(name, tensor.shape):
            quantized[name], quantized[name + SCALES] = quantize(tensor if name in TABLES else tensor.T, name)
    return quantized


def quantize(matrix: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """An (N, C) matrix -> its values in int8 and the scale of each row. A row of zeros gets the scale 1.

    Raises ValueError for NaN and infinity; the message contains `name`.

    >>> values, scales = quantize(np.array([[254, -130.6, 4], [0, 0, 0]], np.float32), "wte.weight")
    >>> scales  # 254 / 127 = 2
    array([2., 1.], dtype=float32)
    >>> values  # -130.6 / 2 = -65.3
    array([[127, -65,   2],
           [  0,   0,   0]], dtype=int8)
    """
    largest = np.maximum(matrix.max(axis=1), -matrix.min(axis=1))
    if not np.isfinite(largest).all():
        raise ValueError(f"{name} holds numbers that are not finite; the weights are damaged")
    scales = largest / 127
    scales[scales == 0] = 1
    return np.rint(matrix / scales[:, None], np.empty(matrix.shape, np.int8), casting="unsafe"), scales
