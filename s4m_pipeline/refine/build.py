"""The networks of a session on the device, and the labellers that share them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cache.embeddings import EmbeddingStore, store_path
from s4m_pipeline.data.coco import CocoImage
from s4m_pipeline.refine.encoder import ImageEncoder, open_store
from s4m_pipeline.refine.inputs import RefineInputs, device
from s4m_pipeline.refine.labeller import Labeller
from s4m_pipeline.refine.photos import PhotoFiles
from s4m_pipeline.sam import BatchedSam


class Networks(NamedTuple):
    """Teacher and SAM, ready to run."""

    teacher: Any
    sam: BatchedSam | None


def build_all(inputs: RefineInputs) -> None:
    """Build what the config describes, only to learn whether it can be built.

    Raises:
        UserError: as `RefineInputs.teacher` and `PhotoFiles`.
    """
    _ = inputs.teacher
    photo_files(inputs, ())


@contextmanager
def networks_on_device(inputs: RefineInputs) -> Iterator[Networks]:
    """Bring teacher and SAM to the device; at the end both leave it again.

    Raises:
        UserError: as `RefineInputs.teacher`.
    """
    options = inputs.options
    teacher = inputs.teacher.to(device())
    sam = None
    if inputs.sam is not None:
        sam = BatchedSam(
            inputs.sam.network,
            device=device(),
            encoder_batch=options.sam.encoder_batch,
            decoder_chunk=options.sam.decoder_chunk,
            compile=options.sam.compile,
        )
    try:
        yield Networks(teacher, sam)
    finally:
        teacher.cpu()
        if inputs.sam is not None:
            inputs.sam.network.cpu()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def build_labeller(
    inputs: RefineInputs, networks: Networks, generation: int, root: Path | None = None
) -> Labeller:
    """A labeller for a generation; with a `root`, embeddings may be kept below it."""
    options, sam = inputs.options, networks.sam
    encoder = None
    if sam is not None:
        keep = options.cache.embeddings and root is not None
        encoder = ImageEncoder(sam, _embedding_store(inputs, sam, root) if keep and root else None)
    return Labeller(
        networks.teacher,
        sam,
        encoder,
        options.refine,
        generation=generation,
        batch_size=options.refine.batch_size,
        precision=options.teacher.precision,
    )


def photo_files(inputs: RefineInputs, images: Sequence[CocoImage]) -> PhotoFiles:
    """Image files as the config's test pipeline sees them."""
    return PhotoFiles(images, inputs.parts["test_pipeline"])


def _embedding_store(inputs: RefineInputs, sam: BatchedSam, root: Path) -> EmbeddingStore:
    fingerprint = inputs.fingerprint()
    needed = ("sam", "sam weights", "sam config", "sam precision", "embeddings", "image names")
    of_embeddings = {name: fingerprint[name] for name in needed}
    return open_store(
        store_path(root, of_embeddings),
        sam,
        [image.id for image in inputs.unlabeled.images],
        of_embeddings,
        int(inputs.options.cache.embeddings_gb * 1e9),
    )
