"""SAM 2: loading, batched inference, and decoder tokens for structural distillation.

Only this package imports `sam2`. That import initializes Hydra's global state, which would make a later
`hydra.initialize` of the host program fail, so the state is cleared below unless it was initialized before.
"""

from hydra.core.global_hydra import GlobalHydra

_hydra_was_initialized = GlobalHydra.instance().is_initialized()
import sam2  # noqa: E402, F401

if not _hydra_was_initialized:
    GlobalHydra.instance().clear()

from s4m_pipeline.sam.batched import BatchedSam, Decoded, ImageEmbeddings, ImageTokens, full_size_masks  # noqa: E402  # noqa: E402
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
