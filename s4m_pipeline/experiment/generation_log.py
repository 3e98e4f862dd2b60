"""generations.jsonl of a student: which generation of labels its training used from which iteration on."""

from pathlib import Path
from typing import Any

from s4m_cache.fingerprint import Fingerprint
from s4m_pipeline.core.paths import GENERATIONS
from s4m_pipeline.experiment.checkpoints import latest_checkpoint
from s4m_pipeline.experiment.metrics import read_records, write_records

PER_IMAGE = "instances per image"
"""Name of the labels per image among the statistics of a generation."""


class GenerationLog:
    """One entry each time that labels were taken, or rejected by the gate.

    On several devices all ranks keep the log, and rank 0 writes it.

    An entry has `step`, `made` (the generation decided on), `decision` ("taken", "warned", "rejected"),
    `generation` (the one in use from that step on), and `quality` and `statistics` of the one decided on,
    which may be gone from the cache long before this entry. The first one has the `fingerprint` of the labels
    that the training began with.

    Args:
        folder: of the student's training; the file need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / GENERATIONS
        self.entries: list[dict[str, Any]] = read_records(self.path, "made")

    @classmethod
    def to_resume(cls, folder: Path) -> "GenerationLog":
        """That of the training in a folder, without entries if it has saved nothing to resume from."""
        log = cls(folder)
        if latest_checkpoint(folder) is None:
            log.entries.clear()
        return log

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
        """Whether there is an entry of this step."""
        return any(entry["step"] == step for entry in self.entries)

    def drop_after(self, step: int) -> None:
        """Drop the entries after the checkpoint that a training resumes from."""
        kept = [entry for entry in self.entries if entry["step"] <= step]
        if len(kept) < len(self.entries):
            self.entries = kept
            self._write()

    def record(self, step: int, generation: int, decision: str, *, made: int, **about: Any) -> None:
        """Add an entry."""
        self.entries.append(
            {"step": step, "generation": generation, "decision": decision, "made": made, **about}
        )
        self._write()

    def _write(self) -> None:
        from mmengine.dist import is_main_process  # imports torch, which readers can do without

        if is_main_process():
            write_records(self.path, self.entries)
