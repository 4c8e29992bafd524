"""hf_cache.py and hub.py: models in the Hugging Face cache are used or completed, and the cache is never changed."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from numpy_gpt2 import __main__ as command
from numpy_gpt2 import hf_cache, hub, int8, load
from numpy_gpt2.weights import FILE, INDEX

from .conftest import assert_one_error, run_in_process, write_model
from .fake_hub import ALL_FILES, MODEL, Hub, failure, stored

COMMIT = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
TOKENIZER = ("vocab.json", "merges.txt")


def listing(folder: Path) -> dict[str, tuple]:
    """Everything in a folder: path -> mode, size, number of links, times, and where a link leads to."""
    result = {}
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        fields = status.st_mode, status.st_size, status.st_nlink, status.st_mtime_ns, status.st_ctime_ns
        result[str(path)] = (*fields, os.readlink(path) if path.is_symlink() else None)
    return result


class Cache:
    """A cache with the layout of huggingface_hub."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.before: dict[str, tuple] = {}

    def add(self, files: dict[str, bytes], name: str = MODEL, commit: str = COMMIT, links: bool = True) -> Path:
        """Add a snapshot, and make it the one of the branch main."""
        repository = self.folder / f"models--{name.replace('/', '--')}"
        for folder in ("refs", "blobs", f"snapshots/{commit}"):
            (repository / folder).mkdir(parents=True, exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
        snapshot = repository / "snapshots" / commit
        for file, content in files.items():
            is_large = file.endswith((".safetensors", ".bin"))
            git = hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
            blob = hashlib.sha256(content).hexdigest() if is_large else git
            if links:
                (repository / "blobs" / blob).write_bytes(content)
                (snapshot / file).symlink_to(Path("..", "..", "blobs", blob))
            else:
                (snapshot / file).write_bytes(content)
        self.before = listing(self.folder)
        return snapshot


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Iterator[Cache]:
    """A cache that must be the same at the end of the test as after the last `add`. There is no hub."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NUMPY_GPT2_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    cache = Cache(tmp_path / "cache")
    yield cache
    assert listing(cache.folder) == cache.before


@pytest.fixture
def online(server, cache, monkeypatch):
    """The fake hub, beside a cache. It also answers for the cache's commit."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    server.revisions.add(COMMIT)
    return server


@pytest.fixture
def files(tiny) -> dict[str, bytes]:
    """The files of the tiny model."""
    return {name: (tiny / name).read_bytes() for name in ALL_FILES}


def downloaded(server: Hub) -> set[str]:
    """The files that were requested from the hub, and not only asked about."""
    return {request.file for request in server.requests if request.method == "GET"}


def without(files: dict[str, bytes], *names: str) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name not in names}


# Where the cache is


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "/home/me/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/xdg", "HF_HOME": "~/hf"}, "/home/me/hf/hub"),
        ({"HF_HOME": "/hf", "HUGGINGFACE_HUB_CACHE": "$HOME/old"}, "/home/me/old"),
        ({"HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "~/new"}, "/home/me/new"),
        ({"HF_HOME": "", "XDG_CACHE_HOME": "/xdg"}, "hub"),
        ({"HF_HUB_CACHE": "", "HF_HOME": "/hf"}, "."),
    ],
)
def test_the_folder_of_the_cache_is_that_of_huggingface_hub(monkeypatch, variables, expected):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", "USERPROFILE": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    assert hf_cache.cache_folder() == Path(expected)


def test_the_commit_in_refs_may_have_a_line_end(cache, files):
    snapshot = cache.add(files)
    (cache.folder / "models--someone--tiny/refs/main").write_text(f"{COMMIT}\n")
    cache.before = listing(cache.folder)
    assert hub.model_folder(MODEL) == snapshot


@pytest.mark.parametrize(
    "ref", [None, b"", b"0" * 40, b"..", b"../../outside", b"../snapshots/" + COMMIT.encode(), b"\xff"]
)
def test_a_ref_that_does_not_name_a_snapshot_is_no_model(cache, files, tmp_path, ref):
    snapshot = cache.add(files)
    shutil.copytree(snapshot, cache.folder / "models--someone--tiny" / "outside")
    path = cache.folder / "models--someone--tiny" / "refs" / "main"
    path.unlink() if ref is None else path.write_bytes(ref)
    cache.before = listing(cache.folder)
    assert hub.local_folder(MODEL) is None
    assert (
        f"is not complete in {tmp_path / 'weights' / MODEL} or the Hugging Face cache ({cache.folder}); " in failure()
    )


# Complete snapshots


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize(
    ("name", "repository"),
    [
        (MODEL, MODEL),
        ("gpt2", "gpt2"),
        ("gpt2", "openai-community/gpt2"),
        ("gpt2-xl", "openai-community/gpt2-xl"),
        ("distilgpt2", "distilbert/distilgpt2"),
    ],
)
def test_a_complete_snapshot_is_used_where_it_is(cache, files, tiny, tmp_path, name, repository, links):
    snapshot = cache.add(files, repository, links=links)
    assert hub.model_folder(name) == hub.tokenizer_folder(name) == hub.config_file(name).parent == snapshot
    model, expected = load(name), load(tiny)
    assert model.tokenizer.encode_ordinary("the you") == expected.tokenizer.encode_ordinary("the you")
    np.testing.assert_array_equal(model.weights["wpe.weight"], expected.weights["wpe.weight"])
    assert not (tmp_path / "weights").exists()


def test_gpt2_in_the_cache_is_the_default_model(cache, files, capsys):
    snapshot = cache.add(files, "openai-community/gpt2")
    assert hub.choose_model(None) == str(snapshot)
    result = run_in_process(command.main, capsys, "-n", 3, "--greedy", "the")
    assert (result.status, result.err) == (0, "")


def test_a_complete_model_under_weights_comes_before_the_cache(cache, files, tiny, tmp_path):
    snapshot = cache.add(files)
    own = shutil.copytree(tiny, tmp_path / "weights" / MODEL)
    assert hub.model_folder(MODEL) == own
    (own / FILE).unlink()
    assert hub.model_folder(MODEL) == snapshot


def test_the_complete_one_of_two_snapshots_is_used(cache, files):
    cache.add(without(files, FILE), "gpt2")
    complete = cache.add(files, "openai-community/gpt2")
    assert hub.model_folder("gpt2") == complete


@pytest.mark.parametrize(
    ("removed", "added"),
    [
        (TOKENIZER, {"tokenizer.json": b""}),
        ((FILE,), {"pytorch_model.bin": b""}),
        ((FILE,), {INDEX: b'{"weight_map": {"a": "1.safetensors"}}', "1.safetensors": b""}),
        ((FILE,), {"pytorch_model.bin.index.json": b'{"weight_map": {"a": "1.bin"}}', "1.bin": b""}),
    ],
)
def test_a_snapshot_is_complete_if_its_formats_can_be_read(cache, files, removed, added):
    complete = {**without(files, *removed), **added}
    snapshot = cache.add(complete, links=False)
    assert hub.local_folder(MODEL) == snapshot
    for name in complete:
        (snapshot / name).rename(snapshot / "away")
        assert hub.local_folder(MODEL) is None
        (snapshot / "away").rename(snapshot / name)
    cache.before = listing(cache.folder)


def test_a_link_to_a_blob_that_is_gone_is_a_missing_file(cache, files):
    snapshot = cache.add(files)
    (snapshot / FILE).resolve().unlink()
    cache.before = listing(cache.folder)
    assert hub.local_folder(MODEL) is None
    assert "put model.safetensors (or pytorch_model.bin) from" in failure()


def test_a_damaged_model_in_the_cache_is_an_error_with_its_path(cache, files):
    snapshot = cache.add({**files, "merges.txt": files["merges.txt"][:30]})
    with pytest.raises(ValueError, match=f"{re.escape(str(snapshot))}: vocab.json and merges.txt are not"):
        load(MODEL)


# Incomplete snapshots


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (TOKENIZER, "vocab.json and merges.txt (or tokenizer.json)"),
        (("config.json", "merges.txt"), "config.json, merges.txt (or tokenizer.json)"),
        ((FILE,), "model.safetensors (or pytorch_model.bin)"),
    ],
)
def test_offline_the_missing_files_and_the_places_are_named(cache, files, tmp_path, missing, words):
    snapshot, own = cache.add(without(files, *missing)), tmp_path / "weights" / MODEL
    assert failure() == (
        f"cannot download {MODEL}: HF_HUB_OFFLINE is set, and {MODEL} is not complete in {own} or the Hugging Face"
        f" cache ({snapshot}); to download what is missing by hand, put {words} from"
        f" https://huggingface.co/{MODEL}/tree/main into {own}"
    )
    assert not (tmp_path / "weights").exists()


def test_offline_the_bundled_model_answers_if_gpt2_is_not_complete(cache, files, capsys):
    snapshot = cache.add(without(files, *TOKENIZER), "gpt2")
    assert hub.choose_model(None) == str(hub.bundled_folder())
    first, second = capsys.readouterr().err.splitlines()
    assert f"gpt2 is not complete in {hub.weights_folder() / 'gpt2'} or the Hugging Face cache ({snapshot})," in first
    assert "by hand, put vocab.json and merges.txt (or tokenizer.json) from " in second


@pytest.mark.parametrize("missing", [("config.json",), TOKENIZER, (FILE,), ("vocab.json", FILE)])
def test_only_files_that_are_not_in_the_cache_are_downloaded(online, cache, files, folder, missing):
    snapshot = cache.add(without(files, *missing))
    assert hub.model_folder(MODEL) == folder
    assert downloaded(online) == {*missing}
    assert all(f"/resolve/{COMMIT}/" in request.path for request in online.requests)
    assert stored(folder) == files
    linked = {path.name: path.resolve() for path in folder.iterdir() if path.is_symlink()}
    assert linked == {name: (snapshot / name).resolve() for name in files if name not in missing}
    assert load(MODEL).config.n_layer == 2


def test_files_of_a_commit_that_the_hub_no_longer_has_are_not_mixed_with_others(online, cache, files, folder):
    online.revisions = {"main"}
    cache.add(without({**files, FILE: b"old"}, *TOKENIZER))
    assert hub.model_folder(MODEL) == folder
    assert stored(folder) == files
    assert not any(path.is_symlink() for path in folder.iterdir())


def test_a_mirror_without_commits_completes_a_model_from_main(online, cache, files, folder):
    online.revisions, online.has_commits = {"main"}, False
    cache.add(without(files, *TOKENIZER))
    assert hub.model_folder(MODEL) == folder
    assert stored(folder) == files
    assert downloaded(online) == {*TOKENIZER}


def test_an_interrupted_completion_stays_at_its_commit(online, cache, files, folder):
    cache.add(without(files, *TOKENIZER))
    online.faults["hub", "merges.txt"] = iter([400])
    failure()
    online.requests.clear()
    hub.model_folder(MODEL)
    assert [request.path for request in online.requests][1:] == [f"/{MODEL}/resolve/{COMMIT}/merges.txt"]


def test_files_under_weights_are_kept(online, cache, files, folder):
    cache.add({**without(files, FILE), "config.json": b"{}", "added_tokens.json": b"{}"})
    folder.mkdir(parents=True)
    for name in ("config.json", *TOKENIZER):
        (folder / name).write_bytes(files[name])
    hub.model_folder(MODEL)
    assert stored(folder) == files
    assert [request.path for request in online.requests if request.place == "hub"] == [f"/{MODEL}/resolve/main/{FILE}"]


def test_the_snapshot_with_more_files_is_completed(online, cache, files, tmp_path):
    cache.add({"config.json": files["config.json"]}, "gpt2")
    cache.add(without(files, "merges.txt"), "openai-community/gpt2")
    assert hub.model_folder("gpt2") == tmp_path / "weights" / "gpt2"
    assert downloaded(online) == {"merges.txt"}


def test_sharded_weights_are_completed(online, cache, files, folder):
    whole = online.files.pop(FILE)
    index = json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}).encode()
    online.files |= {INDEX: index, "1.safetensors": whole[:50_000], "2.safetensors": whole[50_000:]}
    cache.add(without(online.files, "2.safetensors"))
    hub.model_folder(MODEL)
    assert downloaded(online) == {"2.safetensors"}
    assert stored(folder) == online.files


def test_a_damaged_blob_is_not_used(online, cache, files, folder, monkeypatch):
    snapshot = cache.add(without(files, "vocab.json"))
    for name in ("merges.txt", FILE):
        (snapshot / name).resolve().write_bytes(files[name][:-1])
    cache.before = listing(cache.folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_bytes(files["vocab.json"])
    message = failure()
    assert f"files are damaged in {snapshot}; " in message
    assert "put merges.txt (or tokenizer.json), model.safetensors (or pytorch_model.bin) from" in message
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub.model_folder(MODEL)
    assert downloaded(online) == {"merges.txt", FILE}
    assert stored(folder) == files


def test_a_blob_can_be_a_link_into_the_store_that_models_share(online, cache, files, folder):
    blob = (cache.add(without(files, *TOKENIZER)) / FILE).resolve()
    shared = cache.folder / "blobs" / "ab" / ("ab" * 32)  # named by the hash of its chunks
    shared.parent.mkdir(parents=True)
    blob.rename(shared).chmod(0o444)
    blob.symlink_to(shared)
    cache.before = listing(cache.folder)
    hub.model_folder(MODEL)
    assert downloaded(online) == {*TOKENIZER}
    assert stored(folder) == files


def test_files_are_copied_where_there_are_no_links(online, cache, files, folder, monkeypatch):
    cache.add(without(files, *TOKENIZER))

    def fail(*_):
        raise OSError("A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", fail)
    hub.model_folder(MODEL)
    assert downloaded(online) == {*TOKENIZER}
    assert stored(folder) == files
    assert not any(path.is_symlink() for path in folder.iterdir())


def test_the_cache_and_weights_can_be_complete_together(cache, files, tmp_path):
    cache.add(without(files, *TOKENIZER), "openai-community/gpt2")
    own = tmp_path / "weights" / "gpt2"
    own.mkdir(parents=True)
    for name in TOKENIZER:
        (own / name).write_bytes(files[name])
    assert hub.choose_model(None) == str(own)  # offline
    assert stored(own) == files


def test_a_model_whose_cache_was_deleted_is_downloaded(online, cache, files, folder):
    cache.add(without(files, *TOKENIZER))
    hub.model_folder(MODEL)
    shutil.rmtree(cache.folder)
    cache.folder.mkdir()
    cache.before = listing(cache.folder)
    online.requests.clear()
    hub.model_folder(MODEL)
    assert downloaded(online) == {"config.json", FILE}
    assert stored(folder) == files
    assert not any(path.is_symlink() for path in folder.iterdir())


def test_a_link_that_leads_nowhere_is_made_again(cache, files, folder):
    cache.add(without(files, *TOKENIZER))
    folder.mkdir(parents=True)
    for name in TOKENIZER:
        (folder / name).write_bytes(files[name])
    (folder / FILE).symlink_to(folder / "gone")
    assert hub.model_folder(MODEL) == folder
    assert stored(folder) == files
    assert (folder / FILE).resolve().is_relative_to(cache.folder)


# Parts of a model


def test_a_tokenizer_alone_is_used_from_the_cache(cache, files):
    snapshot = cache.add({name: files[name] for name in TOKENIZER}, "openai-community/gpt2")
    assert hub.tokenizer_folder("gpt2") == snapshot


def test_a_tokenizer_is_completed_without_the_weights(online, cache, files, folder):
    cache.add(without(files, "merges.txt"))
    assert hub.tokenizer_folder(MODEL) == folder
    assert stored(folder) == without(files, FILE)
    assert downloaded(online) == {"merges.txt"}


def test_params_needs_config_json_only(cache, files, tmp_path, capsys):
    cache.add({"config.json": files["config.json"]})
    result = run_in_process(command.main, capsys, "--params", "-m", MODEL)
    assert (result.status, result.err) == (0, "")
    assert "265×32" in result.out
    assert not (tmp_path / "weights").exists()


# int8


def test_the_int8_file_is_kept_under_weights(cache, files, tmp_path):
    snapshot = cache.add(files, "openai-community/gpt2")
    load("gpt2", "int8")
    load(snapshot, "int8")
    saved = tmp_path / "weights" / "openai-community" / "gpt2" / int8.FILE
    assert [path for path in (tmp_path / "weights").rglob("*") if path.is_file()] == [saved]


def test_two_commits_do_not_share_an_int8_file(cache, files, tmp_path):
    other = write_model(tmp_path / "other", seed=1)
    snapshots = [
        cache.add(files, commit="1" * 40, links=False),
        cache.add({name: (other / name).read_bytes() for name in ALL_FILES}, commit="2" * 40, links=False),
    ]
    for snapshot in snapshots:
        for path in snapshot.iterdir():
            os.utime(path, ns=(0, 0))  # as unpacked from an archive: the same sizes and times
    cache.before = listing(cache.folder)
    first, second = (np.asarray(load(snapshot, "int8").weights["wte.weight"]) for snapshot in snapshots)
    assert not np.array_equal(first, second)
    assert len([*(tmp_path / "weights").rglob(int8.FILE)]) == 1


def test_an_unknown_model_is_an_error_that_names_the_cache(cache, capsys, tmp_path):
    cache.folder.mkdir()
    cache.before = listing(cache.folder)
    assert_one_error(run_in_process(command.main, capsys, "-m", MODEL, "a"), 1, cache.folder, tmp_path / "weights")
