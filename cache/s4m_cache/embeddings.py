"""An optional store of SAM's image embeddings, so that a refresh can skip SAM's image encoder.

They take 8 MiB per image at SAM 2's usual size - 25 GB for Cityscapes, 1 TB for COCO - so a budget is checked
before anything is written.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.storage import LocalStore

from s4m_cache import sealed
from s4m_cache.atomic import atomic_folder
from s4m_cache.errors import CacheError, DamagedError, disk_error, reading, require_space
from s4m_cache.fingerprint import Fingerprint, check_plain, explain, settings_hash
from s4m_cache.parts import refuse_newer
from s4m_cache.schema import FORMAT, VERSION

DESCRIPTION = "embeddings.json"
CHECKSUM_BYTES = 4
_PREFIX = "embeddings-"


def store_path(root: Path, fingerprint: Fingerprint) -> Path:
    """The folder of a cache's embeddings with that fingerprint; each encoder has its own."""
    return root / f"{_PREFIX}{settings_hash(dict(fingerprint)).removeprefix('sha256:')[:8]}"


def unused_stores(root: Path, fingerprints: Sequence[Fingerprint]) -> list[Path]:
    """The stores below a cache that no labels were made with.

    Args:
        root: the cache's folder.
        fingerprints: those of the labels; each includes the fingerprint of the store it was made with.

    Raises:
        DamagedError: if a store's description is damaged.
    """
    paths = [description.parent for description in sorted(root.glob(f"{_PREFIX}*/{DESCRIPTION}"))]
    own = {path: EmbeddingStore(path).fingerprint.items() for path in paths}
    return [path for path in paths if not any(own[path] <= labels.items() for labels in fingerprints)]


class EmbeddingStore:
    """Float16 arrays of several levels for each image, one file per array, uncompressed, with a checksum.

    Any number of processes may read and write different images at the same time.

    Args:
        path: a folder that `EmbeddingStore.create` made.

    Raises:
        CacheError: if it does not exist or was written by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            body = sealed.read(path / DESCRIPTION, f"Remove {path}: embeddings can be computed again")
        except FileNotFoundError:
            raise CacheError(
                f"{path}: no such store of embeddings; make it with EmbeddingStore.create"
            ) from None
        refuse_newer(path, body)
        self.fingerprint: dict[str, Any] = body["fingerprint"]
        self.shapes = {name: tuple(shape) for name, shape in body["shapes"].items()}
        self._row = {image_id: row for row, image_id in enumerate(body["image_id"])}
        self._arrays: dict[str, zarr.Array[Any]] | None = None

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        image_ids: Sequence[int],
        shapes: Mapping[str, tuple[int, ...]],
        fingerprint: Fingerprint,
        budget_bytes: int,
    ) -> "EmbeddingStore":
        """Make a store, or open the existing one.

        Args:
            path: its folder.
            image_ids: the images that it may hold.
            shapes: shape of one image's array by level name, e.g. `{"emb": (256, 64, 64)}`.
            fingerprint: what embeddings depend on: the encoder's weights, the input size.
            budget_bytes: largest size of the full store.

        Raises:
            CacheError: if the full store exceeds the budget or the free space, or the existing one differs.
        """
        check_plain(fingerprint)
        image_bytes = sum(2 * int(np.prod(shape)) + CHECKSUM_BYTES for shape in shapes.values())
        needed = image_bytes * len(image_ids)
        if path.exists():
            store = cls(path)
            store._require_same(image_ids, shapes, fingerprint)
            return store
        if needed > budget_bytes:
            raise CacheError(
                f"{path}: {len(image_ids)} images of {image_bytes:,} bytes need {needed:,} bytes, more than "
                f"the budget of {budget_bytes:,}. Raise the budget, or work without stored embeddings"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            require_space(path, needed, f"storing the embeddings of {len(image_ids)} images (optional)")
            _create(path, image_ids, shapes, fingerprint)
        except OSError as error:
            raise disk_error(path, needed, error) from error
        return cls(path)

    def __contains__(self, image_id: int) -> bool:
        return image_id in self._row and all(
            _size(self._file(name, image_id)) == 2 * int(np.prod(shape)) + CHECKSUM_BYTES
            for name, shape in self.shapes.items()
        )

    def put(self, image_id: int, levels: Mapping[str, NDArray[np.float16]]) -> None:
        """Store one image's arrays of all levels; existing ones are replaced.

        Raises:
            CacheError: if the image or a shape is not one of the store's, or writing fails.
        """
        shapes = {name: tuple(level.shape) for name, level in levels.items()}
        if image_id not in self._row or shapes != self.shapes:
            raise CacheError(f"{self.path}: image {image_id} with {shapes}; expected {self.shapes}")
        try:
            for name, level in levels.items():
                self._open()[name][self._row[image_id]] = level.astype(np.float16, copy=False)
        except OSError as error:
            raise disk_error(self.path, sum(2 * level.size for level in levels.values()), error) from error

    def get(self, image_id: int) -> dict[str, NDArray[np.float16]]:
        """One image's arrays by level.

        Raises:
            CacheError: if they are not stored.
            DamagedError: if they are damaged.
        """
        if image_id not in self:
            raise CacheError(f"{self.path}: no embedding of image {image_id}; compute it and `put` it")
        levels = {}
        for name, array in self._open().items():
            try:
                with reading(self.path):
                    levels[name] = np.asarray(array[self._row[image_id]], np.float16)
            except ValueError as error:
                remedy = "Compute it again and `put` it"
                raise DamagedError(self._file(name, image_id), str(error), [image_id], remedy) from error
        return levels

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_arrays": None}

    def _open(self) -> dict[str, zarr.Array[Any]]:
        if self._arrays is None:
            self._arrays = {
                name: zarr.open_array(LocalStore(self.path / name), mode="r+", zarr_format=3)
                for name in self.shapes
            }
        return self._arrays

    def _file(self, name: str, image_id: int) -> Path:
        zeros = ".0" * len(self.shapes[name])
        return self.path / name / f"c.{self._row[image_id]}{zeros}"

    def _require_same(
        self, image_ids: Sequence[int], shapes: Mapping[str, tuple[int, ...]], fingerprint: Fingerprint
    ) -> None:
        differences = explain(self.fingerprint, fingerprint)
        if list(self._row) != list(image_ids):
            differences.append(f"image ids: stored {len(self._row)}, given {len(image_ids)} different ones")
        if self.shapes != dict(shapes):
            differences.append(f"shapes: stored {self.shapes}, given {dict(shapes)}")
        if differences:
            raise CacheError(
                f"{self.path} holds different embeddings: {'; '.join(differences)}. Use another folder"
            )


def _create(
    path: Path, image_ids: Sequence[int], shapes: Mapping[str, tuple[int, ...]], fingerprint: Fingerprint
) -> None:
    body = {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": dict(fingerprint),
        "shapes": {name: list(shape) for name, shape in shapes.items()},
        "image_id": [int(image_id) for image_id in image_ids],
    }
    with atomic_folder(path) as folder:
        for name, shape in shapes.items():
            zarr.create_array(
                LocalStore(folder / name),
                shape=(len(image_ids), *shape),
                chunks=(1, *shape),
                dtype="float16",
                filters=[],
                serializer=BytesCodec(endian="little"),
                # zstd would save a tenth of the bytes and take three times as long to read.
                compressors=(Crc32cCodec(),),
                fill_value=0,
                chunk_key_encoding={"name": "default", "separator": "."},
                config={"write_empty_chunks": True},
            )
        (folder / DESCRIPTION).write_bytes(sealed.dump(body))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1
