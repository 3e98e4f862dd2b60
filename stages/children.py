"""Commands that call other commands, each in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from signal import SIGHUP, SIGINT, SIGTERM

from cache.sharding import ShardSpec
from s4m_pipeline.signals import answered


def call(arguments: Sequence[str]) -> None:
    """Run `s4m ARGUMENTS` and wait; SIGTERM, SIGINT and SIGHUP are passed on, with time to save.

    A task of a job array that runs several commands is one of several experiments, not a shard of one.

    Raises:
        SystemExit: with its exit code, if it fails; 128 + signal, if a signal ended it.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "stages", *arguments],
        env=ShardSpec.no_environment(os.environ),
        # Files handed down to this process go on to the next: so `s4m ablation` keeps folders locked.
        close_fds=False,
        process_group=0,  # a signal to our own group, as Ctrl-C, would else reach it twice
    )
    with answered(lambda number, _: process.send_signal(number), SIGTERM, SIGINT, SIGHUP):
        code = process.wait()
    if code:
        raise SystemExit(code if code > 0 else 128 - code)
