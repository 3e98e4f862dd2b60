"""What a training reports: metrics.jsonl, the visualizer, progress, and AP on validation images."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, is_main_process, master_only
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook

from s4m_pipeline.core import console
from s4m_pipeline.core.progress import ProgressBar
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.evaluation.mask_ap import coco_results, mask_ap
from s4m_pipeline.experiment.metrics import append_metrics, drop_metrics_after


class MetricsHook(Hook):
    """Writes the mean of each loss over `every` iterations to metrics.jsonl, the visualizer and the console.

    On several devices losses are means over all of them; times and memory are those of rank 0.

    Args:
        folder: of the training; records after the iteration that a run resumes from are dropped.
        every: iterations per record.
        progress: the progress bar.
    """

    priority = "BELOW_NORMAL"

    def __init__(self, folder: Path, every: int, progress: ProgressBar) -> None:
        self.folder = folder
        self.every = every
        self.progress = progress
        self.sums: dict[str, torch.Tensor] = {}
        self.steps = 0
        self.data_s = 0.0
        self.warned = False

    def before_train(self, runner: Any) -> None:
        if is_main_process():
            drop_metrics_after(self.folder, runner.iter)
        self.progress.start_at(runner.iter)
        self.began = self.step_ended = time.perf_counter()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.data_s += time.perf_counter() - self.step_ended

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        for name, value in outputs.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().float()
        self.steps += 1
        step = runner.iter + 1
        self.progress.advance()
        if step % self.every == 0 or step == runner.max_iters:
            self._write_losses(runner, step)
        self.step_ended = time.perf_counter()

    def before_val_epoch(self, runner: Any) -> None:
        self.val_began = time.perf_counter()

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        if not metrics:  # a pass that a signal cut short
            return
        took_s = time.perf_counter() - self.val_began
        self._append(
            {
                "step": runner.iter,
                "seconds": round(took_s, 2),
                **{f"val_{name}": value for name, value in metrics.items()},
            }
        )
        runner.visualizer.add_scalars(
            {f"val/{name}": value for name, value in metrics.items()}, step=runner.iter
        )
        console.progress.print(f"iteration {runner.iter}  validation  {_shown(metrics)}", soft_wrap=True)
        self._leave_out(time.perf_counter() - self.val_began)

    @contextmanager
    def not_training(self) -> Iterator[None]:
        """Context for other work with its own progress display; it does not count as training time."""
        began = time.perf_counter()
        with self.progress.suspended():
            yield
        self._leave_out(time.perf_counter() - began)

    def _leave_out(self, seconds: float) -> None:
        """Do not count these seconds as time of an iteration."""
        self.began += seconds
        self.step_ended = time.perf_counter()

    def _write_losses(self, runner: Any, step: int) -> None:
        means = torch.tensor([float(value) / self.steps for value in self.sums.values()])
        all_reduce(means, "mean")
        losses = {name: round(value, 5) for name, value in zip(self.sums, means.tolist(), strict=True)}
        timing = {
            "seconds_per_step": round((time.perf_counter() - self.began) / self.steps, 4),
            "data_seconds_per_step": round(self.data_s / self.steps, 4),
        }
        memory = {}
        if torch.cuda.is_available():
            memory["memory_mb"] = torch.cuda.max_memory_allocated() >> 20
        learning = {
            "lr": max(runner.optim_wrapper.get_lr()["lr"]),
            "grad_norm": round(float(runner.optim_wrapper.grad_norm), 5),
        }
        self._append({"step": step, **losses, **learning, **timing, **memory})
        runner.visualizer.add_scalars(
            {f"train/{name}": value for name, value in {**losses, **learning}.items()}, step=step
        )
        if losses.get("pseudo_instances") == 0 and not self.warned:
            self.warned = True
            console.progress.print(
                f"iteration {step}  no unlabeled image of the last {self.steps} iterations had a "
                "pseudo-label, so the student learns nothing from them. See `s4m cache info` and "
                "refine.min_score.",
                soft_wrap=True,
            )
        sam = f" (SAM {losses['sam_seconds']:.2f} s)" if "sam_seconds" in losses else ""
        self.progress.show(f"loss {losses['loss']:.3f}  {timing['seconds_per_step']:.2f} s/iteration{sam}")
        self.sums, self.steps, self.data_s = {}, 0, 0.0
        self.began = time.perf_counter()

    @master_only
    def _append(self, record: dict[str, Any]) -> None:
        append_metrics(self.folder, record)


def _shown(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.1f}" for name, value in metrics.items())


class MaskAPMetric(BaseMetric):
    """Mask AP of the predictions of a validation pass.

    Args:
        truth: the annotated images.
    """

    default_prefix = ""

    def __init__(self, truth: CocoData) -> None:
        super().__init__(collect_device="cpu")
        self.truth = truth
        self.category_ids = [category.id for category in truth.categories]

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Collect the predictions of a batch as run-length encodings."""
        for sample in data_samples:
            found = sample["pred_instances"]
            self.results.append(coco_results(sample["img_id"], sample["ori_shape"], self.category_ids, found))

    def compute_metrics(self, results: list[list[dict[str, Any]]]) -> dict[str, float]:
        """AP, AP50 and AP75 in percent; 0 if undefined."""
        found = mask_ap(self.truth, [prediction for image in results for prediction in image])
        return {name: getattr(found, name) or 0.0 for name in ("AP", "AP50", "AP75")}
