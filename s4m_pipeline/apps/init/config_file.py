"""The text of an experiment's config: an mmengine Python file on top of the shipped bases."""

import os
from collections.abc import Sequence
from pathlib import Path

from s4m_pipeline.apps.init.fitting import Device, Fit
from s4m_pipeline.apps.init.gpu import COCO_SWIN_T, IMAGENET
from s4m_pipeline.apps.init.sources import Prepared
from s4m_pipeline.config.student import OWN_TEACHER
from s4m_pipeline.config.weight_files import SMALL
from s4m_pipeline.core.paths import CONFIGS, STUDENT, WEIGHTS, experiment_folder


def config_text(path: Path, prepared: Prepared, sizes: Fit, device: Device) -> str:
    """The config file of an experiment, to be written to `path`."""
    bases = [*_networks(sizes), "refine.py"]
    return "\n".join(
        [
            _header(path, prepared, sizes, device),
            f"_base_ = {_texts([CONFIGS.resolve() / '_base_' / base for base in bases])}",
            "",
            _data(prepared),
            *_network(sizes),
            _training(sizes),
            *([f"tiles = dict(size_px={sizes.tile_px})\n"] if sizes.tile_px else []),
            _pipelines(sizes),
        ]
    )


def _networks(sizes: Fit) -> list[str]:
    """The bases with network and optimizer."""
    if sizes.small:
        return ["small.py"]
    return ["swin_t.py"] if sizes.start == COCO_SWIN_T else ["mask2former_r50.py", "adamw.py"]


def _header(path: Path, prepared: Prepared, sizes: Fit, device: Device) -> str:
    classes = prepared.labeled.class_names
    weights = experiment_folder(path) / STUDENT / WEIGHTS
    test = " --split test" if prepared.test else ""
    lines = [
        f'"""{path.stem}: {len(prepared.labeled.images)} labeled and {len(prepared.unlabeled_images)} '
        f"unlabeled images, {len(classes)} {'class' if len(classes) == 1 else 'classes'}.",
        "",
        f"Commands:         s4m run {_plain(path)}, or stage by stage",
        f"                  s4m pretrain-teacher {_plain(path)}",
        f"                  s4m refine {_plain(path)}",
        f"                  s4m train-student {_plain(path)}",
        f"                  s4m evaluate {_plain(path)} {weights}{test}",
        f"Time and memory:  not measured; sized for {device}",
        "Expected AP:      not measured",
        *(["", "Sizes, as `s4m init` chose them:"] if sizes.notes else []),
        *[f"- {_plain(note)}" for note in sizes.notes],
        "",
        "Written by `s4m init`; every value may be changed. The class names come from the labeled JSON:",
        '"""',
        "",
        *[f"# {label} {_plain(name)}" for label, name in enumerate(classes)],
        "",
    ]
    return "\n".join(lines)


def _data(prepared: Prepared) -> str:
    sets = {"labeled": prepared.labeled, "val": prepared.val, "test": prepared.test}
    places = {name: data.json_path for name, data in sets.items() if data}
    places["unlabeled"] = prepared.unlabeled
    folders = {"labeled": "train_images", "val": "val_images", "test": "test_images"}
    places |= {folders[name]: data.images_root for name, data in sets.items() if data}
    root = Path(os.path.commonpath([place.resolve() for place in places.values() if place.is_dir()]))
    lines = [f"    {name}={_text(_from(root, place))}," for name, place in places.items()]
    return "\n".join(["data = dict(", f"    root={_text(root)},  # base of the paths below", *lines, ")"])


def _network(sizes: Fit) -> list[str]:
    parts = ["train_cfg=dict(num_points=1024)"] if sizes.small else []
    if sizes.num_queries is not None:
        parts.append(f"panoptic_head=dict(num_queries={sizes.num_queries})")
        parts.append(f"test_cfg=dict(max_per_image={max(sizes.num_queries, 30)})")
    return [f"model = dict({', '.join(parts)})"] if parts else []


def _training(sizes: Fit) -> str:
    start = sizes.start or SMALL
    every = sizes.iterations // (2 if sizes.small else 10)
    shared = [
        f"    iterations={sizes.iterations},",
        f"    batch_size={sizes.batch_size},",
        f"    workers={0 if sizes.small else 4},",
        f"    precision={sizes.precision!r},",
        f"    validate_every={every},",
        f"    checkpoint_every={min(500, every)},",
        "    keep='best',  # of the validations, by AP",
        *(["    log_every=20,"] if sizes.small else []),
    ]
    averaged = f"    ema={sizes.ema},"
    sam = {"encoder_batch": sizes.encoder_batch, "decoder_chunk": sizes.decoder_chunk}
    given = [f"{name}={value}" for name, value in sam.items() if value is not None]
    refine = ["prompt='auto'", "accept='calibrated'", f"min_soft_area={sizes.min_soft_area}"]
    refine += [f"nms_iou=0.5, batch_size={sizes.refine_batch}"] if sizes.small else []
    return "\n".join(
        [
            "teacher = dict(",
            *shared,
            f"    init_from={start!r},",
            *([averaged, "    augmented_fraction=0.5,"] if sizes.small else []),
            ")",
            f"sam = dict({', '.join([f'model={sizes.sam!r}', *given])})",
            *(["cache = dict(embeddings=True)"] if sizes.embeddings else []),
            f"sd = dict(enabled={sizes.distill})  # True: the teacher also learns SAM 2's layout; slower",
            f"refine = dict({', '.join(refine)})",
            "student = dict(",
            *shared,
            f"    init_from={(OWN_TEACHER if sizes.small else start)!r},",
            averaged,
            f"    unlabeled_batch_size={sizes.unlabeled_batch_size},",
            f"    burn_in={sizes.burn_in},",
            f"    refresh_every={sizes.refresh_every},",
            ")",
            *(
                ["optim_wrapper = dict(optimizer=dict(lr=5e-5))"]
                if sizes.start not in (None, IMAGENET)
                else []
            ),
            *([] if sizes.small else ['param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0)]']),
            "",
        ]
    )


def _pipelines(sizes: Fit) -> str:
    scale = f"({sizes.long_px}, {sizes.short_px})"
    ratio = "(0.8, 1.25)" if sizes.small else "(0.5, 1.5)"
    return f"""\
train_pipeline = [
    dict(type="LoadRGB"),
    dict(type="LoadInstances"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomResize", scale={scale}, ratio_range={ratio}, resize_type="Resize", keep_ratio=True),
    dict(
        type="RandomCrop",
        crop_type="absolute",
        crop_size=({sizes.crop_px}, {sizes.crop_px}),
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1e-5, 1e-5), by_mask=True, keep_empty=False),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadRGB"),
    dict(type="Resize", scale={scale}, keep_ratio=True),
    dict(type="PackDetInputs"),
]
"""


def _from(root: Path, place: Path) -> Path:
    """Relative if it is below the root, which may move; else absolute."""
    absolute = place.resolve()
    return absolute.relative_to(root) if absolute.is_relative_to(root) else absolute


def _texts(paths: Sequence[Path]) -> str:
    return "[\n" + "".join(f"    {_text(path)},\n" for path in paths) + "]"


def _text(path: Path) -> str:
    return repr(path.as_posix())


def _plain(text: object) -> str:
    """Text for a comment or docstring: unprintable characters and quotes that would end it are escaped."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
    return shown.replace("\\", "/").replace('"""', "'''")
