"""staged_writes: either all files of a folder change or none. Locks. read_utf8: a file, or standard input."""

import errno
import fcntl
import io
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from numpy_gpt2.files import STAGING, read_utf8, staged_writes, try_lock


def contents(folder):
    """All files and folders inside a folder: path -> bytes, or False for a folder."""
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def test_staged_files_appear_together_at_the_end(tmp_path):
    folder = tmp_path / "new" / "folder"
    for content in (b"one", b"another"):  # the second time, the files exist already
        with staged_writes(folder) as staging:
            before = {path.name: path.read_bytes() for path in folder.iterdir() if path != staging}
            for name in ("a", "b"):
                (staging / name).write_bytes(content)
            assert {path.name: path.read_bytes() for path in folder.iterdir() if path != staging} == before
        assert contents(folder) == {"a": content, "b": content}


def write_two_files_and_fail(folder, error):
    with staged_writes(folder) as staging:
        (staging / "a").write_text("new")
        (staging / "b").write_text("new")
        raise error


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_folder_unchanged(tmp_path, error):
    for name in ("a", "other"):
        (tmp_path / name).write_text(name)
    before = contents(tmp_path)
    with pytest.raises(error):
        write_two_files_and_fail(tmp_path, error)
    assert contents(tmp_path) == before


def test_a_folder_that_cannot_be_written_is_an_oserror(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match=r"cannot write into .*file: File exists; the files in it are unchanged"),
        staged_writes(tmp_path / "file"),
    ):
        pass


def test_a_dash_is_standard_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").write_text("the file")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("é\r\n".encode())))
    assert read_utf8("-") == "é\r\n"
    assert read_utf8("./-") == "the file"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9")))
    with pytest.raises(ValueError, match="standard input is not UTF-8"):
        read_utf8("-")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match="standard input is closed"):
        read_utf8("-")


KILLED = """
import os, signal, sys
from pathlib import Path
from numpy_gpt2.files import staged_writes

with staged_writes(Path(sys.argv[1])) as staging:
    (staging / "large").write_bytes(bytes(1000))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_a_writer(folder):
    result = subprocess.run([sys.executable, "-c", KILLED, str(folder)], timeout=60)
    assert result.returncode == -signal.SIGKILL


def test_the_next_write_removes_what_a_killed_writer_left(tmp_path):
    for _ in range(2):
        kill_a_writer(tmp_path)
    assert len(os.listdir(tmp_path)) == 1  # the second removed what the first left
    with staged_writes(tmp_path) as staging:
        (staging / "a").touch()
    assert contents(tmp_path) == {"a": b""}


def test_a_write_does_not_disturb_another_writer_or_other_folders(tmp_path):
    (tmp_path / "tmp12345678").mkdir()
    with staged_writes(tmp_path) as first:
        (first / "a").touch()
        with staged_writes(tmp_path) as second:
            (second / "b").touch()
        assert (first / "a").exists()
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "tmp12345678"]


def test_many_writers_at_once_all_succeed(tmp_path):
    """Each looks for folders to remove while the others make and lock theirs."""

    def write(name):
        for i in range(20):
            with staged_writes(tmp_path) as staging:
                (staging / name).write_text(str(i))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    assert contents(tmp_path) == dict.fromkeys("abcd", b"19")


def test_a_folder_has_one_lock(tmp_path):
    for _ in range(2):
        with try_lock(tmp_path) as first, try_lock(tmp_path) as second:
            assert (first, second) == (True, False)
    with try_lock(tmp_path / "none") as none:
        assert none is False


def test_without_locks_files_are_written_and_nothing_is_removed(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    kill_a_writer(tmp_path)
    monkeypatch.setattr(fcntl, "flock", flock)
    with staged_writes(tmp_path) as staging:
        (staging / "a").touch()
    assert sorted(name[: len(STAGING)] for name in os.listdir(tmp_path)) == [STAGING, "a"]
