"""The tables: each row is some settings on top of a config, with the paper's figures. Imports no torch."""

from typing import Literal, NamedTuple, get_args

from s4m_pipeline.config.methods import MethodName, read_method
from s4m_pipeline.config.published import CITYSCAPES

Network = Literal["teacher", "student"]


class Row(NamedTuple):
    """A variant of the experiment: settings as `--set` takes them, where {seed} is the trial's seed, and the
    paper's AP of its networks."""

    name: str
    title: str
    settings: str = ""
    student: float | None = None
    teacher: float | None = None


class Table(NamedTuple):
    """Rows that are compared; the AP of the first is subtracted from that of the others, seed by seed."""

    title: str
    rows: tuple[Row, ...]
    network: Network = "student"
    """What is compared; for the teacher, no later stage is run."""
    best_of: str | None = None
    """The name of a row: the table ends with the best, on the validation images, of its teacher, its student
    and the control, which `s4m run --control` hands on as best.safetensors."""


SD, NO_SD = "sd.enabled=True", "sd.enabled=False"
NO_PR, NO_ARP = "refine.prompt=None", "student.arp.fraction=0.0"
ENCODER, DECODER = f"{SD} sd.target=encoder", f"{SD} sd.target=decoder"
LABELED_ONLY = "student.source=labeled student.refresh_every=None"
COMPONENTS = (
    Row("I", "(I) none: Guided Distillation's recipe", f"{NO_SD} {NO_PR} {NO_ARP}", student=28.4),
    Row("II", "(II) SD", f"{SD} {NO_PR} {NO_ARP}", student=29.2),
    Row("III", "(III) ARP", f"{NO_SD} {NO_PR}", student=27.8),
    Row("IV", "(IV) SD, PR", f"{SD} {NO_ARP}", student=32.3),
    Row("V", "(V) SD, ARP", f"{SD} {NO_PR}", student=31.0),
    Row("VI", "(VI) SD, PR, ARP", SD, student=32.8),
)
LOWEST = Row("control", "labels only, the labeled images in both branches", LABELED_ONLY)
HIGHEST = Row(
    "truth", "true labels of the unlabeled images", "student.source=truth student.refresh_every=None"
)
"""A student's headroom is the difference of these two: what the best labels could bring."""
CONTROL = (
    LOWEST,
    Row("raw", "the teacher's labels as they are", NO_PR),
    Row("refined", "refined labels"),
    HIGHEST,
)
SD_STAGE = (
    Row("none", "none", NO_SD, student=30.1),
    Row("teacher", "teacher", SD, student=32.8),
    Row("student", "student", f"{NO_SD} student.distill=True", student=30.7),
    Row("both", "both", f"{SD} student.distill=True", student=29.4),
)
SD_TARGET = (
    Row("none", "none", NO_SD, teacher=19.0),
    Row("encoder-feature", "encoder, feature", f"{ENCODER} sd.loss=feature", teacher=21.1),
    Row("encoder-structural", "encoder, structural", f"{ENCODER} sd.loss=structural", teacher=21.4),
    Row("decoder-structural", "decoder, structural", f"{DECODER} sd.loss=structural", teacher=22.4),
)
PROMPTS = (
    Row("box", "box", "refine.prompt=box", student=32.1),
    Row("mask", "mask", "refine.prompt=mask", student=24.3),
    Row("point", "a single sampled point", "refine.prompt=points refine.points=1", student=30.4),
    Row("points", "K = 3 sampled points", "refine.prompt=points refine.points=3", student=32.8),
)
GATED = "refine.accept=calibrated student.gate=reject"
SAFETY = (
    Row("ours", "chosen by the validation images", f"refine.prompt=auto {GATED}"),
    Row("paper", "every mask refined, as in the paper", "refine.prompt=points student.gate=off"),
    Row("raw", "the teacher's masks as they are", f"{NO_PR} student.gate=off"),
    LOWEST,
)
RIVALS = (
    LOWEST,
    *(
        Row(name, method.title, " ".join(method.settings), CITYSCAPES.others.get(name, {}).get(10))
        for name, method in ((name, read_method(name)) for name in get_args(MethodName))
    ),
    Row("s4m", "S4M as in the config"),
    HIGHEST,
)
SPLIT = "data.labeled=splits/{0:02d}/labeled.json data.unlabeled=splits/{0:02d}/unlabeled.json"
LABELS = tuple(
    Row(f"{percent:02d}", f"{percent} %", SPLIT.format(percent), paper.student, paper.teacher)
    for percent, paper in CITYSCAPES.paper.items()
)
MORE = "data.labeled=more/{{seed}}/{0}/labeled.json data.unlabeled=more/{{seed}}/{0}/unlabeled.json"
SUGGEST = (
    Row("random", "more labels, of random images", MORE.format("random")),
    Row("suggested", "more labels, of suggested images", MORE.format("suggested")),
    Row("before", "no more labels"),
)
TableName = Literal[
    "components", "control", "sd-stage", "sd-target", "prompts", "labels", "safety", "suggest", "rivals"
]
TABLES: dict[TableName, Table] = {
    "components": Table("Structural distillation, refinement, pasting", COMPONENTS),
    "control": Table("Training with and without unlabeled images", CONTROL),
    "sd-stage": Table("Stages that are distilled", SD_STAGE),
    "sd-target": Table("Features and loss of the distillation", SD_TARGET, "teacher"),
    "prompts": Table("Prompts of SAM 2", PROMPTS),
    "safety": Table(
        "Training with labels that were chosen, refined or left as they are", SAFETY, best_of="ours"
    ),
    "suggest": Table("Labels of suggested and of random images", SUGGEST),
    "rivals": Table("Other methods; their reported AP with 90,000 iterations", RIVALS),
    "labels": Table("Percentage of labeled images; the paper with 90,000 iterations", LABELS),
}
"""The paper: Cityscapes, 10 % labeled, ResNet-50, 45,000 iterations, unless the title says otherwise."""
