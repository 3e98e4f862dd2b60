"""Train the nano SAM 2: `python -m s4m_pipeline.sam.nano.train OUT_DIR`; interrupted runs resume.

A dense auxiliary head on the stride-8 features (object coverage, outlines, center codes of object and
part) teaches the trunk quickly; the mask decoder learns by SAM's own recipe beside it: the minimum over three
masks of cross-entropy + dice, and the predicted IoU of each.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from s4m_cache.atomic import atomic_path
from s4m_pipeline.sam.nano.episodes import CODE_CHANNELS, Episode, EpisodeStream
from s4m_pipeline.sam.nano.model import NanoSam2

PIXEL_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
PIXEL_STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
EMA_DECAY = 0.998
TRUNK_SHARE = 0.1
"""Of the time, at its start: the trunk learns alone before the decoder joins."""
WARM_UP_STEPS = 300
ANNEALING_SHARE = 0.4
"""Of the time, at its end: the learning rate falls to zero. Constant before, so that a run can be longer."""
LOG_EVERY = 50
SAVE_EVERY = 250
LONGEST_STEP_S = 10.0
"""A step that took longer was paused, and counts as this long."""


def build_nano() -> NanoSam2:
    """The nano architecture with fresh weights."""
    model: NanoSam2 = instantiate(OmegaConf.load(Path(__file__).with_name("nano.yaml")).model)
    return model


class NanoTraining(nn.Module):
    """The model, its auxiliary dense head, and the losses over a batch of episodes."""

    def __init__(self) -> None:
        super().__init__()
        self.model = build_nano()
        width = self.model.hidden_dim
        self.dense_head = nn.Sequential(
            nn.Conv2d(width, width // 2, 1), nn.GELU(), nn.Conv2d(width // 2, 2 + 2 * CODE_CHANNELS, 1)
        )

    def forward(self, batch: Episode, num_points: int | None) -> dict[str, Tensor]:
        """Losses of B images with P prompts each; with `num_points` None the dense ones alone.

        The first half of the prompts has three points each, the second half `num_points`, or a box where
        that is 0.
        """
        decoder = self.model.sam_mask_decoder
        fine, middle, embedding = self.model.image_encoder(
            (batch.image.float() / 255 - PIXEL_MEAN.to(batch.image.device)) / PIXEL_STD.to(batch.image.device)
        )["backbone_fpn"]
        losses = self._dense_losses(self.dense_head(middle), batch.dense)
        if num_points is None:
            return losses
        embedding = embedding + self.model.no_mem_embed.view(1, -1, 1, 1)
        features = (decoder.conv_s0(fine), decoder.conv_s1(middle), embedding)
        num_prompts = batch.targets.shape[1]
        half = num_prompts // 2
        groups = [
            self._group_losses(features, batch, slice(0, half), 3),
            self._group_losses(features, batch, slice(half, num_prompts), num_points),
        ]
        return losses | {name: (groups[0][name] + groups[1][name]) / 2 for name in groups[0]}

    def _group_losses(
        self, features: tuple[Tensor, ...], batch: Episode, prompts: slice, num_points: int
    ) -> dict[str, Tensor]:
        targets, device = batch.targets[:, prompts].flatten(0, 1), batch.image.device
        image_index = torch.arange(len(batch.image), device=device).repeat_interleave(
            prompts.stop - prompts.start
        )
        if num_points:
            points = batch.points[:, prompts, :num_points].flatten(0, 1)
            labels = torch.ones(points.shape[:2], dtype=torch.int32, device=device)
        else:
            points = batch.boxes[:, prompts].flatten(0, 1)
            labels = torch.tensor([2, 3], dtype=torch.int32, device=device).expand(len(points), 2)
        encoder = self.model.sam_prompt_encoder
        with_mask = torch.rand(len(points), device=device) < 0.06
        mask_alone = with_mask & (torch.rand(len(points), device=device) < 0.5)
        labels = torch.where(mask_alone[:, None], -1, labels)
        sparse, dense = encoder(points=(points, labels), boxes=None, masks=None)
        if with_mask.any():
            rough = batch.rough_logits[:, prompts].flatten(0, 1)[with_mask, None]
            dense = dense.clone()
            dense[with_mask] = encoder.mask_downscaling(rough).to(dense.dtype)
        s0, s1, embedding = (level[image_index] for level in features)
        masks, predicted_iou, *_ = self.model.sam_mask_decoder.predict_masks(
            image_embeddings=embedding,
            image_pe=encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            repeat_image=False,
            high_res_features=[s0, s1],
        )
        return mask_losses(masks.float(), predicted_iou.float(), targets)

    def _dense_losses(self, predicted: Tensor, dense: Tensor) -> dict[str, Tensor]:
        coverage, outline = dense[:, 0], dense[:, 1]
        inside = (coverage > 0.5).float()
        code_error = (predicted[:, 2:] - dense[:, 2:]).abs() * inside[:, None]
        per_channel = code_error.sum((0, 2, 3)) / inside.sum().clamp(min=1)
        return {
            "coverage": F.binary_cross_entropy_with_logits(predicted[:, 0], coverage),
            "outline": F.binary_cross_entropy_with_logits(
                predicted[:, 1], outline.clamp(max=1), pos_weight=predicted.new_tensor(3.0)
            ),
            "object_code": per_channel[:CODE_CHANNELS].mean(),
            "part_code": per_channel[CODE_CHANNELS:].mean(),
        }


def mask_losses(masks: Tensor, predicted_iou: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Losses of N prompts.

    Args:
        masks: (N, 4, h, w) logits: the single-mask token's, then three candidates.
        predicted_iou: (N, 4) in [0, 1].
        targets: (N, h, w) float in [0, 1].
    """
    target = targets[:, None].expand_as(masks)
    probability = masks.sigmoid()
    area = targets.sum((1, 2)).clamp(min=16)[:, None]
    cross_entropy = F.binary_cross_entropy_with_logits(masks, target, reduction="none").sum((2, 3)) / area
    overlap = 2 * (probability * target).sum((2, 3))
    dice = 1 - (overlap + 1) / (probability.square().sum((2, 3)) + target.square().sum((2, 3)) + 1)
    loss = cross_entropy + dice
    with torch.no_grad():
        binary, truth = masks > 0, target > 0.5
        iou = (binary & truth).sum((2, 3)) / (binary | truth).sum((2, 3)).clamp(min=1)
    candidates = loss[:, 1:]
    return {
        "best_mask": candidates.min(1).values.mean(),
        "all_masks": candidates.mean(),
        "single_mask": loss[:, 0].mean(),
        "iou": (predicted_iou - iou).abs().mean(),
        "best_iou_seen": iou[:, 1:].max(1).values.mean(),
        "chosen_iou_seen": iou[:, 1:].gather(1, predicted_iou[:, 1:].argmax(1, keepdim=True)).mean(),
    }


def total_loss(losses: dict[str, Tensor]) -> Tensor:
    """Weighted sum of a batch's losses, with or without the masks'."""
    dense = losses["coverage"] + losses["outline"] + 2 * losses["object_code"] + losses["part_code"]
    if "best_mask" not in losses:
        return dense
    mask = losses["best_mask"] + 0.3 * losses["single_mask"] + 0.05 * losses["all_masks"] + 3 * losses["iou"]
    return mask + dense


def train(
    out: Path,
    *,
    minutes: float,
    images: int,
    prompts: int,
    peak_lr: float,
    seed: int,
    workers: int,
    initial_weights: Path | None,
) -> None:
    """Train for `minutes`, write `nano.safetensors` (EMA weights) and `log.jsonl`; resume from `state.pt`.

    The schedule follows the time spent, pauses not counted, so that a run on a busy machine still
    ends annealed. A finished run resumes where `minutes` is raised.
    """
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(out, peak_lr, seed, initial_weights)
    stream = EpisodeStream((seed, run.step), prompts)
    loader = DataLoader(
        stream, batch_size=images, num_workers=workers, collate_fn=_collate, prefetch_factor=4
    )
    for batch in loader:
        progress = run.spent_s / (60 * minutes)
        if progress >= 1:
            break
        run.do_step(batch, progress, trunk_only=initial_weights is None and progress < TRUNK_SHARE)
    run.save()


class _Run:
    """The state of a training run: weights, optimizer, EMA weights, steps and seconds."""

    def __init__(self, out: Path, peak_lr: float, seed: int, initial_weights: Path | None) -> None:
        torch.manual_seed(seed)
        self.out, self.peak_lr, self.seed = out, peak_lr, seed
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.training = NanoTraining()
        if initial_weights is not None:
            weights = {name: value.float() for name, value in load_file(initial_weights).items()}
            self.training.model.load_state_dict(weights)
        self.training.to(self.device)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.training), lr=peak_lr, betas=(0.9, 0.98))
        self.average = torch.optim.swa_utils.AveragedModel(
            self.training.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
        )
        self.step, self.spent_s, self.sums = 0, 0.0, dict[str, float]()
        if self._state_path.exists():
            self._load()

    @property
    def _state_path(self) -> Path:
        return self.out / "state.pt"

    def do_step(self, batch: Episode, progress: float, trunk_only: bool) -> None:
        """One update; `progress` is the share of the time that is spent."""
        began = time.perf_counter()
        batch = Episode(**{name: value.to(self.device) for name, value in vars(batch).items()})
        torch.manual_seed(self.seed + self.step)
        lr = self.peak_lr * min((self.step + 1) / WARM_UP_STEPS, (1 - progress) / ANNEALING_SHARE, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        losses = self.training(batch, None if trunk_only else (1, 0, 2, 1, 0, 4, 1, 5)[self.step % 8])
        self.optimizer.zero_grad()
        total_loss(losses).backward()
        nn.utils.clip_grad_norm_(self.training.parameters(), 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.training.model)
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())
        self.step += 1
        self.spent_s += min(time.perf_counter() - began, LONGEST_STEP_S)
        if self.step % LOG_EVERY == 0:
            self._log(lr)
        if self.step % SAVE_EVERY == 0:
            self.save()

    def _log(self, lr: float) -> None:
        row = {"step": self.step, "seconds": round(self.spent_s, 1), "lr": round(lr, 6)}
        row |= {name: round(value / LOG_EVERY, 4) for name, value in self.sums.items()}
        with (self.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        self.sums.clear()

    def _load(self) -> None:
        state = torch.load(self._state_path, weights_only=True, map_location=self.device)
        self.training.load_state_dict(state["training"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.step, self.spent_s = state["step"], state["spent_s"]

    def save(self) -> None:
        """Write the resumable state and the averaged weights in fp16."""
        state = {
            "training": self.training.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
            "step": self.step,
            "spent_s": self.spent_s,
        }
        with atomic_path(self._state_path) as path:
            torch.save(state, path)
        averaged = self.average.module.state_dict()
        with atomic_path(self.out / "nano.safetensors") as path:
            save_file({name: value.half().cpu().contiguous() for name, value in averaged.items()}, path)


def parameter_groups(training: nn.Module) -> list[dict[str, object]]:
    """Weight decay on matrices and kernels only."""
    parameters = [p for p in training.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.02},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _collate(episodes: list[Episode]) -> Episode:
    return Episode(**default_collate([vars(episode) for episode in episodes]))


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # denormal numbers make a step many times slower; a setting of the process
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--minutes", type=float, default=600, help="in total; a larger number than before continues a run"
    )
    parser.add_argument("--images", type=int, default=8, help="images per step")
    parser.add_argument("--prompts", type=int, default=8, help="prompts per image")
    parser.add_argument("--peak-lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw scenes")
    parser.add_argument("--initial-weights", type=Path, help="a nano.safetensors to fine-tune")
    train(**vars(parser.parse_args()))
