"""Train the nano SAM 2: `python -m s4m_pipeline.sam.nano.train OUT_DIR`; interrupted runs resume.

A dense auxiliary head on the stride-8 features (object coverage, outlines, centre codes of object and
part) teaches the trunk quickly; the mask decoder learns by SAM's own recipe beside it: the minimum over three
masks of cross-entropy + dice, and the predicted IoU of each.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from cache.atomic import atomic_path
from s4m_pipeline.sam.nano.episodes import Episode, EpisodeStream
from s4m_pipeline.sam.nano.model import NanoSam2

PIXEL_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
PIXEL_STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
CODE_CHANNELS = 12
DENSE_SHARE = 0.15  # of the time, spent on the trunk alone before the decoder joins
EMA_DECAY = 0.998
WARM_UP_STEPS = 300


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
            (batch.image.float() / 255 - PIXEL_MEAN) / PIXEL_STD
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
        targets = batch.targets[:, prompts].flatten(0, 1)
        image_index = torch.arange(len(batch.image)).repeat_interleave(prompts.stop - prompts.start)
        if num_points:
            points = batch.points[:, prompts, :num_points].flatten(0, 1)
            labels = torch.ones(points.shape[:2], dtype=torch.int32)
        else:
            points = batch.boxes[:, prompts].flatten(0, 1)
            labels = torch.tensor([2, 3], dtype=torch.int32).expand(len(points), 2)
        encoder = self.model.sam_prompt_encoder
        with_mask = torch.rand(len(points)) < 0.06
        labels = torch.where((with_mask & (torch.rand(len(points)) < 0.5))[:, None], -1, labels)
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
                predicted[:, 1], outline.clamp(max=1), pos_weight=torch.tensor(3.0)
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


def train(out: Path, *, minutes: float, images: int, prompts: int, peak_lr: float, seed: int) -> None:
    """Train for `minutes`, write `nano.safetensors` (EMA weights) and `log.jsonl`; resume from `state.pt`.

    The learning rate follows the time spent, so that a run on a busy machine still ends annealed.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    training = NanoTraining()
    optimizer = torch.optim.AdamW(parameter_groups(training), lr=peak_lr, betas=(0.9, 0.98))
    average = torch.optim.swa_utils.AveragedModel(
        training.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
    )
    state_path, step, spent_s = out / "state.pt", 0, 0.0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        training.load_state_dict(state["training"])
        optimizer.load_state_dict(state["optimizer"])
        average.load_state_dict(state["average"])
        step, spent_s = state["step"], state["spent_s"]
    begin, sums = time.perf_counter() - spent_s, dict[str, float]()
    batches = _batches(seed + 1000 * step, images, prompts)
    while (progress := (time.perf_counter() - begin) / (60 * minutes)) < 1:
        torch.manual_seed(seed + step)
        lr = peak_lr * min((step + 1) / WARM_UP_STEPS, 0.5 * (1 + math.cos(math.pi * progress)) + 0.002)
        for group in optimizer.param_groups:
            group["lr"] = lr
        num_points = None if progress < DENSE_SHARE else (1, 0, 2, 1, 0, 4, 1, 5)[step % 8]
        losses = training(next(batches), num_points)
        optimizer.zero_grad()
        total_loss(losses).backward()
        nn.utils.clip_grad_norm_(training.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(training.model)
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        step += 1
        if step % 50 == 0:
            row = {"step": step, "seconds": round(time.perf_counter() - begin, 1), "lr": round(lr, 6)}
            row |= {name: round(value / 50, 4) for name, value in sums.items()}
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
            sums.clear()
        if step % 250 == 0:
            save(out, training, optimizer, average, step, time.perf_counter() - begin)
    save(out, training, optimizer, average, step, 60 * minutes)


def parameter_groups(training: nn.Module) -> list[dict[str, object]]:
    """Weight decay on matrices and kernels only."""
    parameters = [p for p in training.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.02},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def save(
    out: Path,
    training: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: torch.optim.swa_utils.AveragedModel,
    step: int,
    spent_s: float,
) -> None:
    """Write the resumable state and the averaged weights in fp16."""
    state = {
        "training": training.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.state_dict(),
        "step": step,
        "spent_s": spent_s,
    }
    with atomic_path(out / "state.pt") as path:
        torch.save(state, path)
    weights = {name: value.half().contiguous() for name, value in average.module.state_dict().items()}
    with atomic_path(out / "nano.safetensors") as path:
        save_file(weights, path)


def _batches(seed: int, images: int, prompts: int) -> Iterator[Episode]:
    loader = DataLoader(
        EpisodeStream(seed, prompts), batch_size=images, num_workers=1, collate_fn=_collate, prefetch_factor=4
    )
    return iter(loader)


def _collate(episodes: list[Episode]) -> Episode:
    return Episode(**default_collate([vars(episode) for episode in episodes]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=99)
    parser.add_argument("--images", type=int, default=8, help="images per step")
    parser.add_argument("--prompts", type=int, default=8, help="prompts per image")
    parser.add_argument("--peak-lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    train(**vars(parser.parse_args()))
