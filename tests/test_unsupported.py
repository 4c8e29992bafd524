"""unsupported.py: models that cannot be read are refused in one line, before anything large is downloaded."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from numpy_gpt2 import __main__ as command
from numpy_gpt2 import hub, load
from numpy_gpt2.unsupported import TOKENIZER_CLASSES
from numpy_gpt2.weights import FILE, WEIGHT_FILES, check_start

from .conftest import assert_one_error, run_in_process
from .fake_hub import ALL_FILES, MODEL, first, page, stall, stored

LARGE = {FILE, "pytorch_model.bin", "tf_model.h5"}


def config(tiny: Path, **fields) -> bytes:
    """The tiny model's config.json with other fields."""
    return json.dumps({**json.loads((tiny / "config.json").read_text()), **fields}).encode()


def change(files: dict[str, bytes], tiny: Path, kind: str) -> None:
    """Change the files of a model so that it becomes one that cannot be read."""
    without_tokenizer = {name: content for name, content in files.items() if name not in ("vocab.json", "merges.txt")}
    bert, quantized = {"tokenizer_class": "BertTokenizer"}, {"quant_method": "bitsandbytes", "load_in_4bit": True}
    kinds = {
        "BertTokenizer": {**without_tokenizer, "vocab.txt": b"", "config.json": config(tiny, **bert)},
        "T5Tokenizer": {**files, "tokenizer_config.json": b'{"tokenizer_class": "T5Tokenizer"}'},
        "vocab.txt": {**without_tokenizer, "vocab.txt": b""},
        "spiece.model": {**without_tokenizer, "spiece.model": b""},
        "no tokenizer": without_tokenizer,
        "quantized": {**files, "config.json": config(tiny, quantization_config=quantized)},
        "llama": {**files, "config.json": config(tiny, model_type="llama")},
        "TensorFlow": {**files, "tf_model.h5": b"", "flax_model.msgpack": b""},
        "no weights": files,
        "classifier": {**files, "config.json": config(tiny, architectures=["GPT2ForSequenceClassification"])},
        "adapter": {"adapter_config.json": b"", "adapter_model.safetensors": b""},
        "GGUF": {"tiny.Q4.gguf": b"", "tiny.Q8.gguf": b""},
    }
    changed = {**kinds[kind]}
    if kind in ("TensorFlow", "no weights"):
        del changed[FILE]
    files.clear()
    files |= changed


REFUSALS = {
    "BertTokenizer": "config.json: tokenizer_class is 'BertTokenizer'; it must be GPT2Tokenizer, so choose",
    "T5Tokenizer": "tokenizer_config.json: tokenizer_class is 'T5Tokenizer'; it must be GPT2Tokenizer, so",
    "vocab.txt": "has no tokenizer that can be read, but vocab.txt (a WordPiece tokenizer, as in BERT); it must have",
    "spiece.model": "has no tokenizer that can be read, but spiece.model (a SentencePiece tokenizer); it must",
    "no tokenizer": "has no tokenizer; it must have vocab.json and merges.txt, or tokenizer.json. If it was",
    "quantized": "config.json: the weights are quantized (bitsandbytes); they must be F64, F32, F16 or",
    "llama": "config.json is not a GPT-2: its model_type is 'llama'; it must be 'gpt2'",
    "TensorFlow": "has no weights that can be read, but flax_model.msgpack (Flax) and tf_model.h5 (TensorFlow);",
    "classifier": "the model is a classifier (['GPT2ForSequenceClassification']); it must be a language model",
    "no weights": "has no weights; it must have one of model.safetensors, ",
}


@pytest.mark.parametrize("has_api", [True, False])
@pytest.mark.parametrize("kind", REFUSALS)
def test_a_model_on_the_hub_that_cannot_be_read_is_refused_before_its_weights(
    server, folder, tiny, monkeypatch, capsys, kind, has_api
):
    monkeypatch.chdir(folder.parents[2])
    change(server.files, tiny, kind)
    server.has_api = has_api
    result = run_in_process(command.main, capsys, "-m", MODEL, "the")
    assert_one_error(result, 1, f"{server.address()}/{MODEL}", REFUSALS[kind], before=r".*\.json: .*|.*\.txt: .*")
    assert "by hand" not in result.err
    bodies = {request.file for request in server.requests if request.method == "GET" and request.file in server.files}
    assert not bodies & LARGE
    assert not stored(folder).keys() & {*WEIGHT_FILES, "tokenizer_config.json"}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_folder_that_cannot_be_read_is_refused(tiny, tmp_path, kind):
    files = {name: (tiny / name).read_bytes() for name in ALL_FILES}
    change(files, tiny, kind)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises((OSError, ValueError)) as caught:
        load(tmp_path)
    assert f"{tmp_path}" in str(caught.value)
    assert REFUSALS[kind] in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "has_api", "mentioned"),
    [
        (
            "adapter",
            True,
            ", but adapter_model.safetensors (an adapter; merge it into its base model, or use that); choose",
        ),
        (
            "adapter",
            False,
            ", but adapter_model.safetensors (an adapter; merge it into its base model, or use that); choose",
        ),
        ("GGUF", True, ", but tiny.Q4.gguf (GGUF); choose a model with config.json, a tokenizer and weights"),
        (
            "GGUF",
            False,
            "/config.json; choose a model with config.json, a tokenizer and weights",
        ),  # any name is possible
    ],
)
def test_a_repository_without_a_config_is_refused(server, folder, tiny, kind, has_api, mentioned):
    change(server.files, tiny, kind)
    server.has_api = has_api
    with pytest.raises(FileNotFoundError) as caught:
        hub.model_folder(MODEL)
    assert f"there is no {server.url('config.json')}" in str(caught.value)
    assert mentioned in str(caught.value)
    assert not folder.exists()


def test_weights_under_the_name_of_a_variant_are_mentioned(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path, dirs_exist_ok=True)
    (tmp_path / FILE).rename(tmp_path / "model.fp16.safetensors")
    with pytest.raises(FileNotFoundError, match=r"but model\.fp16\.safetensors \(a variant; rename it to model\.saf"):
        load(tmp_path)


def test_a_refusal_needs_no_answer_of_the_hub_about_other_files(server, tiny):
    change(server.files, tiny, "no weights")
    server.faults["hub", f"/api/models/{MODEL}"] = iter([page])
    server.faults["hub", "adapter_model.safetensors"] = iter([500])
    with pytest.raises(FileNotFoundError, match="has no weights; it must have one of"):
        hub.model_folder(MODEL)


@pytest.mark.parametrize("name", [*TOKENIZER_CLASSES, None])
def test_the_class_in_tokenizer_config_comes_before_that_in_config(server, tiny, folder, name):
    server.files["config.json"] = config(tiny, tokenizer_class="BertTokenizer" if name else None)
    server.files["tokenizer_config.json"] = json.dumps({"tokenizer_class": name}).encode()
    assert load(MODEL).config.n_layer == 2
    assert stored(folder) == server.files


@pytest.mark.parametrize("kind", ["no tokenizer", "BertTokenizer"])
def test_tokenizer_files_put_there_by_hand_are_kept(server, tiny, folder, kind):
    change(server.files, tiny, kind)
    by_hand = {"tokenizer.json": (tiny / "tokenizer.json").read_bytes()}
    if kind == "no tokenizer":
        by_hand = {"vocab.json": b'{"a": 0}', "merges.txt": b"a b"}
    folder.mkdir(parents=True)
    for name, content in by_hand.items():
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(folder))):
        hub.model_folder(MODEL)
    assert stored(folder) == {"config.json": server.files["config.json"], **by_hand}


def test_offline_the_class_is_named_and_not_the_missing_files(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NUMPY_GPT2_WEIGHTS", str(tmp_path / "weights"))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    with pytest.raises(ValueError, match="tokenizer_class is 'BertTokenizer'; it must be GPT2Tokenizer"):
        hub.model_folder(MODEL)


def test_quantized_tensors_end_the_download(server, folder, tmp_path):
    tensors = {"h.0.attn.c_attn.weight": np.zeros(9, np.uint8), "wte.weight": np.zeros(100_000, np.float32)}
    server.files[FILE] = safetensors.numpy.save(tensors)
    server.faults["store", FILE] = iter([first(20_000, then=stall)])
    with pytest.raises(ValueError, match=r"model.safetensors: h.0.attn.c_attn.weight is stored as U8; it must be one"):
        hub.model_folder(MODEL)
    assert not {FILE, f"{FILE}.part"} & stored(folder).keys()


def test_the_start_of_a_file_is_checked_when_its_header_is_there(tmp_path):
    path = tmp_path / "start"
    header = json.dumps({"a": {"dtype": "U8"}, "h.0.attn.bias": {"dtype": "U8"}}).encode()
    good = header.replace(b'"U8"', b'"F16"', 1)
    path.write_bytes(len(good).to_bytes(8, "little") + good[:-1])
    assert not check_start(path)
    for content in (good, b"[1]", b"\xff" * 9, b'{"a": 1}', b"[" * 100_000):  # what is damaged is found later
        path.write_bytes(len(content).to_bytes(8, "little") + content)
        assert check_start(path)
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match="a is stored as U8"):
        check_start(path)
