"""The problems that a data set can have, and a collection of their occurrences."""

from collections.abc import Iterator
from enum import Enum
from typing import Any, Literal

from s4m_cache.limits import MAX_RATIO, RAISE_LIMIT
from s4m_pipeline.core.errors import UserError

Severity = Literal["error", "warning", "note"]

NAMES_SHOWN = 5


class Problem(Enum):
    """A kind of problem: its severity, and one line saying what is wrong and, where useful, what to do.

    An error stops training and evaluation; a warning affects what is learned; a note is information only.
    """

    CATEGORY_FAULTY = ("error", "categories without an integer id >= 0 or without a name")
    CATEGORY_ID_TWICE = ("error", "category ids used more than once")
    CATEGORY_NAME_TWICE = ("error", "category names used more than once")
    CATEGORY_NAME_FAULTY = (
        "error",
        "category names with a line end, tab or other control character (usually left by the file that they "
        "were read from): remove it from `name`",
    )
    CATEGORY_NONE = ("error", "no valid category: `categories` needs entries with `id` and `name`")
    CATEGORIES_DIFFER = ("error", "categories (id and name) in only one of the two files")
    CATEGORY_ORDER = ("warning", "categories not sorted by id: some programs number classes as listed")
    CATEGORY_UNUSED = ("warning", "categories without a usable instance: they cannot be learned")

    IMAGE_FAULTY = ("error", "images without an integer id >= 0, a `file_name`, or a positive integer size")
    IMAGE_ID_TWICE = ("error", "image ids used more than once")
    FILE_TWICE = ("error", "image files listed more than once")
    FILE_COPIED = ("warning", "image files with the same bytes as another one: remove all but one")
    FILE_OUTSIDE = (
        "error",
        "file names that are not relative, have backslashes, or point outside the image folder (`..`, "
        "symbolic links)",
    )
    IMAGE_NONE = ("error", "no valid image in the file")
    SIZE_OVER_LIMIT = ("error", f"images larger than the pixel limit ({RAISE_LIMIT})")
    SIZE_THIN = ("error", f"images more than {MAX_RATIO} times as long as wide: crop or remove them")
    FILE_MISSING = (
        "error",
        "image files not found: set the image folder with `--images`, or correct `file_name`",
    )
    FILE_EMPTY = ("error", "image files of zero bytes")
    FILE_UNREADABLE = ("error", "image files that cannot be decoded: truncated, corrupt or unknown format")
    SIZE_DIFFERS = ("error", "images whose size differs from the JSON")
    SIZE_UNROTATED = (
        "error",
        "images with an EXIF rotation whose size in the JSON is that before the rotation: images are rotated "
        "when read, so size and masks must be those of the upright image",
    )
    IMAGE_DARK = (
        "warning",
        "images without a pixel value above 63 of 255: only the high byte of 16-bit files is used, so "
        "rescale 10- to 14-bit data to 0..65535",
    )
    EXIF_ROTATED = ("warning", "images with an EXIF rotation: their masks must fit the upright image")

    ANNOTATION_FAULTY = ("error", "annotations without an integer id >= 0")
    ANNOTATION_ID_TWICE = ("error", "annotation ids used more than once")
    ANNOTATION_ID_ZERO = (
        "warning",
        "annotation id 0: pycocotools in other programs never counts it as found",
    )
    IMAGE_UNKNOWN = ("error", "annotations of an image that is not listed, or listed with errors")
    CATEGORY_UNKNOWN = ("error", "annotations of a category that is not listed, or listed with errors")
    BOX_FAULTY = ("error", "annotations whose `bbox` is not four finite numbers [x, y, width, height]")
    AREA_FAULTY = ("error", "annotations whose `area` is not a finite number")
    CROWD_FAULTY = ("error", "annotations whose `iscrowd` is not 0 or 1")
    BOX_ABSENT = ("warning", "annotations without `bbox`: that of the mask is used")
    AREA_ABSENT = ("warning", "annotations without a positive `area`: that of the mask is used")
    CROWD_ABSENT = ("warning", "annotations without `iscrowd`: 0 (a single object) is used")
    MASK_FAULTY = ("error", "annotations with a missing or malformed mask")
    MASK_PART_SHORT = (
        "warning",
        "annotations with a polygon of fewer than 3 points beside longer ones: it is dropped",
    )
    MASK_EMPTY = (
        "warning",
        "annotations whose mask covers no pixel (coordinates must be pixels of the image, not fractions of "
        "its size): they are ignored",
    )
    BOX_MASK_APART = (
        "warning",
        "annotations whose box and mask are far apart (IoU below 0.5), so that one of them is wrong: they "
        "are ignored; boxes must be [x, y, width, height], and both in pixels of the image",
    )
    OBJECT_TWICE = (
        "warning",
        "annotations that repeat an earlier one (image, category, box and mask): they are ignored",
    )
    BOX_EMPTY = (
        "warning",
        "annotations less than a pixel wide or high, or outside the image: they are ignored",
    )
    CROWD = ("warning", "crowd regions (`iscrowd` 1): they are not used for training")
    INSTANCE_NONE = ("error", "no annotation is usable for training")
    ANNOTATION_NONE = ("warning", "the file has no annotations: use it as unlabeled data only")
    IMAGE_WITHOUT_INSTANCE = ("note", "images without a usable instance")

    VALIDATION_SHARED = ("error", "images that are also validation images")

    def __init__(self, severity: Severity, text: str) -> None:
        self.severity = severity
        self.text = text

    @property
    def code(self) -> str:
        """Stable identifier for scripts, e.g. `image-id-twice`."""
        return self.name.lower().replace("_", "-")


class Findings:
    """Problems found so far, each with the names (file, id, entry) of its occurrences."""

    def __init__(self) -> None:
        self._names: dict[Problem, list[str]] = {}

    def add(self, problem: Problem, name: object) -> None:
        """Record one occurrence; unprintable characters of `name`, which comes from the data, are escaped."""
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(name))
        self._names.setdefault(problem, []).append(text)

    def discard(self, problem: Problem) -> None:
        """Remove all occurrences of a problem."""
        self._names.pop(problem, None)

    def update(self, other: "Findings") -> None:
        """Add all occurrences of `other`."""
        for problem, names in other:
            self._names.setdefault(problem, []).extend(names)

    def __iter__(self) -> Iterator[tuple[Problem, list[str]]]:
        """Problems in order of severity, errors first."""
        order: list[Severity] = ["error", "warning", "note"]
        for severity in order:
            for problem in Problem:
                if problem.severity == severity and problem in self._names:
                    yield problem, self._names[problem]

    def names(self, problem: Problem) -> list[str]:
        """Names of all occurrences of `problem`, in the order found."""
        return self._names.get(problem, [])

    def count(self, severity: Severity) -> int:
        """Number of occurrences of this severity."""
        return sum(len(names) for problem, names in self if problem.severity == severity)

    def raise_errors(self, source: object, advice: str) -> None:
        """Raise one `UserError` that lists all errors, if there are any."""
        errors = [(problem, names) for problem, names in self if problem.severity == "error"]
        if errors:
            lines = [f"  - {problem.text} ({len(names)}): {first_names(names)}" for problem, names in errors]
            raise UserError("\n".join([f"{source} cannot be used:", *lines, advice]))

    def as_json(self) -> list[dict[str, Any]]:
        """One dict per problem with `code`, `severity`, `text`, `count` and all `names`."""
        return [
            {
                "code": problem.code,
                "severity": problem.severity,
                "text": problem.text,
                "count": len(names),
                "names": names,
            }
            for problem, names in self
        ]


def first_names(names: list[str]) -> str:
    """The first names, and the number of the remaining ones."""
    rest = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
