"""A server of the live page that runs in a thread of the tests."""

import threading
from contextlib import contextmanager

from numpy_gpt2.explain.server import Server


@contextmanager
def running(*arguments, **options):
    """A `Server` with these arguments. It answers as long as this block runs."""
    with Server(*arguments, **options) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield served
        finally:
            served.shutdown()
            thread.join()
