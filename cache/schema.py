"""The arrays of a part: names, dtypes, shapes, codecs. `SCHEMA.md` is the specification in words."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore

FORMAT = "s4m-cache"
VERSION = 1

CHUNK_BYTES = 65_536
"""Packed mask bytes per compressed chunk: the least that one read decompresses."""

ZSTD_LEVEL = 9
"""A tenth smaller than level 3 and decoded as fast; the writer pays, and SAM keeps it waiting anyway."""

CODECS = (ZstdCodec(level=ZSTD_LEVEL), Crc32cCodec())
"""After the little-endian bytes. Named in full because Zarr's default has no checksum."""

SHARED_CHUNKS = "c/0"
"""Key of the one shard file of `bits` and `raw_bits`, inside the array's folder."""


@dataclass(frozen=True)
class ArraySpec:
    """One array of a part. N images, M instances, B packed bytes of all refined, R of all teacher's masks."""

    dtype: str
    axis: str
    width: int | None = None

    def shape(self, sizes: dict[str, int]) -> tuple[int, ...]:
        """Shape for the given sizes, e.g. `{"N": 3, "N+1": 4, "M": 20, "B": 812, "R": 790}`."""
        return (sizes[self.axis],) if self.width is None else (sizes[self.axis], self.width)


COLUMNS = {
    "image_id": ArraySpec("int64", "N"),
    "image_hw": ArraySpec("int32", "N", 2),
    "inst_ptr": ArraySpec("int64", "N+1"),
    "bbox": ArraySpec("int32", "M", 4),
    "raw_bbox": ArraySpec("int32", "M", 4),
    "label": ArraySpec("int16", "M"),
    "score": ArraySpec("float32", "M"),
    "pred_iou": ArraySpec("float32", "M"),
    "raw_iou": ArraySpec("float32", "M"),
}
"""Arrays in a single chunk, read once when a part is first touched."""

BITS = {"bits": ArraySpec("uint8", "B"), "raw_bits": ArraySpec("uint8", "R")}
"""Packed masks, in compressed chunks of CHUNK_BYTES inside one shard file."""


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
            config={"write_empty_chunks": True},
        )
        array[...] = values
