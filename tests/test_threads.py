"""Single-threaded products, and the thread pool."""

import os
import shutil
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from numpy_gpt2 import GPT2Config, generate, threads
from numpy_gpt2.__main__ import main as generate_main
from numpy_gpt2.evaluate import main as evaluate_main
from numpy_gpt2.explain.__main__ import main as explain_main
from numpy_gpt2.hub import bundled_folder
from numpy_gpt2.threads import run_in_threads, single_threaded_products, thread_count, thread_pool
from numpy_gpt2.train.__main__ import main as train_main

from .conftest import ROOT
from .reference.seeded import seeded_tokens, seeded_weights

pytestmark = pytest.mark.skipif(not threadpool_info(), reason="NumPy's BLAS has no thread limit here")


def threads_now():
    return max(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")


@pytest.fixture(autouse=True)
def two_threads():
    """Two BLAS threads, even on a machine with one core."""
    with threadpool_limits(2):
        yield
        assert threads_now() == 2


def test_overlapping_limits_end_with_the_last():
    first, second = single_threaded_products(), single_threaded_products()
    assert (threads_now(), thread_count()) == (2, 2)
    first.__enter__()
    second.__enter__()
    assert (threads_now(), thread_count()) == (1, 2)
    first.__exit__(None, None, None)
    assert (threads_now(), thread_count()) == (1, 2)
    second.__exit__(None, None, None)
    assert (threads_now(), thread_count()) == (2, 2)


def test_an_error_ends_the_limit():
    with pytest.raises(KeyError), single_threaded_products():
        raise KeyError
    assert threads_now() == 2


def test_a_pool_has_all_threads_and_products_have_one():
    with thread_pool() as pool:
        assert threads_now() == 1
        barrier = threading.Barrier(2, timeout=10)
        assert len(list(pool.map(lambda _: barrier.wait(), range(2)))) == 2
        with thread_pool() as inner:
            assert list(inner.map(abs, [-1])) == [1]


def test_ctrl_c_at_any_call_leaves_no_limit():
    """Python handles signals at the start of a function and after a call of C code."""

    def press(n):
        """Press Ctrl-C at the n-th of these points in threads.py."""
        n_points = 0

        def profile(frame, event, _):
            nonlocal n_points
            n_points += frame.f_code.co_filename == threads.__file__ and event in ("call", "c_return")
            if n_points == n:
                n_points += 1
                raise KeyboardInterrupt

        return profile

    for n in range(1, 100):
        try:
            sys.setprofile(press(n))
            with single_threaded_products():
                pass
            break
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        assert (threads_now(), threads.active_limits, threads.original_counts) == (2, set(), []), f"point {n}"
    assert 10 < n < 99


def test_a_pool_does_not_wait_for_its_tasks_after_ctrl_c():
    release, started, tasks = threading.Event(), threading.Event(), []

    def task():
        started.set()
        return release.wait(60)

    def work():
        with thread_pool() as pool:
            tasks.append(pool.submit(task))
            started.wait(60)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not tasks[0].done()
    release.set()
    assert tasks[0].result(60) is True


@pytest.fixture(params=[0, 1])
def few_threads(request, monkeypatch):
    """No more threads than this can be started, as where a limit of threads or of memory is reached."""
    start, n_started = threading.Thread.start, 0

    def start_few(thread):
        nonlocal n_started
        n_started += 1
        if n_started > request.param:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_few)


def test_where_no_threads_can_be_started_a_pool_works_without(few_threads):
    with thread_pool() as pool:
        assert list(pool.map(pow, [2, 3], [2, 2])) == [4, 9]
        assert threads_now() == 1


@pytest.mark.parametrize(
    "command",
    [
        [generate_main, "--greedy", "-n", "3", "the " * 200],
        [generate_main, "--int8", "-n", "3", "hi"],
        [evaluate_main, str(ROOT / "LICENSE")],
        [explain_main, "--text", "--ablate", "hi"],
        [train_main, str(ROOT / "README.md"), "--max-steps", "1", "--n-layer", "1", "--n-embd", "8"],
    ],
    ids=["generate", "int8", "evaluate", "explain", "train"],
)
def test_commands_work_where_no_threads_can_be_started(command, few_threads, capsys, tmp_path):
    main, *arguments = command
    model = tmp_path / "model"
    if main is not train_main:
        shutil.copytree(bundled_folder(), model)
    assert main([*arguments, "--out" if main is train_main else "-m", str(model)]) == 0
    assert "error" not in capsys.readouterr().err


def test_threads_share_an_iterator_of_tasks(monkeypatch):
    """Two tasks wait for each other, so two threads do them. Under a limit, no other thread is asked."""
    barrier, seen = threading.Barrier(2, timeout=10), set()
    tasks = iter(range(2))

    def work():
        for _ in tasks:
            barrier.wait()
            seen.add(threading.get_ident())

    run_in_threads(work, 5)
    assert len(seen) == 2
    alone = []
    monkeypatch.setattr(threads, "helpers", None)
    with single_threaded_products():
        run_in_threads(lambda: alone.append(threading.get_ident()), 5)
    run_in_threads(lambda: alone.append(threading.get_ident()), 1)
    assert alone == [threading.get_ident()] * 2


def test_a_busy_helper_is_not_waited_for():
    release, n_calls = threading.Event(), 0

    def work():
        nonlocal n_calls
        n_calls += 1

    busy = threads.helpers().submit(release.wait, 60)
    run_in_threads(work, 2)
    assert n_calls == 1
    release.set()
    assert busy.result() is True


def test_an_error_in_a_helper_is_raised():
    caller, failed = threading.current_thread(), threading.Event()

    def work():
        if threading.current_thread() is caller:
            failed.wait(10)
        else:
            failed.set()
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        run_in_threads(work, 2)


def test_where_no_threads_can_be_started_this_thread_does_the_work(few_threads):
    threads.helpers.cache_clear()
    tasks, done = iter(range(9)), []
    run_in_threads(lambda: done.extend(tasks), 2)
    assert sorted(done) == [*range(9)]
    threads.helpers.cache_clear()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_starts_its_own_helpers():
    script = """
import os, threading
from threadpoolctl import threadpool_limits
from numpy_gpt2.threads import run_in_threads
threadpool_limits(2)
def both():
    barrier = threading.Barrier(2, timeout=10)
    run_in_threads(barrier.wait, 2)
both()
child = os.fork()
if child == 0:
    both()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
both()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=30)


def test_overflow_in_a_pool_gives_no_warning():
    large = np.full(10, 1e38, np.float32)
    with warnings.catch_warnings(action="error"), thread_pool() as pool:
        assert np.isinf(pool.submit(lambda: large * large).result()).all()
        assert np.isinf(large * large).all()


def test_overlapping_calls_of_generate_restore_the_number_of_threads(monkeypatch):
    """Four threads generate at once, each from a prompt that is processed by several threads."""
    monkeypatch.setattr("numpy_gpt2.prefill.SERIAL_MULTIPLY_ADDS", 0)
    config = GPT2Config(vocab_size=50, n_positions=300, n_embd=16, n_layer=2, n_head=2)
    weights = seeded_weights(config, 1, scale=0.4)
    prompt = seeded_tokens(config, 1, (280,))
    options = {"max_new_tokens": 5, "temperature": 0}
    expected, found = list(generate(prompt, weights, config, **options)), []

    def work():
        for _ in range(5):
            found.append(list(generate(prompt, weights, config, **options)))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert found == [expected] * 20
    assert threads_now() == 2
