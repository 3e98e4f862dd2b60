"""One process for each GPU of this machine, a shard each."""

import os
import signal
import subprocess
from collections.abc import Sequence
from types import FrameType

from s4m_pipeline.children import S4M
from s4m_pipeline.signals import answered


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    import torch

    count = torch.cuda.device_count()
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return listed.split(",")[:count] if listed else [str(index) for index in range(count)]


def run_shards(arguments: Sequence[str], gpus: Sequence[str], program: Sequence[str] = S4M) -> int:
    """Run `s4m ARGUMENTS --shard i/n` for each of n GPUs at once, and wait for all.

    A shard that fails does not stop the others: what they store counts. SIGTERM and SIGINT are passed on.

    Returns:
        0 if all succeeded, else the exit code of the first shard that did not.
    """
    processes: list[subprocess.Popen[bytes]] = []
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for process in processes:
            process.send_signal(number)

    with answered(pass_on, signal.SIGTERM, signal.SIGINT):
        for index, gpu in enumerate(gpus, start=1):
            if not received:
                processes.append(_start([*program, *arguments, "--shard", f"{index}/{len(gpus)}"], gpu))
        codes = [process.wait() for process in processes]
    failed = [code for code in codes if code]
    if len(processes) < len(gpus):  # a signal came before all were started
        failed.append(-received[0])
    # A process that a signal ended has a negative code; shells and clusters know it as 128 + signal.
    return (failed[0] if failed[0] > 0 else 128 - failed[0]) if failed else 0


def _start(command: Sequence[str], gpu: str) -> "subprocess.Popen[bytes]":
    """A process group of its own: Ctrl-C in a terminal would else reach the shards twice."""
    return subprocess.Popen(
        command,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": gpu},
        process_group=0,
    )
