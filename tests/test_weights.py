"""Every layout of a checkpoint loads to the same numbers. A file that does not fit gives one error with all names."""

import json
import resource
import shutil

import numpy as np
import pytest
import safetensors.numpy

from numpy_gpt2 import GPT2Config, init_weights, load_weights
from numpy_gpt2.weights import save_tensors, save_weights

from .conftest import write_model


@pytest.fixture
def folder(tiny, tmp_path):
    """A copy of the tiny model that a test may change."""
    return shutil.copytree(tiny, tmp_path / "model")


def tensors_of(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def rewrite(folder, tensors, metadata=None):
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata)


def raw_file(path, dtypes, tensors):
    """Write a safetensors file byte by byte, for dtypes that NumPy lacks. `tensors`: name -> (shape, bytes)."""
    header, data = {}, b""
    for name, (shape, content) in tensors.items():
        header[name] = {"dtype": dtypes[name], "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def assert_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


def test_float32_tensors_are_views_of_the_mapped_file(folder):
    weights = load_weights(folder)
    expected = {name.removeprefix("transformer."): array for name, array in tensors_of(folder).items()}
    assert_equal(weights, expected)
    for name, array in weights.items():
        base = array
        while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
            base = base.base
        assert isinstance(base, np.memmap), f"{name} is a copy"
        assert array.dtype == np.float32
        assert not array.flags.writeable
        assert array.flags.aligned


def test_weights_load_as_float64_but_not_as_float16_or_int8(folder):
    weights = load_weights(folder, np.float64)
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float64)}
    assert_equal(weights, load_weights(folder))
    for dtype in (np.float16, np.int8):
        with pytest.raises(ValueError, match="float32 or float64"):
            load_weights(folder, dtype)


def bare(folder, tensors):
    rewrite(folder, {name.removeprefix("transformer."): array for name, array in tensors.items()})


def with_mask_buffers(folder, tensors):
    masks = {f"transformer.h.{i}.attn.bias": np.tri(63, dtype=bool)[None, None] for i in range(2)}
    masks |= {f"transformer.h.{i}.attn.masked_bias": np.array(-1e4, np.float32) for i in range(2)}
    rewrite(folder, {**masks, **tensors})


def with_a_copy_of_the_embedding_as_head(folder, tensors):
    rewrite(folder, {**tensors, "lm_head.weight": tensors["transformer.wte.weight"]})


def sharded(folder, tensors):
    (folder / "model.safetensors").unlink()
    weight_map = {name: f"model-0000{i % 3 + 1}-of-00003.safetensors" for i, name in enumerate(tensors)}
    for shard in set(weight_map.values()):
        part = {name: array for name, array in tensors.items() if weight_map[name] == shard}
        safetensors.numpy.save_file(part, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def as_float64(folder, tensors):
    rewrite(folder, {name: array.astype(np.float64) for name, array in tensors.items()})


def unaligned(folder, tensors):
    raw = {"pad": ([1], b"\1"), **{name: (array.shape, array.tobytes()) for name, array in tensors.items()}}
    raw["transformer.h.0.attn.masked_bias"] = raw.pop("pad")
    dtypes = dict.fromkeys(raw, "F32") | {"transformer.h.0.attn.masked_bias": "BOOL"}
    raw = dict(sorted(raw.items(), key=lambda item: len(item[1][1])))  # the odd byte first
    raw_file(folder / "model.safetensors", dtypes, raw)


@pytest.mark.parametrize(
    "layout",
    [bare, with_mask_buffers, with_a_copy_of_the_embedding_as_head, sharded, as_float64, unaligned],
    ids=lambda layout: layout.__name__,
)
def test_every_layout_loads_to_the_same_weights(layout, folder):
    expected = load_weights(folder)
    expected = {name: array.copy() for name, array in expected.items()}
    layout(folder, tensors_of(folder))
    actual = load_weights(folder)
    assert_equal(actual, expected)
    assert all(array.dtype == np.float32 and array.flags.aligned for array in actual.values())


def test_float16_and_bfloat16_are_converted(folder):
    tensors = {name.removeprefix("transformer."): array for name, array in tensors_of(folder).items()}
    rewrite(folder, {name: array.astype(np.float16) for name, array in tensors.items()})
    assert_equal(load_weights(folder), {name: array.astype(np.float16) for name, array in tensors.items()})

    upper_halves = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in tensors.items()}
    raw = {name: (array.shape, array.tobytes()) for name, array in upper_halves.items()}
    raw_file(folder / "model.safetensors", dict.fromkeys(raw, "BF16"), raw)
    expected = {name: (array.view(np.uint32) & 0xFFFF0000).view(np.float32) for name, array in tensors.items()}
    for dtype in (np.float32, np.float64):
        assert_equal(load_weights(folder, dtype), expected)


def test_a_head_that_differs_from_the_embedding_is_kept(tmp_path, folder):
    untied = write_model(tmp_path / "untied", tie_word_embeddings=False)
    assert load_weights(untied)["lm_head.weight"].shape == (265, 32)
    tensors = tensors_of(folder)  # the config says tied, the file has another head: transformers uses the head
    head = tensors["transformer.wte.weight"] + 1
    rewrite(folder, {**tensors, "lm_head.weight": head})
    np.testing.assert_array_equal(load_weights(folder)["lm_head.weight"], head)


def test_one_error_lists_all_names_and_shapes_that_do_not_fit(folder):
    tensors = tensors_of(folder)
    del tensors["transformer.h.0.attn.c_attn.bias"], tensors["transformer.ln_f.weight"]
    tensors["transformer.h.1.mlp.c_fc.weight"] = tensors["transformer.h.1.mlp.c_fc.weight"].T.copy()
    tensors["transformer.h.2.ln_1.weight"] = tensors["score.weight"] = np.ones(3, np.float32)
    rewrite(folder, tensors)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        load_weights(folder)
    message = str(error.value)
    assert "2 missing: h.0.attn.c_attn.bias, ln_f.weight" in message
    assert "2 unexpected: " in message
    assert {"h.2.ln_1.weight", "score.weight"} <= set(message.replace(",", " ").replace(";", " ").split())
    assert "1 misshaped: h.1.mlp.c_fc.weight is (128, 32), not (32, 128)" in message


def test_the_list_of_names_that_do_not_fit_is_short(folder):
    unexpected = {f"{i:04}" + "x" * 10_000: np.ones(1, np.float32) for i in range(100)}
    rewrite(folder, tensors_of(folder) | unexpected)
    with pytest.raises(ValueError, match=r"100 unexpected: (\d{4}x{96}, ){5}…$"):
        load_weights(folder)


def damage(name):
    def apply(folder):
        path = folder / "model.safetensors"
        content = path.read_bytes()
        damaged = {
            "truncated": content[:-1],
            "longer": content + b"\0",
            "half": content[: len(content) // 2],
            "empty": b"",
            "header only": content[:100],
            "html": b"<!DOCTYPE html><html><body>Not found</body></html>" * 10,
            "lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 548105171\n",
            "huge header": (1 << 62).to_bytes(8, "little") + content[8:],
            "mislabelled": content.replace(b'"F32"', b'"F16"', 1),
            "pickle": b"\x80\x02}q\x00." * 50,
        }[name]
        path.write_bytes(damaged)

    apply.__name__ = name
    return apply


@pytest.mark.parametrize(
    "name",
    [
        "truncated",
        "longer",
        "half",
        "empty",
        "header only",
        "html",
        "lfs pointer",
        "huge header",
        "mislabelled",
        "pickle",
    ],
)
def test_a_damaged_file_is_an_error(name, folder):
    damage(name)(folder)
    with pytest.raises(ValueError, match=r"model\.safetensors is not a complete safetensors file"):
        load_weights(folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{}", "is not an index of safetensors shards"),
        ("<html>", "is not an index of safetensors shards"),
        ('{"weight_map": {}}', "is not an index of safetensors shards"),
        ('{"weight_map": {"wte.weight": "../../evil.safetensors"}}', "is not an index of safetensors shards"),
        ('{"weight_map": {"wte.weight": 3}}', "is not an index of safetensors shards"),
    ],
)
def test_a_damaged_index_is_an_error(index, message, folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match=message):
        load_weights(folder)


def test_a_missing_file_is_named_in_the_error(folder):
    sharded(folder, tensors_of(folder))
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00003"):
        load_weights(folder)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no weights; it must have one of model.safetensors, .*, pytorch_model.bin,"
    ):
        load_weights(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_weights(folder)


def test_integer_tensors_are_an_error(folder):
    tensors = tensors_of(folder)
    rewrite(folder, {**tensors, "transformer.ln_f.bias": np.zeros(32, np.int64)})
    with pytest.raises(ValueError, match=r"ln_f\.bias is stored as I64; it must be one of F64, F32, F16, BF16"):
        load_weights(folder)


@pytest.mark.parametrize("field", ["n_embd", "n_positions", "vocab_size", "n_inner"])
def test_impossible_sizes_are_an_error_before_memory_is_allocated(field, folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, field: 2**30}))
    with pytest.raises(ValueError, match=r"misshaped.*1073741824"):
        load_weights(folder)


def test_more_layers_than_tensors_give_a_short_error(folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "n_layer": 10_000}))
    with pytest.raises(ValueError, match=r"n_layer is 10000; .* number of tensors, 28"):
        load_weights(folder)


def test_init_weights_has_gpt2s_standard_deviations():
    config = GPT2Config(vocab_size=300, n_positions=100, n_embd=128, n_layer=8, n_head=4)
    weights = init_weights(config, np.random.default_rng(0))
    assert {name: array.shape for name, array in weights.items()} == config.parameter_shapes()
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}
    for name, array in weights.items():
        if name.endswith("c_proj.weight"):
            assert array.std() == pytest.approx(0.02 / 4, rel=0.03)
        elif array.ndim == 2:
            assert array.std() == pytest.approx(0.02, rel=0.03)
        else:
            np.testing.assert_array_equal(array, 1 if name.endswith("weight") else 0)


def test_saved_weights_have_the_names_of_transformers(tmp_path):
    config = GPT2Config(vocab_size=9, n_positions=4, n_embd=4, n_layer=1, n_head=2, tie_word_embeddings=False)
    weights = init_weights(config, np.random.default_rng(0))
    save_weights(tmp_path / "model.safetensors", weights)
    with safetensors.safe_open(tmp_path / "model.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == {"lm_head.weight", *(f"transformer.{name}" for name in weights if name[:2] != "lm")}


def test_arrays_of_any_layout_and_dtype_can_be_saved(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "transposed": rng.standard_normal((3, 5)).T,
        "every other": rng.standard_normal(9, np.float32)[::2],
        "a number": np.array([7]),
        "none": np.zeros((0, 4), np.float16),
        "bytes": np.frombuffer(b"\0\xff", np.uint8),
    }
    save_tensors(tmp_path / "tensors", tensors, {"state": '{"é": 1}'})
    with safetensors.safe_open(tmp_path / "tensors", framework="np") as file:
        assert file.metadata() == {"state": '{"é": 1}'}
    saved = safetensors.numpy.load_file(tmp_path / "tensors")
    assert_equal(saved, tensors)
    assert {name: (a.dtype, a.shape) for name, a in saved.items()} == {
        name: (a.dtype, a.shape) for name, a in tensors.items()
    }


@pytest.fixture
def at_most_64_kb():
    """Limit the size of files to 64 kB. A longer file fails as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_an_oserror(tmp_path, at_most_64_kb):
    tensors = {"a": np.zeros(1 << 15, np.float32)}
    with pytest.raises(OSError, match=r"File too large.*tensors"):
        save_tensors(tmp_path / "tensors", tensors, {})
    with pytest.raises(OSError, match="File too large"):
        save_weights(tmp_path / "tensors", tensors)
    save_tensors(tmp_path / "tensors", {"a": np.zeros(1 << 13, np.float32)}, {})


def test_a_path_that_cannot_be_written_is_an_oserror(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "none" / "tensors", tmp_path / "file" / "tensors"):
        with pytest.raises(OSError, match=str(path)):
            save_tensors(path, {"a": np.zeros(3)}, {})
