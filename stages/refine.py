"""Stage 2: pseudo-labels of the unlabelled images by teacher and SAM 2, in shards, into the cache."""

import hashlib
import json
import os
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s4m_pipeline import console
from s4m_pipeline.options.experiment import Options, load_experiment
from s4m_pipeline.refine.recipe import Recipe
from stages.artifacts import CACHE, experiment_folder, teacher_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cache.embeddings import EmbeddingStore
    from cache.generation import Generation
    from cache.sharding import ShardSpec
    from s4m_pipeline.data.coco import CocoData, CocoImage
    from s4m_pipeline.data.unlabeled import UnlabeledImages
    from s4m_pipeline.engine.checkpoint import Weights
    from s4m_pipeline.refine.labeller import Labeller
    from s4m_pipeline.refine.photos import PhotoFiles
    from s4m_pipeline.sam import BatchedSam, LoadedSam


def refine(
    config: Annotated[Path, typer.Argument(help="Config of the experiment, a file of configs/.")],
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="i/n", help="Share of the images.  [default: of a job array, or one for each GPU]"
        ),
    ] = None,
    generation: Annotated[
        int | None,
        typer.Option("--generation", "-g", min=1, help="Number of the generation.  [default: the newest]"),
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="Checkpoint.  [default: the experiment's finished teacher]")
    ] = None,
    preview: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Draw the labels of N images; store nothing.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the config.")
    ] = None,
    work_dir: Annotated[
        Path | None, typer.Option(help="Folder of the experiment.  [default: work_dirs/<config name>]")
    ] = None,
    trust_checkpoint: Annotated[
        bool, typer.Option("--trust-checkpoint", help="Load the checkpoint even if its file runs code.")
    ] = False,
) -> None:
    """Label the unlabelled images; a run that was interrupted goes on with what has no labels yet."""
    options, parts = load_experiment(config, overrides or [])
    experiment = experiment_folder(config, work_dir)
    share = _share(shard)
    if share is None and preview is None and len(gpus := _visible_gpus()) > 1:
        from s4m_pipeline.refine.fan_out import run_shards

        raise SystemExit(run_shards(sys.argv[1:], gpus))
    inputs = _load_inputs(options, parts, teacher or teacher_weights(experiment), trust_checkpoint)
    if preview is not None:
        _preview(inputs, generation or 1, preview, experiment / "preview.png")
        return
    begun = _begin(inputs, experiment / CACHE, share, generation)
    if begun.published() is None:
        _label(inputs, begun, share)
        _publish(inputs, begun)
    console.result.print(f"{begun.path}", markup=False, soft_wrap=True)


@dataclass(frozen=True)
class Inputs:
    """Everything that was read and checked before the work begins."""

    options: Options
    parts: dict[str, Any]
    labelled: "CocoData"
    unlabeled: "UnlabeledImages"
    truth: "CocoData | None"
    weights: "Weights"
    sam: "LoadedSam | None"


def _share(shard: str | None) -> "ShardSpec | None":
    from cache.sharding import ShardSpec

    return ShardSpec.parse(shard) if shard else ShardSpec.from_environment(os.environ)


def _visible_gpus() -> list[str]:
    from s4m_pipeline.refine.fan_out import visible_gpus

    return visible_gpus()


def _load_inputs(options: Options, parts: dict[str, Any], teacher: Path, trust: bool) -> Inputs:
    from s4m_pipeline.data.coco import load_coco
    from s4m_pipeline.data.unlabeled import load_unlabeled
    from s4m_pipeline.engine.checkpoint import read_weights, require_classes
    from s4m_pipeline.errors import UserError
    from s4m_pipeline.evaluation.ground_truth import require_truth
    from s4m_pipeline.sam import load_sam

    data, recipe = options.data, options.refine
    if data.unlabeled is None:
        raise UserError(
            "The config has no data.unlabeled.\nSet it to a COCO JSON of the unlabelled images or a folder; "
            "`s4m data split` makes such a file."
        )
    images_root = data.path(data.train_images)
    labelled = load_coco(data.path(data.labeled), images_root)
    unlabeled = load_unlabeled(data.path(data.unlabeled), images_root)
    truth = unlabeled.annotated
    if recipe.ground_truth is not None:
        truth = load_coco(data.path(recipe.ground_truth), images_root)
    if truth is not None:
        require_truth(truth, unlabeled.images, labelled.class_names)
    weights = read_weights(teacher, trust=trust)
    require_classes(weights, tuple(labelled.class_names), str(labelled.json_path))
    sam = options.sam
    loaded = (
        None if recipe.prompt is None else load_sam(sam.model, config=sam.config, weights_dir=sam.weights_dir)
    )
    return Inputs(options, parts, labelled, unlabeled, truth, weights, loaded)


def _begin(inputs: Inputs, root: Path, share: "ShardSpec | None", number: int | None) -> "Generation":
    from cache.generation import GenerationSpec
    from cache.generations import begin

    spec = GenerationSpec(
        image_ids=[image.id for image in inputs.unlabeled.images],
        classes=inputs.labelled.class_names,
        category_ids=[category.id for category in inputs.labelled.categories],
        num_shards=share.count if share else 1,
        fingerprint=_fingerprint(inputs),
    )
    return begin(root, spec, number)


def _fingerprint(inputs: Inputs) -> dict[str, str | int | float | bool | None]:
    """All that labels depend on; shards and later sessions that differ in it are refused."""
    from cache.fingerprint import file_hash

    options, sam = inputs.options, inputs.sam
    on_gpu = _device() == "cuda"
    return {
        "teacher": file_hash(inputs.weights.path),
        "teacher precision": options.teacher.precision if on_gpu else "fp32",
        "model": _hash(inputs.parts["model"]),
        "test_pipeline": _hash(inputs.parts["test_pipeline"]),
        "sam": sam and sam.model,
        "sam weights": sam and f"sha256:{sam.weights_sha256[:16]}",
        "sam config": sam and f"sha256:{sam.config_sha256[:16]}",
        "sam precision": sam and ("bf16" if on_gpu else "fp32"),
        "embeddings": "fp16" if sam and options.cache.embeddings else None,
        "image names": inputs.unlabeled.digest,
        **{item.name: getattr(options.refine, item.name) for item in fields(Recipe)},
    }


def _hash(settings: Any) -> str:
    text = json.dumps(settings, sort_keys=True, default=str)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _label(inputs: Inputs, generation: "Generation", share: "ShardSpec | None") -> None:
    """Label what is pending in one shard."""
    from cache.sharding import ShardSpec
    from cache.writer import ShardWriter
    from s4m_pipeline.engine.hooks import StopOnSignal
    from s4m_pipeline.refine.record import ShardRecord
    from s4m_pipeline.refine.report import print_session
    from s4m_pipeline.refine.shard import label_shard

    options, share = inputs.options.refine, share or ShardSpec(1, 1)
    stop = StopOnSignal()
    with (
        stop.listening(),
        ShardWriter(generation, share, max_images=inputs.options.cache.part_images) as writer,
    ):
        pending = set(writer.pending.tolist())
        console.progress.print(
            f"shard {share} of {generation.name}: {writer.num_stored} done, {len(pending)} to do"
            + (f", {writer.num_discarded} part(s) discarded" if writer.num_discarded else ""),
        )
        if not pending:
            return
        images = [image for image in inputs.unlabeled.images if image.id in pending]
        labeller = _build_labeller(inputs, generation.number, generation.root)
        session = label_shard(
            writer,
            _photo_files(inputs, images),
            labeller,
            workers=options.workers,
            max_unreadable=options.max_unreadable,
            stop=lambda: bool(stop.received),
            console=console.progress,
        )
        ShardRecord.sum([ShardRecord.read(generation, share), session]).write(generation, share)
    print_session(session)
    if stop.received:
        console.progress.print("Stopped by a signal; the same command goes on from there.")
        raise SystemExit(128 + stop.received)


def _build_labeller(inputs: Inputs, generation: int, root: Path | None) -> "Labeller":
    """Teacher and SAM on the device; with a `root`, embeddings may be kept below it."""
    from mmdet.registry import MODELS

    from s4m_pipeline.engine.checkpoint import load_weights
    from s4m_pipeline.engine.parts import model_config
    from s4m_pipeline.refine.encoder import ImageEncoder
    from s4m_pipeline.refine.labeller import Labeller
    from s4m_pipeline.registry import register_all
    from s4m_pipeline.sam import BatchedSam

    register_all()
    options, device = inputs.options, _device()
    model = MODELS.build(model_config(inputs.parts["model"], len(inputs.labelled.categories)))
    load_weights(model, inputs.weights)
    sam = encoder = None
    if inputs.sam is not None:
        sam = BatchedSam(
            inputs.sam.network,
            device=device,
            encoder_batch=options.sam.encoder_batch,
            decoder_chunk=options.sam.decoder_chunk,
            compile=options.sam.compile,
        )
        keep = options.cache.embeddings and root is not None
        encoder = ImageEncoder(sam, _embedding_store(inputs, sam, root) if keep and root else None)
    return Labeller(
        model.to(device).eval(),
        sam,
        encoder,
        options.refine,
        generation=generation,
        batch_size=options.refine.batch_size,
        precision=options.teacher.precision,
    )


def _embedding_store(inputs: Inputs, sam: "BatchedSam", root: Path) -> "EmbeddingStore":
    from s4m_pipeline.refine.encoder import open_store

    fingerprint = _fingerprint(inputs)
    needed = ("sam", "sam weights", "sam config", "sam precision", "image names")
    return open_store(
        root / "embeddings",
        sam,
        [image.id for image in inputs.unlabeled.images],
        {name: fingerprint[name] for name in needed},
        int(inputs.options.cache.embeddings_gb * 1e9),
    )


def _photo_files(inputs: Inputs, images: "Sequence[CocoImage]") -> "PhotoFiles":
    from s4m_pipeline.refine.photos import PhotoFiles

    return PhotoFiles(images, inputs.parts["test_pipeline"])


def _publish(inputs: Inputs, generation: "Generation") -> None:
    """Publish the generation if all shards are done; else say which are not."""
    from s4m_pipeline.refine.publication import publish_labels
    from s4m_pipeline.refine.report import print_quality

    if missing := generation.missing():
        shards = ", ".join(f"{shard} ({ids.size} images)" for shard, ids in missing.items())
        console.progress.print(
            f"{generation.name} is published when these shards are done, too: {shards}", soft_wrap=True
        )
        return
    publish_labels(generation, inputs.truth, inputs.options.refine.min_score)
    publication = generation.published()
    assert publication is not None  # just written
    if publication["quality"]:
        print_quality(publication["quality"], inputs.labelled.class_names)
    console.result.print(f"{generation.name} is published.")


def _preview(inputs: Inputs, generation: int, count: int, path: Path) -> None:
    """Draw the labels of images spread over the list."""
    from s4m_pipeline.refine.photos import batches_by_size, load_photos, readable
    from s4m_pipeline.refine.preview import draw_preview

    images = inputs.unlabeled.images
    step = max(1, len(images) // count)
    labeller = _build_labeller(inputs, generation, root=None)
    files = _photo_files(inputs, images[::step][:count])
    photos = readable(load_photos(files, 0, pin_memory=False), lambda image: None)
    labelled = [
        image
        for batch in batches_by_size(photos, labeller.batch_size, labeller.divisor_px)
        for image in labeller.label(batch)
    ]
    draw_preview(labelled, inputs.labelled.class_names, path)
    console.result.print(f"{path}", markup=False, soft_wrap=True)
