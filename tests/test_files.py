"""staged_writes: either all files of a folder change or none. read_utf8: a file, or standard input."""

import io
import sys

import pytest

from numpy_gpt2.files import read_utf8, staged_writes


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
