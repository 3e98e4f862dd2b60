"""A part: the labels of some images, written once by one process and immutable from then on."""

import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from s4m_cache import sealed
from s4m_cache.atomic import atomic_folder
from s4m_cache.errors import CacheError, DamagedError, reading
from s4m_cache.masks import Masks, offsets, packed_sizes
from s4m_cache.records import ImageLabels, Instances, pack_columns
from s4m_cache.schema import (
    BIT_FILES,
    BITS,
    COLUMNS,
    FORMAT,
    IGNORED,
    USE_RAW,
    VERSION,
    VERSION_WITH_IGNORED,
    write_arrays,
)

MANIFEST = "MANIFEST.json"


class Part:
    """One part on disk. Opening reads its manifest; arrays are read when first needed.

    Raises:
        DamagedError: if the manifest is missing or damaged, or a file is missing or has a different size.
        CacheError: if the part was written by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            manifest = sealed.read(path / MANIFEST)
        except FileNotFoundError:
            raise DamagedError(path, f"no {MANIFEST}") from None
        refuse_newer(path, manifest)
        with sealed.understood(path / MANIFEST):
            self.image_ids = np.array(manifest["image_id"], np.int64)
            self.files: dict[str, tuple[int, int]] = {
                name: (int(size), int(checksum)) for name, (size, checksum) in manifest["files"].items()
            }
        for name in self.files:
            self._check_size(name)

    @property
    def size_bytes(self) -> int:
        """Bytes on disk, without the manifest."""
        return sum(size for size, _ in self.files.values())

    @cached_property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The small arrays, by name (see `schema.COLUMNS`), checked against the manifest's checksums.

        Raises:
            DamagedError: if a file is damaged.
        """
        for name in self.files:
            if name not in BIT_FILES.values():  # their chunks have their own checksums
                self.check_file(name)
        stored = [name for name in COLUMNS if name != "use_raw" or "use_raw/zarr.json" in self.files]
        for name in stored:
            self._check_size(f"{name}/zarr.json")
        columns: dict[str, NDArray[Any]] = {name: np.asarray(self._array(name)[...]) for name in stored}
        columns.setdefault("use_raw", np.zeros(len(columns["label"]), np.uint8))  # a part of version 1
        if not np.array_equal(columns["image_id"], self.image_ids):
            raise DamagedError(self.path, "image_id differs from the manifest", self.image_ids.tolist())
        return columns

    @cached_property
    def byte_ptr(self) -> dict[str, NDArray[np.int64]]:
        """For `bits` and `raw_bits`: int64 [N + 1], where each image's bytes start."""
        rows = self.columns["inst_ptr"]
        return {
            "bits": offsets(packed_sizes(self.columns["bbox"]))[rows],
            "raw_bits": offsets(packed_sizes(self.columns["raw_bbox"]))[rows],
        }

    def read_bits(self, name: str, first: int, last: int) -> NDArray[np.uint8]:
        """The packed masks of the images in rows `first` to `last - 1`: of `bits` or `raw_bits`, uint8 [B].

        Raises:
            DamagedError: if the bytes are damaged.
        """
        start, stop = self.byte_ptr[name][[first, last]].tolist()
        if start == stop:
            return np.zeros(0, np.uint8)
        ids = self.image_ids[first:last].tolist()
        try:
            with reading(self.path):
                bits = np.asarray(self._bit_arrays[name][start:stop])
        except CacheError:
            raise
        except Exception as error:  # codecs raise many kinds of exceptions on damaged bytes
            raise DamagedError(self.path / BIT_FILES[name], str(error), ids) from error
        # Zarr reads a missing file as zeros, so check after the read that it still exists.
        self._check_size(BIT_FILES[name])
        return bits

    def needs_raw(self, first: int, last: int) -> bool:
        """Whether an instance of the images in rows `first` to `last - 1` uses the teacher's mask, or is
        ignored."""
        start, stop = self.columns["inst_ptr"][[first, last]].tolist()
        return bool(self.columns["use_raw"][start:stop].any())

    def labels(self, first: int, last: int, bits: dict[str, NDArray[np.uint8]]) -> list[ImageLabels]:
        """The images in rows `first` to `last - 1`, given `bits` and, if requested or needed, `raw_bits`."""
        columns, result = self.columns, []
        for row in range(first, last):
            m = slice(*columns["inst_ptr"][row : row + 2].tolist())
            packed = {
                name: data[slice(*(self.byte_ptr[name][row : row + 2] - self.byte_ptr[name][first]).tolist())]
                for name, data in bits.items()
            }
            raw = Masks(columns["raw_bbox"][m], packed["raw_bits"]) if "raw_bits" in packed else None
            instances = Instances(
                refined_masks=Masks(columns["bbox"][m], packed["bits"]),
                raw_masks=raw,
                labels=columns["label"][m],
                scores=columns["score"][m],
                pred_ious=columns["pred_iou"][m],
                raw_ious=columns["raw_iou"][m],
                use_raw=columns["use_raw"][m] == USE_RAW,
                ignored=columns["use_raw"][m] == IGNORED,
            )
            image_id, (height, width) = int(columns["image_id"][row]), columns["image_hw"][row].tolist()
            result.append(ImageLabels(image_id=image_id, height=height, width=width, instances=instances))
        return result

    def check_file(self, name: str) -> None:
        """Compare one file with its checksum in the manifest.

        Raises:
            DamagedError: if it is missing or damaged.
        """
        self._check_size(name)
        with reading(self.path / name):
            found, expected = zlib.crc32((self.path / name).read_bytes()), self.files[name][1]
        if found != expected:
            raise DamagedError(
                self.path / name, f"checksum {found:08x}, expected {expected:08x}", self.image_ids.tolist()
            )

    @cached_property
    def _bit_arrays(self) -> dict[str, zarr.Array[Any]]:
        return {name: self._array(name) for name in BITS}

    def _array(self, name: str) -> zarr.Array[Any]:
        return zarr.open_array(LocalStore(self.path / name, read_only=True), mode="r", zarr_format=3)

    def _check_size(self, name: str) -> None:
        if name not in self.files:
            raise DamagedError(self.path / MANIFEST, f"does not list {name}", self.image_ids.tolist())
        expected = self.files[name][0]
        try:
            with reading(self.path / name):
                found = (self.path / name).stat().st_size
        except FileNotFoundError:
            raise DamagedError(self.path / name, "missing", self.image_ids.tolist()) from None
        if found != expected:
            problem = f"{found} bytes, expected {expected}"
            raise DamagedError(self.path / name, problem, self.image_ids.tolist())


def write_part(path: Path, images: Sequence[ImageLabels]) -> None:
    """Write a part atomically: it is complete or absent.

    Raises:
        OSError: as the file system reports it.
    """
    columns = pack_columns(images)
    with atomic_folder(path) as folder:
        write_arrays(folder, columns)
        files = {}
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            data = file.read_bytes()
            files[file.relative_to(folder).as_posix()] = (len(data), zlib.crc32(data))
        manifest = {
            "format": FORMAT,
            "version": VERSION_WITH_IGNORED if (columns["use_raw"] == IGNORED).any() else VERSION,
            "image_id": columns["image_id"].tolist(),
            "files": files,
        }
        (folder / MANIFEST).write_bytes(sealed.dump(manifest))


def refuse_newer(path: Path, body: dict[str, Any]) -> None:
    """Refuse a file of a later version of the format.

    Raises:
        CacheError: naming both versions.
    """
    version = body.get("version", 0)
    if body.get("format") != FORMAT or not isinstance(version, int) or version > VERSION_WITH_IGNORED:
        raise CacheError(
            f"{path}: written by a newer version (format {body.get('format')} {version}); this "
            f"program reads {FORMAT} up to version {VERSION_WITH_IGNORED}. Update the program"
        )
