"""Import labels from COCO JSON: they replace those of images with the same name in the current generation."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from s4m_cache.coco import CocoFile, default_file_name, read_coco
from s4m_cache.errors import CacheError, abridged
from s4m_cache.fingerprint import file_hash
from s4m_cache.generation import Generation, GenerationSpec
from s4m_cache.generations import begin, current, current_number, generations, publish
from s4m_cache.reader import CacheReader
from s4m_cache.records import ImageLabels
from s4m_cache.sharding import ShardSpec
from s4m_cache.writer import ShardWriter

IMPORTED = "imported_from"
"""Name of the file among what the labels of an import depend on."""


def import_coco(
    path: Path,
    root: Path,
    number: int | None = None,
    file_names: Mapping[int, str] | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Generation:
    """Make a published generation from the annotations of a COCO file. Resumes after a kill.

    Labels of its images replace those of the current generation; other images keep theirs. Without a current
    generation the file must have all images.

    Args:
        path: a COCO instance file; crowds, empty masks and, beside longer polygons, those of fewer than 3
            points are left out.
        root: the cache's folder.
        number: of the generation; by default the one that this file was imported to before, or a new one.
        file_names: of the images to have labels for, by id; by default those of the current generation, or
            else those of the file. If the current generation has different images, nothing is kept of it.
        note: called with a message about dropped polygons.

    Raises:
        CacheError: if the file is faulty or does not fit the current generation, the generation holds
            different labels, or writing fails.
    """
    source = read_coco(path)
    made = _made_of(path, root)
    base = _base(root, made)
    if base is not None and file_names and not _has_images(base, file_names):
        base = None
    names = dict(file_names or _names(base) or source.file_names)
    ids = _matched(path, source, names, base)
    spec = _spec(path, source, names, base)
    following = max((known.number for known in generations(root)), default=0) + 1
    generation = begin(root, spec, number or (made.number if made else following), file_names=names)
    with ShardWriter(generation, ShardSpec(1, 1)) as writer:
        pending = writer.pending.tolist()
        for image_id in [id_ for id_ in pending if id_ in ids]:
            writer.append(_relabeled(source.labels(ids[image_id]), image_id, source, spec))
        if base is not None:
            with CacheReader(base) as reader:
                for image_id in [id_ for id_ in pending if id_ not in ids]:
                    writer.append(reader.read(image_id, raw=True))
    publish(generation)
    if num_short := source.num_part_short():
        note(f"{path}: dropped polygons of fewer than 3 points from {num_short} annotations")
    return generation


def _made_of(path: Path, root: Path) -> Generation | None:
    """The generation that this file was imported to, if it is current or was not published."""
    wanted = {IMPORTED: path.name, "file": file_hash(path)}
    for known in generations(root):
        is_of_it = wanted.items() <= dict(known.spec.fingerprint).items()
        if is_of_it and (known.published() is None or known.number == current_number(root)):
            return known
    return None


def _base(root: Path, made: Generation | None) -> Generation | None:
    """The generation to lay labels over."""
    if made is not None:
        over = made.spec.fingerprint.get("imported over")
        return None if over is None else Generation(root, int(over))
    return current(root) if current_number(root) else None


def _has_images(base: Generation, file_names: Mapping[int, str]) -> bool:
    if base.file_names:
        return bool(base.file_names == dict(file_names))
    return bool(base.image_ids.tolist() == sorted(file_names))


def _names(base: Generation | None) -> dict[int, str]:
    if base is None:
        return {}
    return base.file_names or {id_: default_file_name(id_) for id_ in base.image_ids.tolist()}


def _matched(
    path: Path, source: CocoFile, names: Mapping[int, str], base: Generation | None
) -> dict[int, int]:
    """The file's id of each image that it has, by the cache's id."""
    known = {name: id_ for id_, name in names.items()}
    unknown = [name for name in source.file_names.values() if name not in known]
    if unknown:
        raise CacheError(
            f"{path}: {len(unknown)} of {len(source.file_names)} images are not among the {len(known)} "
            f"unlabeled images, which are matched by file name: {abridged(unknown)}{_hint(unknown, known)}"
        )
    if twice := [name for name, count in Counter(source.file_names.values()).items() if count > 1]:
        raise CacheError(f"{path}: images listed more than once: {abridged(twice)}. Keep one entry of each")
    absent = sorted(known.keys() - set(source.file_names.values()))
    if base is None and absent:
        raise CacheError(
            f"{path} has no entry in `images` for {len(absent)} of {len(known)} unlabeled images: "
            f"{abridged(absent)}. No generation is published whose labels they could keep: run `s4m refine` "
            "first, or add them to the file (without annotations, if nothing is in them)"
        )
    return {known[name]: id_ for id_, name in source.file_names.items()}


def _hint(unknown: list[str], known: Mapping[str, int]) -> str:
    """What names may have been meant, by their last part."""
    by_last = {PurePosixPath(name).name: name for name in known}
    for name in unknown:
        if found := by_last.get(PurePosixPath(name.replace("\\", "/")).name):
            return f". For {name}, did you mean {found}? Correct `file_name` in the file"
    return f". Expected names such as {min(known)}; or give a different list of images with --unlabeled"


def _spec(path: Path, source: CocoFile, names: Mapping[int, str], base: Generation | None) -> GenerationSpec:
    made_from = {IMPORTED: path.name, "file": file_hash(path)}
    if base is None:
        return GenerationSpec(
            image_ids=list(names),
            classes=source.classes,
            category_ids=source.category_ids,
            num_shards=1,
            fingerprint=made_from,
        )
    if unknown := set(source.classes) - set(base.spec.classes):
        raise CacheError(
            f"{path}: categories {abridged(sorted(unknown))} are not among those of {base.path}: "
            f"{', '.join(base.spec.classes)}. Rename them in the file"
        )
    return dataclasses.replace(
        base.spec,
        num_shards=1,
        fingerprint={**base.spec.fingerprint, **made_from, "imported over": base.number},
    )


def _relabeled(labels: ImageLabels, image_id: int, source: CocoFile, spec: GenerationSpec) -> ImageLabels:
    """The same labels under the generation's image id, with its classes."""
    place = np.array([list(spec.classes).index(name) for name in source.classes], np.int16)
    instances = dataclasses.replace(labels.instances, labels=place[labels.instances.labels])
    return dataclasses.replace(labels, image_id=image_id, instances=instances)
