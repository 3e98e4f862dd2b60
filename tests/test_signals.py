"""Loading processes: who may end them."""

import signal
import subprocess
import sys
from typing import Any

import pytest
from torch.utils.data import DataLoader

from s4m_pipeline.core.signals import ignore_external_signals

PARENT = """
import os, signal, time
import pytest
from torch.utils.data import DataLoader
from s4m_pipeline.core.signals import ignore_external_signals
def initialize(worker_id):
    time.sleep({delay_s})
    ignore_external_signals(worker_id)
loaded = iter(DataLoader(range(100), num_workers=2, worker_init_fn=initialize))
{wait}
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
    worker.join(timeout=60)
    assert worker.exitcode == 0


@pytest.mark.parametrize(
    ("delay_s", "wait"), [(0, "next(loaded)"), (1, "")], ids=["at work", "while it starts"]
)
def test_ignore_external_signals__parent_is_killed__ends_too(delay_s: int, wait: str) -> None:
    program = PARENT.format(delay_s=delay_s, wait=wait)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        process.communicate(timeout=120)  # the loading processes have the other end of the pipe, too
    assert process.returncode == -signal.SIGKILL
