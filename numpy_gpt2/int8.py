"""int8 weights: a model takes a quarter of the memory, and `x @ weight` works as before.

Each output channel n of a matrix has its own scale. Its weights are stored as integers, in units of that scale:

    W[:, n] ≈ scale[n] · q[n],    scale[n] = max |W[:, n]| / 127,    q[n] = round(W[:, n] / scale[n]) in −127 … 127

This is symmetric vector-wise quantization (Dettmers et al. 2022, "LLM.int8()", section 2.1). It is applied to the
weights only: activations stay float32. For each product, blocks of int8 weights are converted to float32 in a
cache-sized buffer. Decoding one token reads a quarter of the bytes, and the conversion takes most of the time.
"""

from __future__ import annotations

import itertools
import json
import queue
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import DTypeLike

from .config import GPT2Config
from .console import progress_bar
from .files import staged_writes
from .hub import own_folder
from .model import output_head
from .threads import active_limits, single_threaded_products, thread_count
from .weights import (
    Weights,
    as_dtype,
    check_names_and_shapes,
    map_tensors,
    read_tensors,
    save_tensors,
    weight_files,
)

FILE = "model.int8.safetensors"
SCALES = ".scales"  # the scales of the matrix "name" are the tensor "name.scales"

BLOCK = 3 << 19  # weights that are converted to float32 together; measured: blocks of 1 << 17 are 5 to 20 % slower

INT8 = {"I8": "i1", "F32": "<f4"}

TABLES = ("wte.weight", "lm_head.weight")  # (V, C): a row for each output channel. Other matrices have a column.

Blocks = list[tuple[slice, np.ndarray]]  # each block of rows: its slice, and its values


class Int8Matrix:
    """An (N, C) matrix in int8 with a scale for each row. Indexing looks up rows; `.T` is for products.

    `np.asarray` converts the whole matrix to float32. A product is divided among `n_threads` threads.
    """

    __array_ufunc__ = None  # makes NumPy leave `x @ matrix` to `__rmatmul__`
    dtype, ndim = np.dtype(np.float32), 2

    def __init__(self, values: np.ndarray, scales: np.ndarray, n_threads: int = 1, block_size: int = BLOCK) -> None:
        self.values, self.scales, self.shape = values.view(), scales, values.shape
        self.values.flags.writeable = False  # else a block that a buffer holds could become out of date
        self.T = Int8Transpose(self, n_threads, block_size)

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

    def __init__(self, matrix: Int8Matrix, n_threads: int, block_size: int) -> None:
        self.T, self.shape = matrix, matrix.shape[::-1]
        N = len(matrix.values)
        ends = [N * i // n_threads for i in range(n_threads + 1)]
        self.parts = [row_blocks(matrix.values, *rows, block_size) for rows in itertools.pairwise(ends)]
        self.next = self  # the matrix that the forward pass uses after this one; `load_int8` sets it

    def __getitem__(self, rows: Any) -> np.ndarray:
        return np.asarray(self)[rows]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.T, dtype).T

    def __rmatmul__(self, x: np.ndarray) -> np.ndarray:
        C, N = self.shape
        rows = x.reshape(-1, C)
        y = np.empty((len(rows), N), np.result_type(x, self.dtype))
        multiply(rows, self, y)
        y *= self.T.scales
        return y.reshape(*x.shape[:-1], N)


def row_blocks(values: np.ndarray, start: int, stop: int, block_size: int = BLOCK) -> Blocks:
    """Split rows start … stop into blocks of about `block_size` weights: pairs of a slice and its rows.

    >>> [rows for rows, _ in row_blocks(np.zeros((9, 10), np.int8), 2, 9, block_size=30)]
    [slice(2, 5, None), slice(5, 8, None), slice(8, 9, None)]
    """
    n = max(1, block_size // values.shape[1])
    slices = [slice(i, min(i + n, stop)) for i in range(start, stop, n)]
    return [(rows, values[rows]) for rows in slices]


class FloatBuffer(threading.local):
    """A float32 buffer for each thread, and the block of int8 weights that was converted into it last."""

    def __init__(self) -> None:
        self.floats = np.empty(BLOCK, np.float32)
        self.block: np.ndarray | None = None

    def convert(self, block: np.ndarray) -> np.ndarray:
        """Return the block in float32. The array is valid until the next call in this thread."""
        if block is not self.block:
            self.block = None
            if block.size > self.floats.size:
                self.floats = np.empty(block.size, np.float32)
            np.copyto(self.floats[: block.size], block.reshape(-1))
            self.block = block
        return self.floats[: block.size].reshape(block.shape)


buffer = FloatBuffer()


def multiply_blocks(x: np.ndarray, blocks: Blocks, y: np.ndarray) -> None:
    """y[:, rows] = x · blockᵀ for each block, without the scales."""
    for rows, block in blocks:
        y[:, rows] = np.dot(x, buffer.convert(block).T)  # `np.dot` always releases the GIL; `@` may not


class Worker(threading.Thread):
    """A thread that multiplies its part of a matrix, and then converts its first block of the next matrix."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.tasks: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self.start()

    def run(self) -> None:
        while True:
            self.work(*self.tasks.get())

    def work(
        self,
        x: np.ndarray,
        blocks: Blocks,
        y: np.ndarray,
        next_blocks: Blocks,
        done: queue.SimpleQueue[BaseException | None],
    ) -> None:
        """Do one task. `done` receives None or the error, which `multiply` then raises."""
        try:
            multiply_blocks(x, blocks, y)
            done.put(None)
            for _, block in next_blocks[:1]:  # measured: a token takes 13 % longer without this
                buffer.convert(block)
        except BaseException as error:
            done.put(error)


workers: list[Worker] = []
workers_lock = threading.Lock()


def start_workers(n: int) -> bool:
    """Start workers until there are n. Returns False if the system has no threads or memory left."""
    if workers and not workers[0].is_alive():  # this process was forked: it has the objects but not the threads
        workers.clear()
    with suppress(RuntimeError):  # can't start new thread
        while len(workers) < n:
            workers.append(Worker())
    return len(workers) >= n


def multiply(x: np.ndarray, matrix: Int8Transpose, y: np.ndarray) -> None:
    """y = x @ matrix without its scales. This thread computes one part of the matrix and the workers the others.

    This thread computes all parts if the workers are busy or cannot be started. It also does so inside
    `single_threaded_products`, because there the cores already have other work.
    """
    first, *others = matrix.parts
    is_free = bool(others) and not active_limits and workers_lock.acquire(blocking=False)
    try:
        if not is_free or not start_workers(len(others)):
            for blocks in matrix.parts:
                multiply_blocks(x, blocks, y)
            return
        done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        with single_threaded_products():
            for worker, blocks, next_blocks in zip(workers, others, matrix.next.parts[1:], strict=False):
                worker.tasks.put((x, blocks, y, next_blocks, done))
            multiply_blocks(x, first, y)
            for _ in others:
                if error := done.get():
                    raise error
    finally:
        if is_free:
            workers_lock.release()


def load_int8(folder: str | Path) -> Weights:
    """The weights of a model folder. Each matrix except wpe is an `Int8Matrix` or its transpose; the rest is float32.

    The first call quantizes the matrices and saves them as `model.int8.safetensors` in `own_folder(folder)`. The file
    is made again when the model's own files have changed, or when its tensors cannot be those of the model. Raises the
    same errors as `load_weights`.
    """
    folder = Path(folder)
    saved = own_folder(folder) / FILE
    config = GPT2Config.from_json(folder / "config.json")
    paths = [folder / "config.json", *weight_files(folder)]
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    commit = [] if saved.parent == folder else [folder.resolve().name]
    metadata = {"int8, first format, of": json.dumps([*commit, *files])}
    tensors = read_saved(saved, metadata, config)
    if tensors is None:
        tensors = quantize_all(read_tensors(folder))
        try:
            with staged_writes(saved.parent) as staging:
                save_tensors(staging / FILE, tensors, metadata)
            tensors = dict(map_tensors(saved, INT8))
        except OSError as error:
            warnings.warn(f"the int8 weights are not saved, so each start computes them again: {error}", stacklevel=2)

    n_threads = thread_count()
    weights: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if name + SCALES in tensors:
            matrix = Int8Matrix(tensor, tensors[name + SCALES], n_threads)
            weights[name] = matrix if name in TABLES else matrix.T
        elif not name.endswith(SCALES):
            weights[name] = tensor
    check_names_and_shapes(weights, config, folder)
    head = output_head(weights).T
    matrices = [weights[name] for name in config.parameter_shapes() if isinstance(weights[name], Int8Transpose)]
    for matrix, next_matrix in itertools.pairwise([head, *matrices, head]):  # the order of the forward pass
        matrix.next = next_matrix
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
    expected: dict[str, tuple[Any, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        if is_quantized(name, shape):
            N, C = shape if name in TABLES else shape[::-1]
            expected |= {name: (np.int8, (N, C)), name + SCALES: (np.float32, (N,))}
        else:
            expected[name] = (np.float32, shape)
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
        if is_quantized(name, tensor.shape):
            quantized[name], quantized[name + SCALES] = quantize(tensor if name in TABLES else tensor.T, name)
        else:
            quantized[name] = tensor
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
    values = np.empty(matrix.shape, np.int8)
    for rows, block in row_blocks(matrix, 0, len(matrix)):
        values[rows] = np.rint(block / scales[rows, None])
    return values, scales
