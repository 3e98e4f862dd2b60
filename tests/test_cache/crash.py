"""A process that labels a small generation and dies on the way: at a chosen step or at a chosen time.

Run as a script it serves requests on standard input, one JSON object a line: `{"root": ..., "step": 17}` or
`{"root": ..., "delay_s": 0.05}`. Each is answered by forking a child that writes, publishes and is killed
with SIGKILL just before its `step`-th operation that changes the file system, or after `delay_s`. The answer
holds the number of operations that were begun and the image ids that the writer had reported as stored.
"""

import json
import os
import select
import signal
import sys
from pathlib import Path

from s4m_cache.generations import begin, publish
from s4m_cache.sharding import ShardSpec
from s4m_cache.writer import ShardWriter
from test_cache.samples import make_labels, make_spec

IMAGE_IDS = range(8)
PART_IMAGES = 4


def label_everything(root: Path, stored=lambda ids: None) -> None:
    """What refine does: begin or join, write what is pending, publish."""
    generation = begin(root, make_spec(IMAGE_IDS))
    with ShardWriter(generation, ShardSpec(1, 1), max_images=PART_IMAGES) as writer:
        pending = writer.pending.tolist()
        for index, image_id in enumerate(pending, 1):
            writer.append(make_labels(image_id))
            if index % PART_IMAGES == 0:
                stored(pending[index - PART_IMAGES : index])
    publish(generation)


class StepCounter:
    """Counts the operations that change files below `root`; dies before the chosen one."""

    EVENTS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate")

    def __init__(self, root: Path, fatal_step: int | None) -> None:
        self.root, self.fatal_step, self.count = str(root), fatal_step, 0
        self._fsync = os.fsync
        os.fsync = self._counted_fsync
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple) -> None:
        written = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (written or event in self.EVENTS) and str(arguments[0]).startswith(self.root):
            self._step()

    def _counted_fsync(self, descriptor: int) -> None:
        self._step()
        self._fsync(descriptor)

    def _step(self) -> None:
        self.count += 1
        if self.count == self.fatal_step:
            os.kill(os.getpid(), signal.SIGKILL)


def _child(root: Path, fatal_step: int | None, report: int) -> None:
    steps = StepCounter(root, fatal_step)
    label_everything(root, stored=lambda ids: os.write(report, f"stored {json.dumps(ids)}\n".encode()))
    os.write(report, f"steps {steps.count}\n".encode())


def _serve(request: dict) -> dict:
    receive, report = os.pipe()
    child = os.fork()
    if child == 0:
        _child(Path(request["root"]), request.get("step"), report)
        os._exit(0)
    os.close(report)
    if "delay_s" in request:
        # The pipe closes when the child is done before its time.
        select.select([], [], [], request["delay_s"])
        os.kill(child, signal.SIGKILL)
    lines = [line.split(" ", 1) for line in os.fdopen(receive).read().splitlines()]
    _, status = os.waitpid(child, 0)
    stored = [image_id for word, ids in lines if word == "stored" for image_id in json.loads(ids)]
    steps = [int(count) for word, count in lines if word == "steps"]
    return {
        "killed": os.WIFSIGNALED(status),
        "failed": os.WIFEXITED(status) and status != 0,
        "stored": stored,
        "steps": steps,
    }


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(_serve(json.loads(line))), flush=True)
