"""SAM 2 as the meta-teacher: loading, batched inference over ragged prompts, decoder tokens for SD.

This package is the only importer of `sam2`. Importing `sam2` initialises Hydra's global state, which would
make the host program's own `hydra.initialize` fail; the import below takes that back. A state that was
initialised before us is left as it is.
"""

from hydra.core.global_hydra import GlobalHydra

_hydra_was_initialised = GlobalHydra.instance().is_initialized()
import sam2  # noqa: E402, F401

if not _hydra_was_initialised:
    GlobalHydra.instance().clear()

from s4m_pipeline.sam.batched import (  # noqa: E402
    BatchedSam,
    Decoded,
    ImageEmbeddings,
    ImageTokens,
    full_size_masks,
)
from s4m_pipeline.sam.loader import LoadedSam, build_sam, load_configured_sam, load_sam  # noqa: E402
from s4m_pipeline.sam.prompts import Prompts  # noqa: E402
from s4m_pipeline.sam.tokens import similarity_rows, stream_decoder_tokens  # noqa: E402

__all__ = [
    "BatchedSam",
    "Decoded",
    "ImageEmbeddings",
    "ImageTokens",
    "LoadedSam",
    "Prompts",
    "build_sam",
    "full_size_masks",
    "load_configured_sam",
    "load_sam",
    "similarity_rows",
    "stream_decoder_tokens",
]
