"""Commands that call other commands, each in a process of its own."""

import signal
import subprocess
import sys
from collections.abc import Sequence

from s4m_pipeline.signals import answered


def call(arguments: Sequence[str]) -> None:
    """Run `s4m ARGUMENTS` and wait; it gets SIGTERM and Ctrl-C as well, and has time to save.

    Raises:
        SystemExit: with its exit code, if it fails; 128 + signal, if a signal ended it.
    """
    # Files handed down to this process go on to the next: `s4m ablation` keeps folders locked in this way.
    process = subprocess.Popen([sys.executable, "-m", "stages", *arguments], close_fds=False)
    with answered(lambda number, _: process.send_signal(number), signal.SIGTERM):
        code = _wait(process)
    if code:
        raise SystemExit(code if code > 0 else 128 - code)


def _wait(process: "subprocess.Popen[bytes]") -> int:
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the terminal has sent it to the process, too
            continue
