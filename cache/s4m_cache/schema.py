"""The arrays of a part: names, dtypes, shapes, codecs. `SCHEMA.md` is the specification."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore

FORMAT = "s4m-cache"
VERSION = 2
VERSION_WITH_IGNORED = 3
"""Of a part with ignored instances, which earlier readers would misread; the highest that is read."""

CHUNK_BYTES = 65_536
"""Packed mask bytes per compressed chunk: the smallest amount that a read decompresses."""

ZSTD_LEVEL = 9
"""A tenth smaller than level 3 and decoded as fast; slower to write, but the writer waits for SAM anyway."""

CODECS = (ZstdCodec(level=ZSTD_LEVEL), Crc32cCodec())
"""Applied after the little-endian bytes. Explicit because Zarr's default has no checksum."""


@dataclass(frozen=True)
class ArraySpec:
    """One array of a part: its dtype and, if it has two dimensions, the size of the second."""

    dtype: str
    width: int | None = None

    def empty(self) -> NDArray[Any]:
        """An array of 0 rows."""
        return np.zeros((0,) if self.width is None else (0, self.width), self.dtype)


COLUMNS = {
    # one row for each of N images; inst_ptr has N + 1
    "image_id": ArraySpec("int64"),
    "image_hw": ArraySpec("int32", 2),
    "inst_ptr": ArraySpec("int64"),
    # one row for each of M instances
    "bbox": ArraySpec("int32", 4),
    "raw_bbox": ArraySpec("int32", 4),
    "label": ArraySpec("int16"),
    "score": ArraySpec("float32"),
    "pred_iou": ArraySpec("float32"),
    "raw_iou": ArraySpec("float32"),
    "use_raw": ArraySpec("uint8"),
}
"""Arrays in a single chunk, read once when a part is first touched. Parts of version 1 lack `use_raw`."""

USE_RAW, IGNORED = 1, 2
"""Values of `use_raw`; 0: the refined mask is used."""

BITS = {"bits": ArraySpec("uint8"), "raw_bits": ArraySpec("uint8")}
"""Packed masks, in compressed chunks of CHUNK_BYTES inside one shard file."""

BIT_FILES = {name: f"{name}/c.0" for name in BITS}
"""That file's path inside the part."""


def write_arrays(folder: Path, arrays: dict[str, NDArray[np.generic]]) -> None:
    """Write the arrays of one part as a Zarr v3 group in an existing empty folder."""
    group = zarr.create_group(LocalStore(folder), zarr_format=3)
    for name, spec in (COLUMNS | BITS).items():
        values = arrays[name]
        chunks, shards = tuple(max(length, 1) for length in values.shape), None
        if name in BITS:
            chunks, shards = (CHUNK_BYTES,), (max(-(-values.size // CHUNK_BYTES), 1) * CHUNK_BYTES,)
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=spec.dtype,
            chunks=chunks,
            shards=shards,
            filters=[],
            serializer=BytesCodec(endian="little"),
            compressors=CODECS,
            fill_value=0,
            # Dots keep all files of an array in its own folder: half as many folders to create and sync.
            chunk_key_encoding={"name": "default", "separator": "."},
            config={"write_empty_chunks": True},
        )
        array[...] = values
