"""What counted operations are divided by: peaks of GPUs, or speeds that `s4m bench limits` measured."""

import json
from pathlib import Path
from typing import NamedTuple

from s4m_pipeline.core.errors import UserError


class Gpu(NamedTuple):
    """Peak figures of a GPU."""

    flop_per_s: float
    """Matrix products in bf16, sums in fp32, without sparsity."""
    bytes_per_s: float
    """Of its memory."""
    memory_bytes: float


GPUS = {
    "h200": Gpu(989e12, 4.8e12, 141e9),
    "h100": Gpu(989e12, 3.35e12, 80e9),
    "a100": Gpu(312e12, 2.04e12, 80e9),
    "l40s": Gpu(362e12, 0.864e12, 48e9),
    "a6000": Gpu(155e12, 0.768e12, 48e9),
    "3090": Gpu(71e12, 0.936e12, 24e9),
}
"""By NVIDIA's data sheets of the H200 SXM, H100 SXM, A100 SXM with 80 GB, L40S and RTX A6000, and its white
paper on the GA102."""


class Speed(NamedTuple):
    """Speeds of one device."""

    origin: str
    training: float
    """FLOP/s of the network, forward and backward."""
    forward: float
    sam: float
    """Of SAM 2."""
    bytes_per_s: float | None = None
    memory_bytes: float | None = None


def peak_of(gpu: str) -> Speed:
    """The peak of a GPU of `GPUS`.

    Raises:
        UserError: for another name.
    """
    if gpu not in GPUS:
        raise UserError(f"--gpu {gpu}: unknown. Expected one of {', '.join(GPUS)}.")
    flop_per_s, bytes_per_s, memory_bytes = GPUS[gpu]
    return Speed(f"peak of {gpu}", flop_per_s, flop_per_s, flop_per_s, bytes_per_s, memory_bytes)


def measured_speed(path: Path) -> Speed:
    """The speeds in a file of `s4m bench limits --json`, or of all benchmarks.

    Raises:
        UserError: if it has none.
    """
    try:
        (table,) = json.loads(path.read_text())["limits"]["results"]
        speeds = []
        for name in ("network, forward and backward", "network, forward,", "SAM's encoder"):
            gflop, seconds = next(row[1:3] for row in table["rows"] if row[0].startswith(name))
            speeds.append(1e9 * float(gflop) / float(seconds))
        return Speed(f"{table['title']}, {path.name}", *speeds)
    except (OSError, ValueError, KeyError, TypeError, IndexError, StopIteration, ZeroDivisionError) as error:
        raise UserError(
            f"--bench {path}: no table of `s4m bench limits` in it ({type(error).__name__}: {error}).\n"
            f"Make one: s4m bench limits --json {path}"
        ) from error
