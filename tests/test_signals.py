"""Loading processes: who may end them."""

import signal
import subprocess
import sys
from typing import Any

from torch.utils.data import DataLoader

from s4m_pipeline.core.signals import ignore_external_signals

PARENT = """
import os, signal
from torch.utils.data import DataLoader
from s4m_pipeline.core.signals import ignore_external_signals
loaded = iter(DataLoader(range(100), num_workers=2, worker_init_fn=ignore_external_signals))
next(loaded)
os.kill(os.getpid(), signal.SIGKILL)
"""


def _send(number: signal.Signals, pid: int) -> None:
    """From a process that is not the parent."""
    subprocess.run(["kill", f"-{number.value}", str(pid)], check=True)


def test_ignore_external_signals__signals_of_others__do_not_end_it_but_its_parents_does() -> None:
    loaded: Any = iter(DataLoader(range(100), num_workers=1, worker_init_fn=ignore_external_signals))
    next(loaded)
    (worker,) = loaded._workers
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        _send(number, worker.pid)
    assert [int(next(loaded)) for _ in range(20)] == list(range(1, 21))
    worker.terminate()
    worker.join(timeout=10)
    assert worker.exitcode == 0


def test_ignore_external_signals__parent_is_killed__ends_too() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as process:
        process.communicate(timeout=30)  # the loading processes have the other end of the pipe, too
    assert process.returncode == -signal.SIGKILL
