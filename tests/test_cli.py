"""What the commands share, as far as the tests of the commands do not show it."""

import ctypes
import io
import platform
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from numpy_gpt2.cli import keep_freed_memory, progress_bar


class Screen(io.StringIO):
    def isatty(self):
        return True


def seen(stream, monkeypatch, seconds, **options):
    """What a bar puts on standard error: one entry each time that it is drawn."""
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(total=20, unit="step", **options) as bar:
        for i in range(20):
            time.sleep(seconds / 20)
            bar.set_postfix_str(f"loss {i}", refresh=False)
            bar.update()
    return stream.getvalue().split("\r")[1:]


def test_a_progress_bar_moves_on_a_screen_and_hardly_in_a_file(monkeypatch, capsys):
    on_screen = seen(Screen(), monkeypatch, 0.4)
    assert len(on_screen) >= 3
    in_a_file = seen(io.StringIO(), monkeypatch, 0.2)
    assert len(in_a_file) == 2
    for lines in (on_screen, in_a_file):
        assert "| 0/20 [" in lines[0]
        assert "| 20/20 [" in lines[-1]
        assert "step/s, loss 19]" in lines[-1]
        assert lines[-1].endswith("\n")
    assert capsys.readouterr().out == ""


def test_a_progress_bar_can_be_left_out(monkeypatch):
    assert seen(Screen(), monkeypatch, 0, disable=True) == []


PAGE_FAULTS = """
import resource
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from numpy_gpt2.cli import keep_freed_memory

def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(1 << 20) for _ in range(4)]
    del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
with ThreadPoolExecutor(1) as pool:
    print(step(), step(), step(), pool.submit(step).result())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is about glibc")
def test_freed_memory_is_used_again():
    """By threads too; without it, each step has as many page faults as the first."""
    out = subprocess.run([sys.executable, "-c", PAGE_FAULTS], check=True, capture_output=True, text=True).stdout
    first, *later = map(int, out.split())
    assert max(later) < first / 10


@pytest.mark.parametrize("error", [OSError, TypeError, None])
def test_other_c_libraries_are_left_alone(monkeypatch, error):
    def library(name):
        if error:
            raise error
        return SimpleNamespace()  # without mallopt

    monkeypatch.setattr(ctypes, "CDLL", library)
    keep_freed_memory()
