"""A learner's file runs in a process of its own, with a time limit: whatever it does, the command goes on."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, TextIO

TIME_LIMIT = 10  # seconds, for all checks together; they take less than one


def run_in_process(task: str, path: Path, *words: str, time_limit: int = TIME_LIMIT) -> dict[str, Any]:
    """Do a task of `tasks.py` with this file in a new process. Returns what it gives, or {"problem": one line}."""
    command = [sys.executable, "-m", "numpy_gpt2.learn.process", task, str(path), str(time_limit), *words]
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # the arrays are small
    columns = str(shutil.get_terminal_size((100, 24)).columns)
    environment = {**os.environ, **one_thread, "PYTHONIOENCODING": "utf-8", "COLUMNS": columns}
    package = str(Path(__file__).parents[2])  # where Python finds this package, if it is not installed
    environment["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=time_limit + 10,
            env=environment,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return {"problem": f"{path.name} did not end within {time_limit} seconds, and it could not be stopped earlier."}
    if "Timeout (" in done.stderr:
        return {"problem": timeout_text(done.stderr.rpartition("Timeout (")[2], path, time_limit)}
    _, _, result = done.stdout.rpartition(MARK)
    if not result:
        return {"problem": f"{path.name} ended the process (exit status {done.returncode})."}
    return dict(json.loads(result))


MARK = "\0result\0"


def timeout_text(traceback: str, path: Path, time_limit: int) -> str:
    """What did not end: the innermost line of the file in a traceback of `faulthandler`."""
    found = re.search(rf'File "[^"]*{re.escape(path.name)}", line (\d+) in (\S+)', traceback)
    where = f" It was in line {found[1]}, in {found[2]}." if found else ""
    return f"{path.name} did not end within {time_limit} seconds: is there an endless loop?{where}"


def main(argv: list[str]) -> None:
    """The new process: run the file, do the task, and print the result as JSON."""
    task, name, time_limit, *words = argv
    path, stdout = Path(name), sys.stdout
    faulthandler.dump_traceback_later(float(time_limit), exit=True)
    printed = io.StringIO()
    result: dict[str, Any] = {}
    with contextlib.redirect_stdout(printed):
        from . import own, tasks

        try:
            loaded = own.load_file(path)
        except (OSError, ValueError) as error:
            result = {"problem": str(error)}
        else:
            result = tasks.TASKS[task](loaded, path, *words)
    if lines := printed.getvalue().splitlines():
        more = f" and {len(lines) - 1} more lines" if len(lines) > 1 else ""
        result["printed"] = f"{path.name} prints {lines[0][:60]!r}{more}; prints are not shown."
    finish(result, stdout)


def finish(result: dict[str, Any], stdout: TextIO) -> None:
    """Write the result and end the process, whatever threads the file has started."""
    stdout.write(MARK + json.dumps(result))
    stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
