"""The labels of Cityscapes and how its `instanceIds` images encode them."""

LABEL_IDS = {
    "unlabeled": 0,
    "ego vehicle": 1,
    "rectification border": 2,
    "out of roi": 3,
    "static": 4,
    "dynamic": 5,
    "ground": 6,
    "road": 7,
    "sidewalk": 8,
    "parking": 9,
    "rail track": 10,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "guard rail": 14,
    "bridge": 15,
    "tunnel": 16,
    "pole": 17,
    "polegroup": 18,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "caravan": 29,
    "trailer": 30,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
    "license plate": -1,
}
"""Id of every label name that the annotations use; a negative one is never drawn."""

COUNTABLE = ("person", "rider", "car", "truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle")
"""Labels annotated object by object."""

INSTANCE_CLASSES = {name: LABEL_IDS[name] for name in COUNTABLE if name not in ("caravan", "trailer")}
"""The eight classes that instances are evaluated of, with their label ids, in the order of these."""

INSTANCES_PER_LABEL = 1000
"""A pixel of the k-th object of a countable label is `1000 * label id + k`; any other pixel is its label id,
also one of a group whose objects cannot be told apart."""


def is_pixel_value(value: int) -> bool:
    """Whether an `instanceIds` image may hold this value."""
    if value < INSTANCES_PER_LABEL:
        return 0 <= value <= max(LABEL_IDS.values())
    return value // INSTANCES_PER_LABEL in {LABEL_IDS[name] for name in COUNTABLE}


def label_of(value: int) -> int:
    """The label id of a pixel value."""
    return value if value < INSTANCES_PER_LABEL else value // INSTANCES_PER_LABEL
