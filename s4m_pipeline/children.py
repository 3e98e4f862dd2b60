"""`s4m` called by itself, in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM

from cache.sharding import ShardSpec
from s4m_pipeline.signals import answered

S4M = (sys.executable, "-P", str(Path(__file__).absolute().parents[1] / "stages/__main__.py"))
"""Command line of `s4m` with the code of this process, whatever is installed or lies in the current folder.

`-m stages` would look in that folder first, and import a user's `cache.py`.
"""


def call(arguments: Sequence[str]) -> None:
    """Run `s4m ARGUMENTS` and wait; SIGTERM, SIGINT and SIGHUP are passed on, with time to save.

    A task of a job array that runs several commands is one of several experiments, not a shard of one.

    Raises:
        SystemExit: with its exit code, if it fails; 128 + signal, if a signal ended it.
    """
    process = subprocess.Popen(
        [*S4M, *arguments],
        env=ShardSpec.no_environment(os.environ),
        # Files handed down to this process go on to the next: so `s4m ablation` keeps folders locked.
        close_fds=False,
        process_group=0,  # a signal to our own group, as Ctrl-C, would else reach it twice
    )
    with answered(lambda number, _: process.send_signal(number), SIGTERM, SIGINT, SIGHUP):
        code = process.wait()
    if code:
        raise SystemExit(code if code > 0 else 128 - code)
