"""Sizes that `s4m init` chooses: sound for any images, labels, memory and time."""

import dataclasses
import itertools
from typing import Any

import pytest

from s4m_pipeline.apps.init.fitting import GB, Device, Facts, Fit
from s4m_pipeline.apps.init.gpu import _WEIGHT_BYTES, bytes_per_image, fit_gpu
from s4m_pipeline.apps.init.small import TINY, IterationSeconds, SamSeconds, fit_cpu
from s4m_pipeline.config.student import ArpOptions, StudentOptions

NANO_SECONDS = SamSeconds(name="nano", encode=0.1, decode=0.01)
TINY_SECONDS = SamSeconds(name=TINY, encode=7.0, decode=0.1)


def time_iterations(sizes: Fit) -> IterationSeconds:
    """A machine that takes as long for loading as for crops of 64 x 64, and twice as long for the student."""
    seconds = 0.05 + 0.05 * sizes.crop_px**2 / 64**2
    return IterationSeconds(teacher=seconds, student=2 * seconds)


SIZES = {"small": (80, 100), "photo": (3000, 4000), "panorama": (1000, 8000)}


def facts(
    kind: str, num_labeled: int = 300, num_unlabeled: int = 300, small_object_px: float = 400, **others: Any
) -> Facts:
    short_px, long_px = SIZES[kind]
    given = {"num_val": 2, "most_objects": 8, "mean_objects": 4, **others}
    return Facts(
        short_px=short_px,
        long_px=long_px,
        num_labeled=num_labeled,
        num_unlabeled=num_unlabeled,
        small_object_px=small_object_px,
        **given,
    )


def fit(of: Facts, memory_gb: int | None, minutes: float = 30) -> Fit:
    if memory_gb is None:
        return fit_cpu(of, minutes, [NANO_SECONDS], time_iterations)
    device = Device(memory_bytes=memory_gb * GB)
    return fit_gpu(of, device, memory_gb * GB)


@pytest.mark.parametrize(
    ("kind", "memory_gb"), list(itertools.product(SIZES, (None, 6, 11, 16, 24, 48, 80, 141)))
)
def test_fit__of_any_image_and_memory__is_sound(kind, memory_gb):
    for num_labeled in (1, 300, 100_000):
        sizes = fit(facts(kind, num_labeled, 3), memory_gb)
        assert sizes.crop_px <= sizes.short_px <= sizes.long_px <= 3 * sizes.short_px
        assert sizes.short_px % 32 == sizes.long_px % 32 == sizes.crop_px % 32 == 0
        assert 1 <= sizes.batch_size <= 16
        assert 0 < sizes.refresh_every <= sizes.burn_in * 3 <= sizes.iterations
        assert 0 < sizes.ema < 1
        if memory_gb is not None and memory_gb >= 11:
            assert (
                2 * sizes.batch_size * bytes_per_image(sizes.crop_px) + _WEIGHT_BYTES <= 0.9 * memory_gb * GB
            )


def test_fit__with_more_memory__never_gives_less():
    fits = [fit(facts("photo", 1000, 1000), gb) for gb in (6, 11, 16, 48, 80, 141)]
    pixels = [sizes.batch_size * sizes.crop_px**2 for sizes in fits]
    assert pixels == sorted(pixels)
    assert (fits[0].sam, fits[-1].sam) == ("facebook/sam2.1-hiera-small", "facebook/sam2.1-hiera-large")


@pytest.mark.parametrize("memory_gb", [None, 4, 24])
@pytest.mark.parametrize("num_unlabeled", [1, 300, 20_000, 1_000_000])
def test_fit__labels_no_more_images_in_a_refresh_than_are_drawn_until_the_next(memory_gb, num_unlabeled):
    sizes = fit(facts("photo", 300, num_unlabeled), memory_gb)
    assert sizes.refresh_every * sizes.unlabeled_batch_size >= num_unlabeled
    shares = dataclasses.asdict(sizes)
    names = ("iterations", "batch_size", "unlabeled_batch_size", "burn_in", "refresh_every", "ema")
    StudentOptions(**{name: shares[name] for name in names})
    if num_unlabeled == 300:  # drawn several times in the fraction of the training that the paper has
        same = 3 * sizes.iterations // 8 if memory_gb is None else sizes.iterations // 18
        assert sizes.refresh_every == same


@pytest.mark.parametrize("memory_gb", [None, 4, 24])
@pytest.mark.parametrize("area_px", [30, 400, 100_000])
def test_fit__small_objects_are_above_the_area_that_pseudo_labels_must_have(memory_gb, area_px):
    sizes = fit(facts("small", small_object_px=area_px), memory_gb)
    cells = area_px * (sizes.short_px / 80) ** 2 / 16
    assert 0.5 <= sizes.min_soft_area < max(cells, 0.6)
    assert sizes.min_soft_area == 5 if cells > 10 else sizes.min_soft_area < 5


@pytest.mark.parametrize("memory_gb", [None, 4, 24])
@pytest.mark.parametrize("num_unlabeled", [1, 3, 20_000])
def test_fit__gives_arp_a_pair_of_unlabeled_images(memory_gb, num_unlabeled):
    sizes = fit(facts("photo", 1000, num_unlabeled), memory_gb)
    assert ArpOptions().num_pairs(sizes.unlabeled_batch_size) >= 1
    assert sizes.unlabeled_batch_size <= max(num_unlabeled, 2)


@pytest.mark.parametrize("kind", SIZES)
def test_fit_cpu__with_more_minutes__trains_on_larger_crops_or_longer(kind):
    fits = [fit(facts(kind, 1000, 10), None, minutes) for minutes in (1, 5, 10, 30, 60, 600)]
    crops = [sizes.crop_px for sizes in fits]
    assert crops == sorted(crops)
    for less, more in itertools.pairwise(fits):
        assert more.iterations >= less.iterations or more.crop_px > less.crop_px


@pytest.mark.parametrize("minutes", [5, 30, 240])
def test_fit_cpu__iterations_fit_the_minutes_and_leave_little_over(minutes):
    sizes = fit(facts("photo", 10_000, 10, small_object_px=100**2), None, minutes)
    trainings_s = sizes.iterations * time_iterations(sizes).both
    assert 0.8 * 60 * minutes < trainings_s <= 60 * minutes


def test_fit_cpu__few_labels__are_not_trained_on_for_as_long_as_there_is_time():
    sizes = fit(facts("small", num_labeled=7), None, minutes=1000)
    assert sizes.iterations == 875
    assert "overfit 7 labeled images" in sizes.notes[-1]


@pytest.mark.parametrize("num_unlabeled", [10, 100_000])
def test_fit_cpu__too_few_minutes__are_noted(num_unlabeled):
    sizes = fit(facts("photo", 300, num_unlabeled), None, minutes=1)
    assert (sizes.iterations, sizes.crop_px) == (200, 96)
    assert "1 minutes are not enough" in sizes.notes[-1]


@pytest.mark.parametrize("side_px", [5, 8, 12])
def test_fit_cpu__small_objects_are_enlarged_and_large_ones_are_not_reduced_below_the_crop(side_px):
    small = fit(facts("small", small_object_px=side_px**2), None)
    assert abs(small.short_px / 80 * side_px - 16) <= 4  # multiples of 32 px, at least 96
    large = fit(facts("photo", small_object_px=500**2), None)
    assert large.short_px == large.crop_px
    tiny = fit(facts("photo", num_unlabeled=3, small_object_px=side_px**2), None, minutes=600)
    assert (small.refine_batch, tiny.refine_batch) == (8, 1)
    assert tiny.short_px / 3000 * side_px == pytest.approx(min(16, 4096 / 3000 * side_px), abs=0.1)
    assert tiny.tile_px == 512 and "tiles" in tiny.notes[1]
    hurried = fit(facts("photo", num_unlabeled=300, small_object_px=side_px**2), None, minutes=10)
    assert (hurried.short_px, hurried.tile_px) == (1024, None)
    assert "too little for good masks" in hurried.notes[0]


@pytest.mark.parametrize("most_objects", [60, 200, 800])
def test_fit_cpu__crowded_images__are_cut_into_tiles_with_no_more_objects_than_it_finds(
    most_objects,
):
    of = dataclasses.replace(
        facts("small", most_objects=most_objects, small_object_px=400), short_px=800, long_px=800
    )
    sizes = fit(of, None, minutes=600)
    if sizes.tile_px is None:
        assert most_objects == 60
    else:
        assert 1.5 * most_objects * sizes.tile_px**2 / 640**2 <= sizes.num_queries <= 100


@pytest.mark.parametrize(("side_px", "tile_px"), [(4, 1024), (100, None)])
def test_fit_gpu__small_objects_of_large_images__keep_their_size_in_tiles(side_px, tile_px):
    sizes = fit(facts("photo", small_object_px=side_px**2), 24)
    assert sizes.tile_px == tile_px
    assert sizes.short_px == (1024 if tile_px is None else 3008)


def test_fit_cpu__images_that_are_small_with_large_objects__keep_their_size():
    for short_px in (96, 128, 160):
        of = dataclasses.replace(
            facts("small", small_object_px=1000), short_px=short_px, long_px=2 * short_px
        )
        sizes = fit(of, None)
        assert (sizes.short_px, sizes.long_px, sizes.crop_px) == (short_px, 2 * short_px, short_px)


@pytest.mark.parametrize(("num_unlabeled", "taken"), [(50, TINY), (120, "nano")])
def test_fit_cpu__real_sam__is_taken_if_its_labels_take_half_of_the_time_at_most(num_unlabeled, taken):
    of = facts("photo", 300, num_unlabeled, small_object_px=100**2)
    sizes = fit_cpu(of, 30, [TINY_SECONDS, NANO_SECONDS], time_iterations)
    assert (sizes.sam, sizes.embeddings) == (taken, taken == TINY)
    (note,) = [note for note in sizes.notes if note.startswith("SAM 2")]
    assert TINY in note
    assert fit_cpu(of, 30, [TINY_SECONDS], time_iterations).sam == TINY  # as asked for
