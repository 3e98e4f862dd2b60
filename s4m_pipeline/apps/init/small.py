"""Sizes of an experiment without a GPU, fitted to the time that it may take on this machine.

The largest crop is taken with which enough iterations fit, then as many iterations as fit. Counted are
iterations, SAM 2, and the teacher's passes over whole images for labels; not validations. The time of an
iteration is taken as a linear function of the crop's area, measured with the smallest and the largest crop.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import sqrt

from s4m_pipeline.apps.init.fitting import (
    GB,
    Facts,
    Fit,
    epoch_steps,
    min_soft_area,
    multiple,
    queries,
    unlabeled_batch,
)
from s4m_pipeline.apps.init.view import SPAN_PX, View, choose_view, whole_view
from s4m_pipeline.config.groups import CacheOptions
from s4m_pipeline.config.sam_files import NANO
from s4m_pipeline.planning.estimates import EMBEDDING_BYTES
from s4m_pipeline.refine.validation import COMPARED

TINY = "facebook/sam2.1-hiera-tiny"
"""The smallest official SAM 2."""
_BATCH = 8
_CROPS_PX = (320, 256, 192, 160, 128, 96)
_TILES_PX = (512, 384, 256, 192, 128)
_LARGEST_SCALE = 4.0
_LEAST_ITERATIONS = 200
"""Of the teacher and of the student, however short the time."""
_ENOUGH_ITERATIONS = 400
"""Taken before a larger crop, and allowed however few images are labeled."""
_MOST_PASSES = 1000
"""Over the labeled images, half of them augmented; with fewer passes, drawn cells had a lower AP."""
_GENERATIONS = 3
"""Of labels: the teacher's, and two refreshes."""
_MOST_QUERIES = 100
"""Those that the shipped initial weights are trained with."""
_MOST_OBJECTS = 66
"""In an image or tile: they need 1.5 times as many queries."""


@dataclass(frozen=True, kw_only=True)
class IterationSeconds:
    """Time of one iteration on this machine, with loading."""

    teacher: float
    student: float

    @property
    def both(self) -> float:
        """Of one iteration of each."""
        return self.teacher + self.student


@dataclass(frozen=True, kw_only=True)
class SamSeconds:
    """Time that a SAM 2 takes on this machine."""

    name: str
    encode: float
    """For the embedding of one image."""
    decode: float
    """For one prompt."""


def fit_cpu(
    facts: Facts,
    minutes: float,
    sams: Sequence[SamSeconds],
    time_iterations: Callable[[Fit], IterationSeconds],
) -> Fit:
    """Choose all sizes.

    Args:
        minutes: for both trainings and their labels.
        sams: the SAM 2 to choose from, the preferred one first; the last one if no other is fast enough.
        time_iterations: measures iterations with the crop, the batch sizes and the queries of a `Fit`; called
            once for a crop.
    """
    most = max(_ENOUGH_ITERATIONS, _MOST_PASSES * facts.num_labeled // _BATCH)
    taken_by_crop: dict[int, IterationSeconds] = {}

    def time_crop(sizes: Fit) -> IterationSeconds:
        if sizes.crop_px not in taken_by_crop:
            taken_by_crop[sizes.crop_px] = time_iterations(sizes)
        return taken_by_crop[sizes.crop_px]

    for view in _views(facts):
        sam = _choose_sam(facts, view, sams, minutes)
        crop_px, taken, labels_s = _fit_crop(facts, view, sam, 60 * minutes, time_crop)
        if labels_s + _ENOUGH_ITERATIONS * taken.both <= 60 * minutes:
            break
    affordable = int((60 * minutes - labels_s) / taken.both) // 10 * 10
    iterations = min(max(affordable, _LEAST_ITERATIONS), most)
    time = (
        f"about {(labels_s + iterations * taken.both) / 60:.0f} minutes on this machine: {iterations} "
        f"iterations of the teacher at {taken.teacher:.2f} s, {iterations} of the student at "
        f"{taken.student:.2f} s, labels {labels_s / 60:.1f} minutes; validations not counted"
    )
    if affordable < _LEAST_ITERATIONS:
        time += (
            f". {minutes:g} minutes are not enough: this is the minimum number of iterations. Give "
            "more --minutes, or fewer unlabeled images"
        )
    elif iterations == most:
        time += f". More iterations would overfit {facts.num_labeled} labeled images"
    sizes = _sizes(facts, view, sam, crop_px, iterations)
    notes = (_scale_note(facts, sizes), *_view_note(view), _sam_note(facts, view, sam, sams), time)
    return replace(sizes, notes=notes)


def _views(facts: Facts) -> list[View]:
    """The one to take, and the one if there is no time for tiles, which crowded images need anyway."""
    wanted = choose_view(facts, _LARGEST_SCALE, _TILES_PX, _MOST_OBJECTS)
    if wanted.tile_px is None or facts.most_objects > _MOST_QUERIES:
        return [wanted]
    return [wanted, whole_view(facts, _LARGEST_SCALE)]


def _fit_crop(
    facts: Facts,
    view: View,
    sam: SamSeconds,
    budget_s: float,
    time_iterations: Callable[[Fit], IterationSeconds],
) -> tuple[int, IterationSeconds, float]:
    """The largest crop with which enough iterations fit, else the least ones, else the smallest crop; the
    seconds of an iteration with it, and of all labels."""
    largest_px = multiple(max(view.short_px, _side_px(facts)), 32)
    fits = [_sizes(facts, view, sam, crop, _LEAST_ITERATIONS) for crop in _CROPS_PX if crop <= largest_px]
    small, large = (
        (0, IterationSeconds(teacher=0, student=0)),
        (fits[0].crop_px ** 2, time_iterations(fits[0])),
    )
    if len(fits) > 1:
        small = fits[-1].crop_px ** 2, time_iterations(fits[-1])
    options = []
    for sizes in fits:
        taken = _interpolate(small, large, sizes.crop_px**2)
        whole = _interpolate(small, large, _seen_px(view, sizes))
        options.append((sizes.crop_px, taken, _sam_s(facts, view, sam) + _teacher_s(facts, whole)))
    for wanted in (_ENOUGH_ITERATIONS, _LEAST_ITERATIONS):
        for crop_px, taken, labels_s in options:
            if wanted * taken.both + labels_s <= budget_s:
                return crop_px, taken, labels_s
    return options[-1]


def _seen_px(view: View, sizes: Fit) -> int:
    """Pixels that the network sees of an image, with the overlaps of its tiles."""
    return sizes.short_px * sizes.long_px if view.tile_px is None else view.per_image * view.tile_px**2


def _interpolate(
    small: tuple[int, IterationSeconds], large: tuple[int, IterationSeconds], area_px: int
) -> IterationSeconds:
    """On the line through two pairs of area and seconds, which does not fall."""
    place = (area_px - small[0]) / (large[0] - small[0])
    low, high = small[1], large[1]
    return IterationSeconds(
        teacher=low.teacher + place * max(high.teacher - low.teacher, 0),
        student=low.student + place * max(high.student - low.student, 0),
    )


def _sizes(facts: Facts, view: View, sam: SamSeconds, crop_px: int, iterations: int) -> Fit:
    """All sizes that follow; burn-in and refresh are the demo's fractions of the training."""
    side_px = max(view.short_px, min(_side_px(facts), crop_px))
    short_px = max(multiple(side_px, 32), crop_px)
    long_px = multiple(short_px * facts.aspect, 32)
    wanted_queries = queries(view.most_objects, 15)
    return Fit(
        small=True,
        start=None,
        sam=sam.name,
        embeddings=_keeps_embeddings(facts, view, sam),
        encoder_batch=None,
        decoder_chunk=None,
        distill=False,
        precision="fp32",
        short_px=short_px,
        long_px=long_px,
        crop_px=crop_px,
        tile_px=view.tile_px,
        batch_size=_BATCH,
        unlabeled_batch_size=unlabeled_batch(_BATCH, facts.num_unlabeled),
        iterations=iterations,
        burn_in=iterations // 4,
        refresh_every=max(3 * iterations // 8, epoch_steps(facts.num_unlabeled, _BATCH)),
        ema=0.99,
        refine_batch=min(max(8 * 512**2 // (short_px * long_px), 1), 8),
        num_queries=wanted_queries and min(wanted_queries, _MOST_QUERIES),
        min_soft_area=min_soft_area(facts, short_px),
    )


def _side_px(facts: Facts) -> float:
    """Shorter side of the files, at least the smallest crop."""
    return max(facts.short_px, _CROPS_PX[-1])


def _scale_note(facts: Facts, sizes: Fit) -> str:
    scale = sizes.short_px / facts.short_px
    small_px = scale * sqrt(facts.small_object_px)
    note = (
        f"images are scaled by {scale:.2g}: small objects (10th percentile) then span {small_px:.0f} px, or "
        f"{small_px / 4:.0f} cells of the masks"
    )
    if small_px < 0.75 * SPAN_PX:
        note += ". That is too little for good masks"
    return note


def _view_note(view: View) -> list[str]:
    notes = []
    if view.tile_px is not None:
        notes.append(
            f"images are large or crowded: predictions and labels see each in {view.per_image} overlapping "
            f"tiles (tiles.size_px={view.tile_px})"
        )
    if view.most_objects > _MOST_QUERIES:
        notes.append(
            f"{'a tile' if view.tile_px else 'an image'} may have {view.most_objects} objects, and the small "
            f"network finds at most {_MOST_QUERIES}"
        )
    return notes


def _choose_sam(facts: Facts, view: View, sams: Sequence[SamSeconds], minutes: float) -> SamSeconds:
    """The first one whose labels take at most half of the time, or the last one."""
    fast = [sam for sam in sams if _sam_s(facts, view, sam) <= 30 * minutes]
    return (fast or sams[-1:])[0]


def _sam_note(facts: Facts, view: View, chosen: SamSeconds, sams: Sequence[SamSeconds]) -> str:
    minutes = {sam.name: f"about {_sam_s(facts, view, sam) / 60:.0f} minutes" for sam in sams}
    if chosen.name == NANO:
        slow = f", {minutes[TINY]} for the labels, more than half of the time" if TINY in minutes else ""
        return (
            "SAM 2: the shipped nano, small and trained on drawn scenes; its masks are used where "
            f"the validation images show that they help. `--sam {TINY}` takes a real one{slow}"
        )
    note = f"SAM 2: {chosen.name}, {minutes[chosen.name]} at {chosen.encode:.1f} s for each image"
    if _keeps_embeddings(facts, view, chosen):
        size_gb = facts.num_unlabeled * EMBEDDING_BYTES / GB
        note += f" (once for the unlabeled ones, whose embeddings are stored: {size_gb:.1f} GB)"
    return note


def _sam_s(facts: Facts, view: View, sam: SamSeconds) -> float:
    """Seconds for the labels of all generations; validation images are always embedded again."""
    times = 1 if _keeps_embeddings(facts, view, sam) else _GENERATIONS
    images = (times * facts.num_unlabeled + _GENERATIONS * facts.num_val) * view.per_image
    labels = facts.mean_objects * (facts.num_unlabeled + len(COMPARED) * facts.num_val)
    return images * sam.encode + _GENERATIONS * labels * sam.decode


def _teacher_s(facts: Facts, whole: IterationSeconds) -> float:
    """Seconds for passes over whole images; a forward pass is taken as a third of an iteration.

    Args:
        whole: of iterations with crops of an image's size.
    """
    return _GENERATIONS * (facts.num_unlabeled + facts.num_val) * whole.teacher / (3 * _BATCH)


def _keeps_embeddings(facts: Facts, view: View, sam: SamSeconds) -> bool:
    """Whether SAM's embeddings are stored: those of a real one, of whole images, if they have room."""
    stored_bytes = facts.num_unlabeled * EMBEDDING_BYTES
    room = stored_bytes <= CacheOptions().embeddings_gb * GB
    return sam.name != NANO and view.tile_px is None and room
