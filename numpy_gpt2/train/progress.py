"""What a user sees and does during a run: the progress bar in a terminal, and Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..console import print_stderr

if TYPE_CHECKING:
    from tqdm import tqdm


@dataclass
class Interrupt:
    """When Ctrl-C was pressed. It is true from then on."""

    time: float | None = None  # of time.monotonic

    def __bool__(self) -> bool:
        return self.time is not None


@contextmanager
def delayed_interrupt() -> Generator[Interrupt]:
    """Let Ctrl-C wait until the step is done. Yields an object that tells whether and when Ctrl-C was pressed.

    A second Ctrl-C interrupts at once.
    """
    interrupt = Interrupt()

    def note(*_: object) -> None:
        interrupt.time = time.monotonic()
        signal.signal(signal.SIGINT, usual)

    usual = signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, usual)


@contextmanager
def redrawn(bar: tqdm[Any], interrupt: Interrupt) -> Generator[None]:
    """Redraw the bar twice a second in a terminal, because a step may take long. Say there that Ctrl-C was noticed."""
    ended = threading.Event()

    def redraw() -> None:
        noticed = False
        while not ended.wait(0.5):
            if interrupt and not noticed:
                noticed = True
                with bar.external_write_mode():
                    print_stderr("stopping after this step; Ctrl-C again stops at once")
            bar.refresh()

    thread = threading.Thread(target=redraw, daemon=True)
    if sys.stderr and sys.stderr.isatty():
        thread.start()
    try:
        yield
    finally:
        ended.set()
