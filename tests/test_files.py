"""staged_writes: either all files of a folder change or none."""

import pytest

from numpy_gpt2.files import staged_writes


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
