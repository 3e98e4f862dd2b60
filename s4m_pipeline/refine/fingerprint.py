"""What pseudo-labels depend on, known from settings and from hashes of files: no network is built."""

from collections.abc import Mapping
from typing import Any

from s4m_cache.fingerprint import Fingerprint, explain, file_hash, settings_hash
from s4m_pipeline.config.experiment import Options
from s4m_pipeline.config.groups import Recipe
from s4m_pipeline.config.sam_files import SamSource
from s4m_pipeline.config.student import StudentOptions
from s4m_pipeline.config.weight_files import WeightFile
from s4m_pipeline.core.devices import has_gpu

VALIDATION = "validation images"


def label_fingerprint(
    options: Options, config: Mapping[str, Any], teacher: WeightFile, sam: SamSource | None, image_names: str
) -> dict[str, str | int | float | bool | None]:
    """All that labels depend on; shards and later sessions that differ in it are refused.

    Args:
        config: the whole config as plain values.
        teacher: the teacher's weights.
        sam: None: the teacher's masks are kept.
        image_names: digest of the unlabeled images' ids and names.
    """
    on_gpu, data = has_gpu(), options.data
    decides = needs_choice(options.refine, options.student)
    return {
        "teacher": teacher.digest(),
        "teacher precision": options.teacher.precision if on_gpu else "fp32",
        "model": settings_hash(config["model"]),
        "test_pipeline": settings_hash(config["test_pipeline"]),
        "sam": sam and sam.model,
        "sam weights": sam and f"sha256:{sam.weights_sha256[:16]}",
        "sam config": sam and f"sha256:{sam.config_sha256[:16]}",
        "sam precision": sam and ("bf16" if on_gpu else "fp32"),
        "embeddings": "fp16" if sam and options.cache.embeddings else None,
        "image names": image_names,
        **({VALIDATION: file_hash(data.path(data.val))} if decides else {}),
        **options.refine.model_dump(include=set(Recipe.model_fields)),
    }


def needs_choice(recipe: Recipe, student: StudentOptions | None) -> bool:
    """Whether the validation images decide which masks are taken, so that they must be measured first."""
    gated = student is not None and student.gate == "reject"
    calibrated = recipe.accept == "calibrated"
    return recipe.prompt == "auto" or (recipe.prompt is not None and (gated or calibrated))


def comparable(*fingerprints: Fingerprint) -> list[dict[str, Any]]:
    """Fingerprints in the same terms, so that what only one of them records does not read as a change.

    A setting that is not recorded did not exist yet: it had the effect of its default. The validation images
    are compared only if all record them: they may not have mattered.
    """
    unknown = {VALIDATION} if any(VALIDATION not in made for made in fingerprints) else set()
    defaults = Recipe().model_dump()
    return [{**defaults, **{k: v for k, v in made.items() if k not in unknown}} for made in fingerprints]


def explain_labels(stored: Fingerprint, given: Fingerprint) -> list[str]:
    """One line for each difference between what labels were made of and what they would be made of now."""
    return explain(*comparable(stored, given))
