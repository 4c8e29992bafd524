"""hub.py: which folder a name means, and which files of a model are downloaded."""

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from numpy_gpt2 import __main__ as command
from numpy_gpt2 import hub, load, load_tokenizer
from numpy_gpt2.download import size_of
from numpy_gpt2.model_files import MODEL_FILES
from numpy_gpt2.weights import FILE, INDEX

from .conftest import ROOT, assert_one_error, run_cli, run_in_process, write_tokenizer
from .fake_hub import ALL_FILES, MODEL, Hub, closed_port, failure, first, page, stall, stored, wait_for


def split(server: Hub) -> list[str]:
    """Cut the server's weights into two shards with an index. Returns the shards' names. The cut is inside a tensor."""
    whole = server.files.pop(FILE)
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    server.files |= {shards[0]: whole[:50_000], shards[1]: whole[50_000:]}
    server.files[INDEX] = json.dumps({"weight_map": {"wte.weight": shards[0], "wpe.weight": shards[1]}}).encode()
    return shards


# Files of a model


def test_a_model_is_downloaded_once(server, folder):
    assert hub.model_folder(MODEL) == folder
    assert stored(folder) == server.files
    assert [request.file for request in server.requests] == [*ALL_FILES, FILE]
    assert all(request.headers["accept-encoding"] == "identity" for request in server.requests)
    assert hub.model_folder(MODEL) == folder
    assert len(server.requests) == 5


def test_a_renamed_repository_keeps_its_local_name(server, tmp_path):
    assert hub.model_folder("gpt2") == tmp_path / "weights" / "gpt2"
    assert stored(tmp_path / "weights" / "gpt2") == server.files


@pytest.mark.parametrize("file", ALL_FILES)
def test_only_missing_files_are_downloaded(server, folder, file):
    hub.model_folder(MODEL)
    server.requests.clear()
    (folder / file).unlink()
    hub.model_folder(MODEL)
    assert {request.file for request in server.requests} == {file}
    assert stored(folder) == server.files


def test_missing_shards_are_downloaded(server, folder):
    shards = split(server)
    server.faults["store", shards[1]] = itertools.repeat(400)
    assert "400 Client Error" in failure()
    assert not hub.is_complete(folder)
    server.requests.clear()
    server.faults.clear()
    hub.model_folder(MODEL)
    assert {request.file for request in server.requests} == {shards[1]}
    assert stored(folder) == server.files
    assert hub.is_complete(folder)


@pytest.mark.parametrize(
    ("file", "missing"),
    [
        (
            "config.json",
            "config.json, vocab.json and merges.txt (or tokenizer.json), model.safetensors (or pytorch_model.bin)",
        ),
        ("merges.txt", "merges.txt (or tokenizer.json), model.safetensors (or pytorch_model.bin)"),
        (FILE, "model.safetensors (or pytorch_model.bin)"),
    ],
)
def test_a_failed_download_says_what_to_do_by_hand(server, folder, file, missing):
    server.faults["hub", file] = iter([400])
    page = f"{server.address()}/{MODEL}/tree/main"
    end = f"; to download what is missing by hand, put {missing} from {page} into {folder}"
    assert failure().endswith(end)


def test_a_missing_shard_is_named(server, folder):
    shards = split(server)
    server.faults["store", shards[1]] = iter([400])
    assert f", put {shards[1]} from " in failure()


def with_pickles(server: Hub, *shards: bytes) -> list[str]:
    """Replace the server's weights by one or several files of torch.save. Returns the names of all of them."""
    del server.files[FILE]
    if len(shards) == 1:
        names = ["pytorch_model.bin"]
    else:
        names = [f"pytorch_model-{i}.bin" for i in range(len(shards))]
        weight_map = json.dumps({"weight_map": {f"h.{i}": name for i, name in enumerate(names)}})
        server.files["pytorch_model.bin.index.json"] = weight_map.encode()
    server.files |= dict(zip(names, shards, strict=True))
    return names


@pytest.mark.parametrize("shards", [[b"whole"], [b"first", b"second", b"third"]])
def test_a_repository_without_safetensors_has_its_pickles_downloaded(server, folder, shards):
    names = with_pickles(server, *shards)
    assert hub.model_folder(MODEL) == folder
    assert stored(folder) == server.files
    assert hub.is_complete(folder)
    (folder / names[-1]).unlink()
    assert not hub.is_complete(folder)
    server.requests.clear()
    hub.model_folder(MODEL)
    assert server.requests[-1].file == names[-1]
    assert not {*names[:-1]} & {request.file for request in server.requests}
    assert stored(folder) == server.files


def test_safetensors_are_preferred_to_pickles(server, folder):
    whole = server.files[FILE]
    with_pickles(server, b"whole")
    server.files[FILE] = whole
    hub.model_folder(MODEL)
    assert set(stored(folder)) == {*MODEL_FILES, FILE}


@pytest.mark.parametrize("value", ["1", "ON", "yes", "true"])
def test_offline_means_no_requests(server, folder, monkeypatch, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert failure() == (
        f"cannot download {MODEL}: HF_HUB_OFFLINE is set, and {MODEL} is not complete in {folder} or the Hugging Face"
        f" cache ({os.environ['HF_HUB_CACHE']}); {hub.by_hand(MODEL)}"
    )
    assert hub.why_unreachable(MODEL) == "HF_HUB_OFFLINE is set"
    assert server.requests == []
    assert not folder.exists()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert hub.model_folder(MODEL) == folder
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert hub.model_folder(MODEL) == folder  # a complete model needs no download


def test_a_damaged_tokenizer_is_deleted(server, folder):
    good = server.files["merges.txt"]
    server.files["merges.txt"] = good[: len(good) // 2]
    assert "not a GPT-2 tokenizer" in failure(ValueError)
    assert set(stored(folder)) == {"config.json"}
    server.files["merges.txt"] = good
    assert hub.model_folder(MODEL) == folder
    assert stored(folder)["merges.txt"] == good


def test_tokenizer_json_is_downloaded_with_and_without_vocab_and_merges(server, folder, tiny):
    server.files["tokenizer.json"] = (tiny / "tokenizer.json").read_bytes()
    hub.model_folder(MODEL)
    assert stored(folder) == server.files
    shutil.rmtree(folder)
    del server.files["merges.txt"], server.files["vocab.json"]
    hub.model_folder(MODEL)
    assert stored(folder) == server.files
    assert hub.is_complete(folder)
    assert load(MODEL).tokenizer.encode_ordinary("the") == [257]


def test_a_tokenizer_json_of_another_kind_is_deleted_before_the_weights_are_downloaded(server, folder):
    server.files["tokenizer.json"] = b'{"normalizer": {"type": "Precompiled"}}'
    del server.files["merges.txt"]
    assert 'tokenizer.json: normalizer is "Precompiled"; it must be null' in failure(ValueError)
    assert set(stored(folder)) == {"config.json"}


def test_added_tokens_and_generation_config_are_downloaded(server, folder):
    server.files["added_tokens.json"] = b'{"the": 257}'
    server.files["generation_config.json"] = b'{"eos_token_id": [3, 4]}'
    model = load(MODEL)
    assert stored(folder) == server.files
    assert (model.tokenizer.special_tokens_set, model.config.eos_token_id) == ({"<|endoftext|>", "the"}, [3, 4])


# Files with wrong content


def test_a_model_that_is_not_gpt2_is_an_error(server, folder):
    server.files["config.json"] = b'{"model_type": "llama"}'
    url = f"{server.address()}/{MODEL}/resolve/main/config.json"
    assert failure(ValueError) == f"{url} is not a GPT-2: its model_type is 'llama'; it must be 'gpt2'"
    assert [request.file for request in server.requests] == ["config.json"]
    assert stored(folder) == {}


@pytest.mark.parametrize("file", ["config.json", INDEX])
def test_a_login_page_instead_of_json_is_an_error(server, folder, file):
    split(server)
    server.faults["hub", file] = iter([page])
    assert file in failure(ValueError)
    assert file not in stored(folder)
    assert f"{file}.part" not in stored(folder)
    hub.model_folder(MODEL)  # the next run succeeds
    assert stored(folder) == server.files


@pytest.mark.parametrize("shard", ["../evil.safetensors", "/tmp/evil.safetensors", "sub/evil.safetensors", "evil.bin"])
def test_an_index_with_files_outside_its_folder_is_an_error(server, folder, shard):
    split(server)
    server.files[INDEX] = json.dumps({"weight_map": {"wte.weight": shard}}).encode()
    assert shard in failure(ValueError)
    assert not any("evil" in request.path for request in server.requests)
    assert set(stored(folder)) == set(MODEL_FILES)


def test_a_weights_folder_that_cannot_be_created_is_an_error(server, tmp_path, folder):
    (tmp_path / "weights").write_text("in the way")
    text = failure()
    assert "File exists" in text
    assert text.endswith(hub.by_hand(MODEL))
    assert server.requests == []


# Several processes


def test_of_three_processes_one_downloads_and_two_wait(server, folder, tmp_path):
    proceed = threading.Event()
    server.faults["store", FILE] = iter([lambda handler, body: (proceed.wait(20), handler.serve(body))])
    command = [sys.executable, "-c", f"from numpy_gpt2 import hub; hub.model_folder({MODEL!r})"]
    with open(tmp_path / "stderr", "wb") as stderr:
        processes = [subprocess.Popen(command, stderr=stderr) for _ in range(3)]
    wait_for(lambda: (tmp_path / "stderr").read_text().count("waiting for another process") == 2)
    proceed.set()
    assert [process.wait(20) for process in processes] == [0, 0, 0]
    assert [request.file for request in server.requests] == [*ALL_FILES, FILE]
    assert stored(folder) == server.files


@pytest.mark.parametrize(("signal_", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_an_interrupted_download_continues_in_the_next_process(server, folder, signal_, status):
    server.faults["store", FILE] = iter([first(40_000, then=stall)])
    command = [sys.executable, "-m", "numpy_gpt2", "-m", MODEL, "the"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: size_of(folder / f"{FILE}.part") == 32_768)
    process.send_signal(signal_)
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (status, b"")
    assert b"Traceback" not in stderr
    assert set(stored(folder)) == {*MODEL_FILES, f"{FILE}.part"}

    answer = run_cli("-m", MODEL, "-n", 5, "the", env={"HF_HUB_OFFLINE": "0"})
    assert (answer.returncode, len(answer.stdout) > 1) == (0, True)
    assert server.ranges(FILE) == [None, "bytes=32768-"]
    assert stored(folder) == server.files


# Tokenizers


def test_a_tokenizer_is_downloaded_without_the_weights(server, tmp_path):
    gpt2 = tmp_path / "weights" / "gpt2"
    assert hub.tokenizer_folder("gpt2") == gpt2
    assert stored(gpt2) == {name: server.files[name] for name in MODEL_FILES}
    assert {request.file for request in server.requests} == {*MODEL_FILES}
    assert load_tokenizer(gpt2).encode_ordinary("the") == [257]
    assert not hub.is_complete(gpt2)

    server.requests.clear()
    assert hub.tokenizer_folder("gpt2") == gpt2
    assert server.requests == []

    assert load("gpt2").config.n_layer == 2  # now the weights, too
    assert {request.file for request in server.requests} == {FILE}
    assert stored(gpt2) == server.files


def test_a_local_tokenizer_needs_no_download(server, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    gpt2 = tmp_path / "weights" / "gpt2"
    gpt2.mkdir(parents=True)
    for name in ("vocab.json", "merges.txt"):
        (gpt2 / name).write_bytes(server.files[name])
    assert hub.tokenizer_folder("gpt2") == gpt2
    assert hub.tokenizer_folder(tiny) == tiny
    assert hub.tokenizer_folder(str(tiny)) == tiny
    shutil.copytree(tiny, tmp_path / "weights" / "mine")
    assert hub.tokenizer_folder("mine") == tmp_path / "weights" / "mine"
    shutil.copytree(tiny, tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    assert hub.tokenizer_folder("gpt2").resolve() == tmp_path / "gpt2"  # an existing folder comes first
    assert server.requests == []


def test_vocab_and_merges_put_there_by_hand_are_a_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NUMPY_GPT2_WEIGHTS", str(tmp_path / "weights"))
    gpt2 = tmp_path / "weights" / "gpt2"
    write_tokenizer(gpt2)
    assert sorted(os.listdir(gpt2)) == ["merges.txt", "vocab.json"]
    assert hub.tokenizer_folder("gpt2") == gpt2


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt"])
def test_a_missing_tokenizer_file_is_downloaded(server, tmp_path, file):
    gpt2 = hub.tokenizer_folder("gpt2")
    server.requests.clear()
    (gpt2 / file).unlink()
    assert hub.tokenizer_folder("gpt2") == gpt2
    assert {request.file for request in server.requests} == {file}
    assert set(stored(gpt2)) == {*MODEL_FILES}


def test_a_tokenizer_that_cannot_be_downloaded_is_an_error(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = failure(name="gpt2", folder_of=hub.tokenizer_folder)
    gpt2 = tmp_path / "weights" / "gpt2"
    assert message.startswith("cannot download gpt2: HF_HUB_OFFLINE is set, and gpt2 is not complete in ")
    assert re.findall(r"\w+\.(?:json|txt|safetensors)", message) == ["vocab.json", "merges.txt", "tokenizer.json"]
    assert server.requests == []
    assert not gpt2.exists()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    server.faults["hub", "merges.txt"] = iter([404])
    assert "merges.txt" in failure(name="gpt2", folder_of=hub.tokenizer_folder)
    assert "no model 'none'" in failure(name="none", folder_of=hub.tokenizer_folder)


# Names, and the command line


def test_local_folders_come_before_the_hub(server, tiny, tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    assert hub.model_folder(tiny) == tiny
    for name in ("gpt2", MODEL, "mine"):
        shutil.copytree(tiny, weights / name)
        assert hub.model_folder(name) == weights / name
    assert hub.model_folder(hub.BUNDLED) == hub.bundled_folder()
    shutil.copytree(tiny, weights / hub.BUNDLED)
    assert hub.model_folder(hub.BUNDLED) == weights / hub.BUNDLED
    assert server.requests == []


@pytest.mark.parametrize(
    "name", ["gpt3", "a/b/c", "../weights", "someone/../else", "https://huggingface.co/gpt2", "a b/c"]
)
def test_an_unknown_name_is_an_error(server, tmp_path, name):
    text = failure(FileNotFoundError, name)
    assert text.startswith(f"there is no model {name!r}; it must be a folder, a folder in {tmp_path / 'weights'},")
    assert all(known in text for known in ("owner/name", *hub.NAMES))
    assert server.requests == []


def test_the_weights_folder_depends_on_the_installation(monkeypatch, tmp_path):
    monkeypatch.delenv("NUMPY_GPT2_WEIGHTS", raising=False)
    assert hub.weights_folder() == ROOT / "weights"
    monkeypatch.setattr(hub, "__file__", str(tmp_path / "site-packages" / "numpy_gpt2" / "hub.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert hub.weights_folder() == tmp_path / "cache" / "numpy_gpt2"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.weights_folder() == tmp_path / ".cache" / "numpy_gpt2"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(hub.os.path, "expanduser", lambda path: path)  # as for an unknown user
    assert "set NUMPY_GPT2_WEIGHTS to a folder" in failure(OSError, "none")
    inside = tmp_path / "site-packages" / "numpy_gpt2" / "bundled" / hub.BUNDLED
    inside.mkdir(parents=True)
    assert hub.bundled_folder() == inside


def test_a_file_in_the_weights_folder_is_not_a_model(server, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "README.md").write_text("# Models")
    assert "there is no model 'README.md'" in failure(FileNotFoundError, "README.md")


def test_importing_hub_loads_neither_requests_nor_tqdm():
    code = "import sys, numpy_gpt2, numpy_gpt2.hub; print({'requests', 'urllib3', 'tqdm'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_params_downloads_config_json_only(server, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for offline in ("0", "1"):
        monkeypatch.setenv("HF_HUB_OFFLINE", offline)
        result = run_in_process(command.main, capsys, "--params", "-m", MODEL)
        assert result.out.startswith("parameter ")
        assert stored(folder) == {"config.json": server.files["config.json"]}
        assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    assert [request.file for request in server.requests] == ["config.json"]
    (folder / "config.json").unlink()
    result = run_in_process(command.main, capsys, "--params", "-m", MODEL)
    assert_one_error(result, 1, f"put config.json from {server.address()}/{MODEL}/tree/main into {folder}")


@pytest.fixture(params=["refused", "unknown host", "silent", "offline"])
def unreachable(request, server, monkeypatch) -> Iterator[str]:
    """Each way in which the hub cannot be reached."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoints = {
            "refused": f"http://127.0.0.1:{closed_port()}",
            "unknown host": "http://hub.invalid",
            "silent": f"http://127.0.0.1:{silent.getsockname()[1]}",
        }
        monkeypatch.setenv("HF_ENDPOINT", endpoints.get(request.param, server.address()))
        yield request.param


def test_the_bundled_model_runs_if_the_hub_is_unreachable(unreachable, tmp_path):
    start = time.perf_counter()
    answer = run_cli("-n", 5, "--seed", 1, "ROMEO:", env={"HF_HUB_OFFLINE": str(int(unreachable == "offline"))})
    assert time.perf_counter() - start < 9  # usually 3; the timeout of a request alone is 10
    notes = answer.stderr.decode().splitlines()
    assert [note[:6] for note in notes] == ["note: ", "note: "], notes
    assert hub.BUNDLED in notes[0]
    assert "by hand" in notes[1]
    assert (answer.returncode, len(answer.stdout) > 1) == (0, True)
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize("unreachable", ["refused", "unknown host", "offline"], indirect=True)
def test_a_model_that_was_named_is_never_replaced(unreachable, tmp_path):
    answer = run_cli("-m", "gpt2", "ROMEO:", env={"HF_HUB_OFFLINE": str(int(unreachable == "offline"))})
    assert (answer.returncode, answer.stdout) == (1, b"")
    error = answer.stderr.decode()
    assert error.startswith("error: cannot download gpt2: ")
    assert error.endswith(f" into {tmp_path / 'weights' / 'gpt2'}\n")
    assert error.count("\n") == 1
