"""The tables: each row is some settings on top of a config, with the paper's figures. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from s4m_pipeline.reproduction.benchmarks import CITYSCAPES

Network = Literal["teacher", "student"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A variant of the experiment."""

    name: str
    """As in `--rows` and in names of folders."""
    title: str
    settings: tuple[str, ...] = ()
    """What is changed in the config, as `--set` takes it; nothing: the config as it is."""
    labeled_percent: int | None = None
    """Draw anew which images are labelled: this share of the training images."""
    paper_student: float | None = None
    """The paper's AP in percent."""
    paper_teacher: float | None = None
    """Likewise, of the teacher."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows that are compared with one another."""

    title: str
    rows: tuple[Row, ...]
    paper: str
    """Which experiment of the paper the figures beside ours come from."""
    network: Network = "student"
    """What is compared; with the teacher, nothing after it is run."""
    baseline: str | None = None
    """Row whose AP is subtracted from the others', seed by seed."""


SD, NO_SD = "sd.enabled=True", "sd.enabled=False"
NO_PR, NO_ARP = "refine.prompt=None", "student.arp.fraction=0.0"
_ABLATIONS = "Cityscapes, 10 % labelled, ResNet-50, 45,000 steps"

COMPONENTS = Table(
    title="Components: structural distillation (SD), refinement (PR), pasting (ARP)",
    paper=_ABLATIONS,
    baseline="I",
    rows=(
        Row(
            name="I",
            title="(I) none: Guided Distillation's recipe",
            settings=(NO_SD, NO_PR, NO_ARP),
            paper_student=28.4,
        ),
        Row(name="II", title="(II) SD", settings=(SD, NO_PR, NO_ARP), paper_student=29.2),
        Row(name="III", title="(III) ARP", settings=(NO_SD, NO_PR), paper_student=27.8),
        Row(name="IV", title="(IV) SD, PR", settings=(SD, NO_ARP), paper_student=32.3),
        Row(name="V", title="(V) SD, ARP", settings=(SD, NO_PR), paper_student=31.0),
        Row(name="VI", title="(VI) SD, PR, ARP", settings=(SD,), paper_student=32.8),
    ),
)
CONTROL = Table(
    title="Control: the same training with and without unlabelled images",
    paper="the paper has no such control",
    baseline="control",
    rows=(
        Row(
            name="control",
            title="labels only, the labelled images in both branches",
            settings=("student.source=labeled", "student.refresh_every=None"),
        ),
        Row(name="raw", title="the teacher's labels as they are", settings=(NO_PR,)),
        Row(name="refined", title="refined labels"),
    ),
)
SD_STAGE = Table(
    title="Stages that are distilled",
    paper=_ABLATIONS,
    baseline="none",
    rows=(
        Row(name="none", title="none", settings=(NO_SD,), paper_student=30.1),
        Row(name="teacher", title="teacher", settings=(SD,), paper_student=32.8),
        Row(name="student", title="student", settings=(NO_SD, "student.distill=True"), paper_student=30.7),
        Row(name="both", title="both", settings=(SD, "student.distill=True"), paper_student=29.4),
    ),
)


def _sd_variant(target: str, loss: str, paper: float) -> Row:
    return Row(
        name=f"{target}-{loss}",
        title=f"{target}, {loss}",
        settings=(SD, f"sd.target={target}", f"sd.loss={loss}"),
        paper_teacher=paper,
    )


SD_TARGET = Table(
    title="Features and loss of the distillation",
    paper=_ABLATIONS,
    network="teacher",
    baseline="none",
    rows=(
        Row(name="none", title="none", settings=(NO_SD,), paper_teacher=19.0),
        _sd_variant("encoder", "feature", 21.1),
        _sd_variant("encoder", "structural", 21.4),
        _sd_variant("decoder", "structural", 22.4),
    ),
)
PROMPTS = Table(
    title="How SAM 2 is asked",
    paper=_ABLATIONS,
    rows=(
        Row(name="box", title="box", settings=("refine.prompt=box",), paper_student=32.1),
        Row(name="mask", title="mask", settings=("refine.prompt=mask",), paper_student=24.3),
        Row(
            name="point",
            title="a single sampled point",
            settings=("refine.prompt=points", "refine.points=1"),
            paper_student=30.4,
        ),
        Row(
            name="points",
            title="K = 3 sampled points",
            settings=("refine.prompt=points", "refine.points=3"),
            paper_student=32.8,
        ),
    ),
)
LABELS = Table(
    title="Share of labelled images",
    paper="Cityscapes, ResNet-50, 90,000 steps; the teacher with SD",
    rows=tuple(
        Row(
            name=f"{percent:02d}",
            title=f"{percent} %",
            labeled_percent=percent,
            paper_student=figures.student,
            paper_teacher=figures.teacher,
        )
        for percent, figures in CITYSCAPES.paper.items()
    ),
)

TableName = Literal["components", "control", "sd-stage", "sd-target", "prompts", "labels"]
TABLES: dict[TableName, Table] = {
    "components": COMPONENTS,
    "control": CONTROL,
    "sd-stage": SD_STAGE,
    "sd-target": SD_TARGET,
    "prompts": PROMPTS,
    "labels": LABELS,
}
