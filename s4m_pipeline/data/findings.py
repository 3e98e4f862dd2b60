"""What can be wrong with a data set: one table of problems, and a collection of where they occur."""

from collections.abc import Iterator
from enum import Enum
from typing import Any, Literal

from cache.limits import RAISE_LIMIT
from s4m_pipeline.errors import UserError

Severity = Literal["error", "warning", "note"]

NAMES_SHOWN = 5


class Problem(Enum):
    """A kind of problem: its severity and one line saying what is wrong and, where it helps, what to do.

    An error stops training and evaluation; a warning changes what is learnt; a note is only worth knowing.
    """

    CATEGORY_FAULTY = ("error", "categories without an integer id >= 0 or without a name")
    CATEGORY_ID_TWICE = ("error", "category ids used more than once")
    CATEGORY_NAME_TWICE = ("error", "category names used more than once")
    CATEGORY_NONE = ("error", "no category is left: `categories` needs entries with `id` and `name`")
    CATEGORIES_DIFFER = ("error", "categories (id and name) that only one of the two files has")
    CATEGORY_ORDER = ("warning", "categories not listed by rising id: some programs number classes as listed")
    CATEGORY_UNUSED = ("warning", "categories without a usable instance: they cannot be learnt")

    IMAGE_FAULTY = ("error", "images without an integer id >= 0, a `file_name`, or a positive integer size")
    IMAGE_ID_TWICE = ("error", "image ids used more than once")
    FILE_TWICE = ("error", "image files listed more than once")
    FILE_OUTSIDE = (
        "error",
        "file names that are not relative, or lead outside the image folder (`..`, links)",
    )
    IMAGE_NONE = ("error", "no image is left in the file")
    SIZE_OVER_LIMIT = ("error", f"images larger than the pixel limit ({RAISE_LIMIT})")
    FILE_MISSING = ("error", "image files not found (is this the right image folder? `--images` names it)")
    FILE_EMPTY = ("error", "image files of zero bytes")
    FILE_UNREADABLE = ("error", "image files that cannot be decoded: truncated, corrupt or of another format")
    SIZE_DIFFERS = ("error", "images whose size is not the one in the JSON")
    SIZE_UNROTATED = (
        "error",
        "images with an EXIF rotation whose size in the JSON is that before it: images are turned upright "
        "when read, so their masks must be too",
    )
    IMAGE_DARK = (
        "warning",
        "images without a value above 63 of 255 as they are read: of 16-bit files the high byte is taken, so "
        "stretch 10- to 14-bit data to 0..65535",
    )
    EXIF_ROTATED = ("warning", "images with an EXIF rotation: their masks must fit the upright image")

    ANNOTATION_FAULTY = ("error", "annotations without an integer id >= 0")
    ANNOTATION_ID_TWICE = ("error", "annotation ids used more than once")
    ANNOTATION_ID_ZERO = ("warning", "annotation id 0: pycocotools never counts it as found, so AP drops")
    IMAGE_UNKNOWN = ("error", "annotations of an image that the file does not list, or lists with errors")
    CATEGORY_UNKNOWN = (
        "error",
        "annotations of a category that the file does not list, or lists with errors",
    )
    BOX_FAULTY = ("error", "annotations whose `bbox` is not four finite numbers [x, y, width, height]")
    AREA_FAULTY = ("error", "annotations whose `area` is not a finite number")
    CROWD_FAULTY = ("error", "annotations whose `iscrowd` is not 0 or 1")
    BOX_ABSENT = ("warning", "annotations without `bbox`: that of the mask is taken")
    AREA_ABSENT = ("warning", "annotations without `area`: that of the mask is taken")
    CROWD_ABSENT = ("warning", "annotations without `iscrowd`: they are taken for single objects (0)")
    MASK_FAULTY = ("error", "annotations with a missing or malformed mask")
    MASK_PART_SHORT = (
        "warning",
        "annotations with a polygon of fewer than 3 points beside others: it is dropped",
    )
    MASK_EMPTY = ("warning", "annotations whose mask is empty: they are ignored")
    BOX_EMPTY = (
        "warning",
        "annotations less than a pixel wide or high, or outside the image: they are ignored",
    )
    CROWD = ("warning", "crowd regions (`iscrowd` 1): they are not learnt")
    INSTANCE_NONE = ("error", "nothing to learn from: no annotation is usable")
    ANNOTATION_NONE = ("warning", "the file has no annotations: it can only serve as unlabelled data")
    IMAGE_WITHOUT_INSTANCE = ("note", "images without a usable instance")

    VALIDATION_SHARED = ("error", "images that are also validation images")

    def __init__(self, severity: Severity, text: str) -> None:
        self.severity = severity
        self.text = text

    @property
    def code(self) -> str:
        """Stable name for machines, e.g. `image-id-twice`."""
        return self.name.lower().replace("_", "-")


class Findings:
    """Problems found so far, each with the names (file, id, entry) where it occurs."""

    def __init__(self) -> None:
        self._names: dict[Problem, list[str]] = {}

    def add(self, problem: Problem, name: object) -> None:
        """Record one occurrence; `name` comes from outside, so what a terminal cannot show is escaped."""
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(name))
        self._names.setdefault(problem, []).append(text)

    def discard(self, problem: Problem) -> None:
        """Forget all occurrences of a problem that is none here."""
        self._names.pop(problem, None)

    def update(self, other: "Findings") -> None:
        """Take over all occurrences of `other`."""
        for problem, names in other:
            self._names.setdefault(problem, []).extend(names)

    def __iter__(self) -> Iterator[tuple[Problem, list[str]]]:
        """Problems in the order of the table, errors first."""
        order: list[Severity] = ["error", "warning", "note"]
        for severity in order:
            for problem in Problem:
                if problem.severity == severity and problem in self._names:
                    yield problem, self._names[problem]

    def names(self, problem: Problem) -> list[str]:
        """Where `problem` occurs, in the order found; empty when it does not."""
        return self._names.get(problem, [])

    def count(self, severity: Severity) -> int:
        """Number of occurrences of this severity."""
        return sum(len(names) for problem, names in self if problem.severity == severity)

    def raise_errors(self, source: object, advice: str) -> None:
        """Raise `UserError` with every error at once; return when there is none."""
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
    """The first few names, then how many more there are."""
    rest = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
