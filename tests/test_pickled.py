"""pickled.py: files of `torch.save` give the numbers that PyTorch saved, and a hostile file runs nothing."""

import json
import shutil
import sys
import tracemalloc
import zipfile
from contextlib import contextmanager, suppress

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from numpy_gpt2 import GPT2Config, forward, init_weights, load_weights
from numpy_gpt2.int8 import load_int8
from numpy_gpt2.pickled import ALLOWED, read_pickled
from numpy_gpt2.weights import STORED_DTYPES, is_mask, save_weights, weight_files

from .conftest import ROOT, run_cli
from .pickle_files import CALLS, GOOD, HOSTILE, PICKLES, Call, archive, legacy, named, over, state, tensor
from .reference.seeded import FOLDER, PICKLED_SIZES, PICKLED_TOKENS

CONFIG = GPT2Config(**PICKLED_SIZES)
REFERENCE = np.load(FOLDER / "pickles.npz")
FOLDERS = [key.removeprefix("logits ") for key in REFERENCE if key.startswith("logits ")]


def write_folder(folder, name):
    """Write one of the model folders that PyTorch saved."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(PICKLED_SIZES))
    for key in REFERENCE:
        if key.startswith(f"{name}/"):
            (folder / key.removeprefix(f"{name}/")).write_bytes(REFERENCE[key].tobytes())
    return folder


def reference_file(name):
    return REFERENCE[f"{name}/pytorch_model.bin"].tobytes()


def expected_weights(dtype):
    flat, weights = REFERENCE[f"weights torch.{dtype}"], {}
    for name, shape in sorted(CONFIG.parameter_shapes().items()):
        weights[name], flat = flat[: np.prod(shape)].reshape(shape), flat[np.prod(shape) :]
    assert flat.size == 0
    return weights


def read(path):
    return read_pickled(path, STORED_DTYPES, is_mask)


# Files that PyTorch wrote


@pytest.mark.parametrize("name", FOLDERS)
def test_weights_and_logits_are_those_of_pytorch(name, tmp_path):
    folder = write_folder(tmp_path, name)
    layout = name.split("-")[1]
    dtypes = {"f32": "float32", "f64": "float64", "transposed": "float32", "bf16": "bfloat16", "parameters": "bfloat16"}
    expected = expected_weights(dtypes.get(layout, "float16"))
    weights = load_weights(folder)
    assert weights.keys() == expected.keys()  # the head is tied, and masks are left out
    for key, array in expected.items():
        np.testing.assert_array_equal(weights[key], array, err_msg=key)
        assert weights[key].dtype == np.float32
        assert weights[key].flags.aligned
    logits = forward(np.array(PICKLED_TOKENS), load_weights(folder, np.float64), CONFIG)
    np.testing.assert_allclose(logits, REFERENCE[f"logits {name}"], rtol=0, atol=1e-12)


def mapped(array):
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array, np.memmap)


def test_arrays_are_read_only_views_of_the_mapped_file_and_tied_ones_are_the_same_view(tmp_path):
    for name in ("zip-f32", "legacy-f32"):
        arrays = read(write_folder(tmp_path, name) / "pytorch_model.bin")
        assert all(mapped(array) and not array.flags.writeable for array in arrays.values())
        assert np.shares_memory(arrays["lm_head.weight"], arrays["transformer.wte.weight"])
    weights = load_weights(write_folder(tmp_path, "zip-f32"))
    assert all(mapped(array) for array in weights.values())  # PyTorch aligns the storages in a zip archive


def test_safetensors_come_first_and_a_single_file_before_shards(tmp_path):
    folder = write_folder(tmp_path, "zip-sharded")
    shards = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    assert [path.name for path in weight_files(folder)] == shards
    write_folder(folder, "zip-f32")
    assert [path.name for path in weight_files(folder)] == ["pytorch_model.bin"]
    save_weights(folder / "model.safetensors", init_weights(CONFIG, np.random.default_rng(0)))
    assert [path.name for path in weight_files(folder)] == ["model.safetensors"]
    assert np.abs(load_weights(folder)["wte.weight"]).max() < 0.2  # N(0, 0.02²), not N(0, 0.5²)


@pytest.mark.parametrize("shard", ["../evil.bin", "/tmp/evil.bin", "evil.safetensors", "config.json", ""])
def test_an_index_names_only_bin_files_of_its_folder(shard, tmp_path):
    folder = write_folder(tmp_path, "zip-sharded")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"wte.weight": shard}}))
    with pytest.raises(ValueError, match="is not an index of bin shards"):
        load_weights(folder)


def test_int8_weights_are_made_again_when_the_file_changes(tmp_path):
    folder = write_folder(tmp_path, "zip-f32")
    first = np.asarray(load_int8(folder)["wte.weight"])
    assert (folder / "model.int8.safetensors").exists()
    np.testing.assert_allclose(first, expected_weights("float32")["wte.weight"], atol=0.02)
    write_folder(folder, "legacy-bf16")
    second = np.asarray(load_int8(folder)["wte.weight"])
    assert not np.array_equal(first, second)


# Files made by hand


@pytest.mark.parametrize("write", [archive, legacy])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (tensor(), [[0, 1, 2], [3, 4, 5]]),
        (tensor(0, (3, 2), (1, 3)), [[0, 3], [1, 4], [2, 5]]),
        (tensor(1, (2,), (4,)), [1, 5]),
        (tensor(5, (), ()), 5),
        (tensor(2, (2, 2), (0, 1)), [[2, 3], [2, 3]]),
        (tensor(1, (3, 2), (1, 1)), [[1, 2], [2, 3], [3, 4]]),
        (tensor(5, (1, 1), (1 << 62, 99)), [[5]]),  # the stride of a dimension of size 1 has no effect
        (tensor(6, (0, 5), (1 << 62, 1)), np.zeros((0, 5))),
        (named("torch._utils._rebuild_parameter") + b"(" + tensor(5, (1,), (1,)) + b"\x88NtR", [5]),
    ],
)
def test_offsets_and_strides_give_views(write, content, expected, tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(write(state(content)))
    (array,) = read(path).values()
    np.testing.assert_array_equal(array, np.array(expected, np.float32), strict=True)


@pytest.mark.parametrize("root", ["archive", "pytorch_model", "π 1"])
def test_the_folder_of_an_archive_may_have_any_name(root, tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(archive(state(tensor()), {"byteorder": "little", "version": "3\n", ".data/id": "1"}, root))
    assert read(path)["x"].sum() == 15


def test_an_archive_may_have_64_bit_lengths_and_offsets(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1)
    content = archive(state(tensor()))
    assert b"PK\6\6" in content
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    assert read(path)["x"].tolist() == [[0, 1, 2], [3, 4, 5]]


# Hostile files


audited = None


def record(event, arguments):
    if audited is not None:
        audited.append((event, *arguments))


sys.addaudithook(record)  # stays for the whole process


@contextmanager
def harmless(path, most_memory):
    """Nothing is imported, executed, or opened except `path`, and little memory is used."""
    global audited
    tracemalloc.start()
    audited = events = []
    try:
        yield
    finally:
        audited = None
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert {(event, str(first) if event == "open" else "") for event, first, *_ in events} <= {
            ("open", str(path)),
            ("mmap.__new__", ""),
        }
        assert peak < most_memory
        assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Where a test writes its file. The folder is the working directory, and all modules are imported."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.bin"
    for content in (GOOD, legacy(state(tensor()))):
        path.write_bytes(content)
        with harmless(path, 1 << 23):
            assert read(path)["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_runs_nothing_and_is_an_error(name, path):
    path.write_bytes(HOSTILE[name])
    with harmless(path, 10 << 20), pytest.raises(ValueError) as error:  # noqa: PT011
        read(path)
    message = str(error.value)
    assert message.startswith(f"{path} cannot be read as weights of PyTorch: ")
    assert message.isprintable()
    assert len(message) < 600


def test_there_are_many_hostile_files():
    assert len(CALLS) > 40
    assert len(HOSTILE) > 250


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_the_error_names_what_is_not_allowed(call, path):
    path.write_bytes(archive(call.pickled(2)))
    with pytest.raises(ValueError) as error:  # noqa: PT011
        read(path)
    assert str(error.value).endswith(
        f": it refers to {call.name!r}, which weights do not need; nothing in the file was run. To make a file that can"
        " be read, save model.state_dict()"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a new object", "its pickle has the operation NEWOBJ, which weights do not need"),
        ("wide tuples", "it holds an object of type tuple; it must hold a dict of tensors"),
        ("a pickle that is too long", "its pickle is 2,097,155 bytes long; it must be at most 1,048,576"),
        ("integers", "'x' is stored as U8; it must be one of F64, F32, F16, BF16"),
        ("a number among tensors", r"'x' is of type int; it must be a tensor, so save model\.state_dict\(\)"),
        ("a storage of two lengths", "the storage '0' has two lengths or dtypes"),
    ],
)
def test_the_error_says_what_is_wrong(name, message, path):
    path.write_bytes(archive(PICKLES[name]))
    with pytest.raises(ValueError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("module", "name", "argument"), [("collections", "OrderedDict", []), ("torch", "FloatStorage", 5)]
)
def test_a_call_with_other_arguments_is_refused_and_not_called_damaged(module, name, argument, path):
    path.write_bytes(archive(Call(module, name, argument).pickled(2)))
    with pytest.raises(ValueError, match=f"it calls '{module}.{name}' with arguments that weights do not need"):
        read(path)


def test_a_name_with_a_line_break_is_an_error(tmp_path):
    folder = write_folder(tmp_path, "zip-f32")
    (folder / "pytorch_model.bin").write_bytes(archive(state(tensor(), "x\nerror: y")))
    with pytest.raises(ValueError, match=r"has a tensor with the name 'x\\nerror: y'"):
        load_weights(folder)


def test_everything_that_is_allowed_is_inert():
    """No method of what a pickle can name or build could be called by a pickle: `unpickle` calls only functions."""
    functions = [value for value in ALLOWED.values() if callable(value)]
    assert all(type(function) is type(read) and function.__module__ == "numpy_gpt2.pickled" for function in functions)
    assert len(functions) == 4


@pytest.mark.parametrize("content", [GOOD, legacy(state(tensor()))], ids=["zip", "legacy"])
def test_a_file_that_is_cut_off_at_any_byte_is_an_error(content, path):
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match="cannot be read as weights of PyTorch"):
            read(path)


SEEDS = [GOOD, legacy(state(tensor())), reference_file("zip-state_dict"), reference_file("legacy-masks")]


@hypothesis.given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), min_size=1, max_size=5),
)
@hypothesis.settings(max_examples=200, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_damaged_bytes_raise_no_other_error(path, seed, changes):
    for place, value in changes:
        seed = over(int(place * len(seed)), value, seed)
    path.write_bytes(seed)
    with harmless(path, 10 << 20), suppress(ValueError, OSError):
        for array in read(path).values():
            array.tobytes()  # reads every number


def test_the_command_ends_with_one_line(tmp_path, tiny):
    folder = shutil.copytree(tiny, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(archive(CALLS[0].pickled(2)))
    result = run_cli("-m", folder, "the", cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.decode() == (
        f"error: {folder / 'pytorch_model.bin'} cannot be read as weights of PyTorch: it refers to 'os.system', which"
        " weights do not need; nothing in the file was run. To make a file that can be read, save model.state_dict()\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
