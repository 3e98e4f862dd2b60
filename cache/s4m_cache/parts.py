"""A part: the labels of some images, written once by one process and immutable from then on."""

import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.buffer import Buffer
from zarr.abc.store import Store
from zarr.buffer import cpu
from zarr.storage import LocalStore, MemoryStore

from s4m_cache import sealed
from s4m_cache.errors import CacheError, DamagedError, reading
from s4m_cache.masks import Masks, offsets, packed_sizes
from s4m_cache.ranges import METADATA, RangeStore
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
from s4m_cache.storage import is_remote, storage

MANIFEST = "MANIFEST.json"


class Part:
    """One part on disk. Opening reads its manifest; arrays are read when first needed.

    Raises:
        DamagedError: if the manifest is missing or damaged, or a file is missing or has a different size.
        CacheError: if the part was written by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bit_metadata: dict[str, bytes] = {}  # of the arrays in BITS, read with the columns
        try:
            manifest = sealed.read(path / MANIFEST)
        except FileNotFoundError:
            raise DamagedError(path, f"no {MANIFEST}") from None
        refuse_newer(path, manifest)
        with sealed.understood(path / MANIFEST):
            self.image_ids = np.array(manifest["image_id"], np.int64)
            if self.image_ids.ndim != 1:
                raise ValueError("image_id is not a list of numbers")
            self.files: dict[str, tuple[int, int]] = {
                name: (int(size), int(checksum)) for name, (size, checksum) in manifest["files"].items()
            }
        if not is_remote(path):  # of an object each would be a request; what is read of it tells
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
        stored = [name for name in COLUMNS if name != "use_raw" or "use_raw/zarr.json" in self.files]
        # The chunks of masks have their own checksums.
        contents = self._checked([name for name in self.files if name not in BIT_FILES.values()])
        for name in [*stored, *BITS]:
            self._require_listed(f"{name}/{METADATA}")
        self._bit_metadata = {name: contents[f"{name}/{METADATA}"] for name in BITS}
        columns: dict[str, NDArray[Any]] = {name: self._column(name, contents) for name in stored}
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
            with nullcontext() if is_remote(self.path) else reading(self.path):
                bits = np.asarray(self._bit_arrays[name][start:stop])
        except Exception as error:  # codecs raise many kinds of exceptions on damaged bytes
            self._check_size(BIT_FILES[name])
            if isinstance(error, CacheError):
                raise
            raise DamagedError(self.path / BIT_FILES[name], str(error), ids) from error
        if not is_remote(self.path):  # Zarr reads a missing file as zeros, so check that it still exists
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
        self._checked([name])

    @cached_property
    def _bit_arrays(self) -> dict[str, zarr.Array[Any]]:
        return {name: zarr.open_array(self._bit_store(name), mode="r", zarr_format=3) for name in BITS}

    def _bit_store(self, name: str) -> Store:
        if is_remote(self.path):
            return RangeStore(self.path / name, self._bit_metadata[name])
        return LocalStore(self.path / name, read_only=True)

    def _checked(self, names: Sequence[str]) -> dict[str, bytes]:
        """The content of files, all there and as the manifest describes them."""
        with reading(self.path):
            contents = storage(self.path).read_files(self.path, names)
        for name in names:
            self._compare_size(name, len(contents[name]) if name in contents else None)
            found, expected = zlib.crc32(contents[name]), self.files[name][1]
            if found != expected:
                self._damaged(name, f"checksum {found:08x}, expected {expected:08x}")
        return contents

    def _check_size(self, name: str) -> None:
        try:
            with reading(self.path / name):
                self._compare_size(name, (self.path / name).stat().st_size)
        except FileNotFoundError:
            self._compare_size(name, None)

    def _column(self, name: str, contents: dict[str, bytes]) -> NDArray[Any]:
        array = _array(name, contents)
        if array.nchunks != sum(key.startswith(f"{name}/c.") for key in contents):  # Zarr would read zeros
            self._damaged(MANIFEST, f"does not list all of {name}")
        return np.asarray(array[...])

    def _require_listed(self, name: str) -> None:
        if name not in self.files:
            self._damaged(MANIFEST, f"does not list {name}")

    def _compare_size(self, name: str, found: int | None) -> None:
        self._require_listed(name)
        if found is None:
            self._damaged(name, "missing")
        if found != (expected := self.files[name][0]):
            self._damaged(name, f"{found} bytes, expected {expected}")

    def _damaged(self, name: str, problem: str) -> NoReturn:
        raise DamagedError(self.path / name, problem, self.image_ids.tolist())


def _array(name: str, contents: dict[str, bytes]) -> zarr.Array[Any]:
    """An array from the content of the part's files."""
    files: dict[str, Buffer] = {
        key.removeprefix(f"{name}/"): cpu.Buffer.from_bytes(data)
        for key, data in contents.items()
        if key.startswith(f"{name}/")
    }
    return zarr.open_array(MemoryStore(files, read_only=True), mode="r", zarr_format=3)


def write_part(path: Path, images: Sequence[ImageLabels]) -> None:
    """Write a part atomically: it is complete or absent.

    Raises:
        OSError: as the file system reports it.
    """
    columns = pack_columns(images)
    with storage(path).new_folder(path, MANIFEST) as folder:
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
