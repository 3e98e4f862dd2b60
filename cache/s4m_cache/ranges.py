"""Packed masks in an object store, of which only the bytes are fetched that Zarr asks for."""

from pathlib import Path

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.buffer import cpu, default_buffer_prototype
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import MemoryStore

from s4m_cache.errors import reading
from s4m_cache.schema import CHUNK_BYTES
from s4m_cache.storage import ObjectStore

METADATA = "zarr.json"


class RangeStore(MemoryStore):
    """One array of a part. In memory are its metadata, the index of its chunks once it was read, and the two
    ranges that were read last: the next image in order often shares a chunk with them.

    Args:
        folder: of the array.
        metadata: content of its `zarr.json`.

    Raises:
        CacheError: by reads that the store fails.
        FileNotFoundError, EOFError: by reads of a file that is missing, or too short.
    """

    def __init__(self, folder: Path, metadata: bytes) -> None:
        super().__init__({METADATA: cpu.Buffer.from_bytes(metadata)}, read_only=True)
        self._folder = folder
        self._index: bytes | None = None
        self._last: list[tuple[int, bytes]] = []  # position and content

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if key == METADATA:
            return await super().get(key, prototype, byte_range)
        prototype, path = prototype or default_buffer_prototype(), self._folder / key
        if isinstance(byte_range, SuffixByteRequest):  # Zarr reads the index, at the end, with each chunk
            self._index = self._index or _fetch(path, byte_range)
            return prototype.buffer.from_bytes(self._index)
        if not isinstance(byte_range, RangeByteRequest):
            return prototype.buffer.from_bytes(_fetch(path, byte_range))
        start, end = byte_range.start, byte_range.end
        data = self._known(start, end)
        if len(data) < end - start:
            data += _fetch(path, RangeByteRequest(start + len(data), end))
        if len(data) <= 3 * CHUNK_BYTES:  # not an array of many chunks that is read whole
            self._last = [*self._last[-1:], (start, data)]
        return prototype.buffer.from_bytes(data)

    def _known(self, start: int, end: int) -> bytes:
        """The beginning of a range, as far as it was among those read last."""
        for first, data in self._last:
            if first <= start < first + len(data):
                return data[start - first : end - first]
        return b""


def _fetch(path: Path, byte_range: ByteRequest | None) -> bytes:
    start, end = 0, None
    match byte_range:
        case SuffixByteRequest(suffix):
            start = -suffix
        case OffsetByteRequest(offset):
            start = offset
        case RangeByteRequest(first, stop):
            start, end = first, stop
    with reading(path):
        data = ObjectStore().read(path, start, end)
    if not data:
        raise EOFError("the object ends before the bytes that are asked for")  # else Zarr would read zeros
    return data
