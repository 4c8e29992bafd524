"""The texts of a run: files, folders, JSON lines, held-out files, and the tokens that are kept for --resume."""

import numpy as np
import pytest

from numpy_gpt2.train.data import Tokens, documents, load_tokens, save_tokens

from .conftest import (
    END,
    TEXT,
    TINY_RUN,
    assert_one_error,
    break_by_ctrl_c,
    checkpoint,
    everything_in,
    held_out_loss,
    log,
    result_of,
    written,
)


def test_a_folder_is_its_text_files_in_the_order_of_their_names(tmp_path):
    files = [("b.txt", "B"), ("a/z.MD", "Z"), ("a/c.txt", "C"), ("x.py", "P"), ("empty.md", "")]
    for name, text in [*files, ("a/merges.txt", "e r"), (".git/h.txt", "H"), (".h.md", "H")]:
        (tmp_path / ".top" / name).parent.mkdir(exist_ok=True, parents=True)
        written(tmp_path / ".top" / name, text)
    assert documents(str(tmp_path / ".top")) == ["C", "Z", "B"]  # nothing hidden, and no tokenizer


def test_a_line_of_json_is_a_document(tmp_path):
    lines = ['{"text": "one\\ntwo", "id": 1}', "", '{"text": ""}', ' {"text": "caf\\u00e9 \\ud800"}\r']
    assert documents(str(written(tmp_path / "a.jsonl", "\ufeff" + "\n".join(lines)))) == ["one\ntwo", "café �"]


def test_documents_of_all_kinds_are_separated_by_endoftext(prepared, tmp_path, out):
    (tmp_path / "folder").mkdir()
    written(tmp_path / "folder" / "1.txt", "a" * 10)
    written(tmp_path / "folder" / "2.md", "b" * 10)
    records = written(tmp_path / "3.jsonl", '{"text": "cc"}\n{"text": "dd"}\n')
    texts = [tmp_path / "folder", records]
    _, tokens, _, _ = prepared(*texts, "--out", out, *TINY_RUN, "--val-fraction", 0)
    assert tokens.tolist() == [*b"a" * 10, 256, *b"b" * 10, 256, *b"cc", 256, *b"dd"]


@pytest.mark.parametrize(
    ("name", "data", "mentioned"),
    [
        ("a.jsonl", b'{"text": "a"}\n\n{"text": 1}\n', "a.jsonl, line 3 has no text"),
        ("a.jsonl", b'{"text": "a"}\n["text"]\n', "a.jsonl, line 2 has no text"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"\n', "a.jsonl, line 2 is not JSON (Expecting ',' delimiter"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1 is not JSON"),
        ("a.jsonl", b'{"text": ""}\n', "a.jsonl has no text in any line"),
        ("a.txt", b"one\ntwo\ncaf\xe9\n", "a.txt is not UTF-8 (line 3:"),
        ("folder/a.py", b"x = 1", "folder has no text"),
        ("folder/a.txt", b"", "folder has no text"),
        ("folder/a.txt", b"one\n\xff", "a.txt is not UTF-8 (line 2:"),
    ],
)
def test_wrong_texts_are_errors_with_file_and_line(cli, tmp_path, out, name, data, mentioned):
    (tmp_path / "folder").mkdir()
    path = written(tmp_path / name, data)
    text = tmp_path / "folder" if name.startswith("folder") else path
    assert_one_error(cli(text, "--out", out, *TINY_RUN), 1, mentioned)
    assert not out.exists()


def test_val_file_is_held_out_and_all_texts_are_trained_on(cli, prepared, corpus, tmp_path, out):
    held_out = written(tmp_path / "held_out.txt", TEXT[:500])
    run, tokens, ours, _ = prepared(corpus, "--out", out, *TINY_RUN, "--val-file", held_out)
    assert (tokens.tolist(), ours.tolist()) == ([*TEXT.encode()], [*TEXT[:500].encode()])
    flags = [*TINY_RUN, "--max-steps", 4, "--val-file", held_out]
    with pytest.MonkeyPatch.context() as patched:
        break_by_ctrl_c(patched, 2)
        result = cli(corpus, "--out", out, *flags)
    assert (result.status, f"warning: the text of {held_out} is in the training text" in result.err) == (130, True)
    written(held_out, TEXT[:501])
    assert_one_error(cli(corpus, "--out", out, "--resume"), 1, "not the text of this run")
    assert cli("--out", out, "--resume").status == 0
    assert log(out)[-1]["val_loss"] == pytest.approx(held_out_loss(out, np.array([*TEXT[:500].encode()])), abs=1e-5)
    assert run.options.corpus == checkpoint(out)[1]["options"]["corpus"]


def test_val_file_and_val_fraction_exclude_each_other(cli, corpus, out):
    result = cli(corpus, "--out", out, "--val-file", corpus, "--val-fraction", 0.2)
    assert_one_error(result, 2, "--val-file and --val-fraction exclude each other")


def test_resume_needs_no_texts_and_encodes_nothing(cli, uninterrupted, interrupted, monkeypatch):
    monkeypatch.setattr("numpy_gpt2.train.data.encode", None)
    assert cli("--out", interrupted, "--resume").status == 0
    assert result_of(interrupted) == result_of(uninterrupted)


@pytest.mark.parametrize("damage", ["absent", "cut", "other"])
def test_resume_without_texts_and_without_their_tokens_is_an_error(cli, corpus, uninterrupted, interrupted, damage):
    path = interrupted / "tokens.safetensors"
    if damage == "absent":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        save_tokens(path, Tokens(np.arange(99), np.arange(99)), "of other texts")
    before = everything_in(interrupted)
    assert_one_error(cli("--out", interrupted, "--resume"), 1, interrupted, "give the texts with which the run began")
    assert everything_in(interrupted) == before
    assert cli(corpus, "--out", interrupted, "--resume").status == 0  # the tokens are saved again
    assert result_of(interrupted) == result_of(uninterrupted)
    assert load_tokens(interrupted, checkpoint(interrupted)[1]["options"]["corpus"]).held_out.size == len(
        TEXT[END:].encode()
    )


@pytest.mark.parametrize(("largest", "n_bytes"), [(65_535, 2), (65_536, 4)])
def test_kept_tokens_take_two_bytes_if_the_ids_allow_it(tmp_path, largest, n_bytes):
    tokens = Tokens(np.array([5, largest, 0] * 1000), np.array([], np.int64))
    save_tokens(tmp_path / "tokens.safetensors", tokens, "abc")
    assert (tmp_path / "tokens.safetensors").stat().st_size == pytest.approx(3000 * n_bytes, abs=300)
    again = load_tokens(tmp_path, "abc")
    assert [array.tolist() for array in again] == [array.tolist() for array in tokens]
    assert again.training.dtype == np.int64
    assert load_tokens(tmp_path, "abd") is None


def test_no_text_and_no_resume_is_an_error(cli, out):
    assert_one_error(cli("--out", out), 2, "there is no text", "--resume")
