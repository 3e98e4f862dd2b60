"""Which generation of labels a training used from which step on: a file beside its checkpoints."""

import json
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process

from cache.atomic import write_text
from cache.fingerprint import Fingerprint


class GenerationLog:
    """generations.jsonl: one line each time that labels were taken, or refused by the gate.

    On several devices all ranks keep it, and rank 0 writes it.

    Its lines are dicts with `step`, `made` (the generation decided on), `decision` ("taken", "warned",
    "rejected"), `generation` (the one in use from that step on), and `quality` and `statistics` of the one
    decided on, which may be gone from the cache long before this line. The first one has the `fingerprint`
    of the labels that the training began with.

    Args:
        path: the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.entries: list[dict[str, Any]] = [json.loads(line) for line in lines]

    @property
    def first(self) -> int | None:
        """The generation that the training began with; None before it began."""
        return int(self.entries[0]["generation"]) if self.entries else None

    @property
    def fingerprint(self) -> Fingerprint | None:
        """What made the labels that the training began with; None before it began."""
        return self.entries[0]["fingerprint"] if self.entries else None

    @property
    def latest(self) -> int:
        """The generation in use."""
        return int(self.entries[-1]["generation"])

    def decided_at(self, step: int) -> bool:
        """Whether there is a line of this step."""
        return any(entry["step"] == step for entry in self.entries)

    def drop_after(self, step: int) -> None:
        """Forget what came after the checkpoint that a training resumes from."""
        kept = [entry for entry in self.entries if entry["step"] <= step]
        if len(kept) < len(self.entries):
            self.entries = kept
            self._write()

    def record(self, step: int, generation: int, decision: str, *, made: int, **about: Any) -> None:
        """Add a line."""
        self.entries.append(
            {"step": step, "generation": generation, "decision": decision, "made": made, **about}
        )
        self._write()

    def _write(self) -> None:
        if is_main_process():
            write_text(self.path, "".join(f"{json.dumps(entry)}\n" for entry in self.entries))
