"""Runs `s4m` as forks of one process that has imported everything, and kills them: one request a line.

`{"arguments": [...], "log": PATH, "delay_s": 1.5, "signal": 9, "to_all": true}` on standard input runs
`s4m ARGUMENTS` in a session of its own, where the commands that it starts are processes as usual, and sends
the signal after `delay_s`, to all processes of the session or to the first alone. The answer holds the exit
status of the first process, and whether it was alive when it was signaled. `{"wait_for": SESSION}` waits
until all processes of a session have ended.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from s4m_pipeline.core import processes
from s4m_stages.cli import main

PR_SET_CHILD_SUBREAPER = 36


class Forked:
    """Stands for `subprocess.Popen` in the launcher: forks where that would start Python again."""

    def __init__(self, command: Sequence[str], *, env: dict[str, str], **_: Any) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            os.setpgid(0, 0)
            os.environ.clear()
            os.environ.update(env)
            run(command[len(processes.S4M) :])

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):  # waited for, just now
            os.kill(self.pid, number)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def run(arguments: Sequence[str]) -> NoReturn:
    """`s4m ARGUMENTS` in this process, which ends with it."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["s4m", *arguments]
    code: Any = 1
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _members(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has ended
            continue
        if int(of) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


def _signal_all(session: int, number: int) -> None:
    for pid in _members(session):
        os.kill(pid, number)
    while number == signal.SIGKILL and _members(session):  # those forked in between
        _signal_all(session, number)


def _wait_for(session: int) -> None:
    while _members(session):
        time.sleep(0.01)
    while _reap() > 0:
        pass


def _reap() -> int:
    try:
        return os.waitpid(-1, os.WNOHANG)[0]
    except ChildProcessError:
        return 0


def _serve(request: dict[str, Any]) -> dict[str, Any]:
    if "wait_for" in request:
        _wait_for(request["wait_for"])
        return {}
    session = os.fork()
    if session == 0:
        os.setsid()
        log = os.open(request["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        run(request["arguments"])
    ended, signaled = 0, False
    deadline = time.monotonic() + request.get("delay_s", 0)
    while not ended and time.monotonic() < deadline:
        time.sleep(0.005)
        ended, status = os.waitpid(session, os.WNOHANG)
    if not ended:
        if "signal" in request:
            signaled = True
            if request["to_all"]:
                _signal_all(session, request["signal"])
            else:
                os.kill(session, request["signal"])
        _, status = os.waitpid(session, 0)
    return {"session": session, "code": os.waitstatus_to_exitcode(status), "signaled": signaled}


if __name__ == "__main__":
    import torch

    from s4m_pipeline.models.registry import register_all

    torch.set_num_threads(1)
    register_all()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans become children of this process
    processes.subprocess = SimpleNamespace(Popen=Forked, DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT)
    for line in sys.stdin:
        print(json.dumps(_serve(json.loads(line))), flush=True)
