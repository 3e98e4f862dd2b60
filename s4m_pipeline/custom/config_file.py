"""The text of an experiment's config: an mmengine Python file on top of the shipped bases."""

import os
from collections.abc import Sequence
from pathlib import Path

import s4m_pipeline
from s4m_pipeline.custom.fitting import Device, Fit
from s4m_pipeline.custom.sources import Prepared
from s4m_pipeline.layout import CONFIGS, STUDENT, WEIGHTS, experiment_folder

_SMALL_WEIGHTS = Path(s4m_pipeline.__file__).parent / "models" / "demo_init" / "demo_init.safetensors"


def config_text(path: Path, prepared: Prepared, sizes: Fit, device: Device) -> str:
    """The config file of an experiment, to be written to `path`."""
    bases = ["small.py", "refine.py"] if sizes.small else ["mask2former_r50.py", "adamw.py", "refine.py"]
    return "\n".join(
        [
            _header(path, prepared, device),
            f"_base_ = {_texts([CONFIGS.resolve() / '_base_' / base for base in bases])}",
            "",
            _data(prepared),
            *_network(sizes),
            _training(prepared, sizes),
            _pipelines(sizes),
        ]
    )


def _header(path: Path, prepared: Prepared, device: Device) -> str:
    classes = prepared.labeled.class_names
    weights = experiment_folder(path) / STUDENT / WEIGHTS
    test = " --split test" if prepared.test else ""
    lines = [
        f'"""{path.stem}: {len(prepared.labeled.images)} labelled and {len(prepared.unlabeled_images)} '
        f"unlabelled images, {len(classes)} {'class' if len(classes) == 1 else 'classes'}.",
        "",
        f"Commands:         s4m run {_plain(path)}, or stage by stage",
        f"                  s4m pretrain-teacher {_plain(path)}",
        f"                  s4m refine {_plain(path)}",
        f"                  s4m train-student {_plain(path)}",
        f"                  s4m evaluate {_plain(path)} {weights}{test}",
        f"Time and memory:  not measured; sized for {device}",
        "Expected AP:      not measured",
        "",
        "Written by `s4m init`; every value may be changed. The class names come from the labelled JSON:",
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
    return "\n".join(["data = dict(", f"    root={_text(root)},  # the other paths start here", *lines, ")"])


def _network(sizes: Fit) -> list[str]:
    if sizes.num_queries is None:
        return []
    queries = f"panoptic_head=dict(num_queries={sizes.num_queries})"
    return [f"model = dict({queries}, test_cfg=dict(max_per_image={max(sizes.num_queries, 30)}))"]


def _training(prepared: Prepared, sizes: Fit) -> str:
    start = str(_SMALL_WEIGHTS.resolve()) if sizes.small else "torchvision://resnet50"
    every = sizes.iterations // (2 if sizes.small else 10)
    shared = [
        f"    batch_size={sizes.batch_size},",
        f"    workers={0 if sizes.small else 4},",
        f"    precision={sizes.precision!r},",
        f"    init_from={start!r},",
        f"    validate_every={every},",
        f"    checkpoint_every={min(500, every)},",
        *(["    log_every=20,"] if sizes.small else []),
    ]
    averaged = f"    ema={sizes.ema},"
    sam = {"encoder_batch": sizes.encoder_batch, "decoder_chunk": sizes.decoder_chunk}
    given = [f"{name}={value}" for name, value in sam.items() if value is not None]
    return "\n".join(
        [
            "teacher = dict(",
            f"    iterations={sizes.iterations},",
            *shared,
            *([averaged] if sizes.small else []),
            ")",
            f"sam = dict({', '.join([f'model={sizes.sam!r}', *given])})",
            f"sd = dict(enabled={sizes.distil})  # True: the teacher also learns SAM 2's layout; slower",
            f"refine = dict({'nms_iou=0.5, ' if sizes.small else ''}min_soft_area={sizes.min_soft_area})",
            "student = dict(",
            f"    iterations={sizes.student_iterations},",
            *shared,
            averaged,
            f"    unlabeled_batch_size={sizes.unlabeled_batch_size},",
            f"    burn_in={sizes.burn_in},",
            f"    refresh_every={sizes.refresh_every},",
            ")",
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
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
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
    """Relative where it lies below the root, as that may move; else absolute."""
    whole = place.resolve()
    return whole.relative_to(root) if whole.is_relative_to(root) else whole


def _texts(paths: Sequence[Path]) -> str:
    return "[\n" + "".join(f"    {_text(path)},\n" for path in paths) + "]"


def _text(path: Path) -> str:
    return repr(path.as_posix())


def _plain(text: object) -> str:
    """Text for a comment or docstring: what could end it or cannot be shown is escaped."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
    return shown.replace("\\", "/").replace('"""', "'''")
