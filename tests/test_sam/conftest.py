"""An official tiny network with random weights, at a small input size, shared by the tests of this folder."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from s4m_pipeline.sam import BatchedSam, ImageEmbeddings, build_sam

MakeSam = Callable[..., BatchedSam]


@pytest.fixture(scope="session")
def make_sam() -> MakeSam:
    """Builds the official tiny architecture, always with the same random weights."""

    def make(image_size: int, **options: Any) -> BatchedSam:
        torch.manual_seed(20)
        return BatchedSam(build_sam("facebook/sam2.1-hiera-tiny", image_size=image_size), **options)

    return make


@pytest.fixture(scope="session")
def small_sam(make_sam: MakeSam) -> BatchedSam:
    return make_sam(256)


@pytest.fixture(scope="session")
def small_images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = [(120, 200), (256, 256), (90, 64), (300, 180)]
    return [torch.randint(0, 256, (3, h, w), generator=generator, dtype=torch.uint8) for h, w in sizes]


@pytest.fixture(scope="session")
def small_embeddings(small_sam: BatchedSam, small_images: list[torch.Tensor]) -> ImageEmbeddings:
    return small_sam.encode(small_images)
