"""Masks on a device: their tight boxes, and packed as the cache stores them."""

import numpy as np
import torch
from torch import Tensor

from s4m_cache.masks import Masks

_BITS = (128, 64, 32, 16, 8, 4, 2, 1)  # of a byte, the first pixel first, as np.packbits


def tight_boxes(masks_NHW: Tensor) -> Tensor:
    """(N, 4) int64 boxes y0, x0, y1, x1 of masks (N, H, W) bool, ends exclusive; zeros without a pixel."""
    # As uint8, because `any` over bool is 30 times slower on a CPU, and argmax over bool is not implemented.
    occupied = masks_NHW.view(torch.uint8)
    rows, columns = occupied.amax(dim=2), occupied.amax(dim=1)
    height, width = masks_NHW.shape[1:]
    y0, x0 = rows.argmax(dim=1), columns.argmax(dim=1)
    y1, x1 = height - rows.flip(1).argmax(dim=1), width - columns.flip(1).argmax(dim=1)
    return torch.stack([y0, x0, y1, x1], dim=1) * rows.any(dim=1, keepdim=True)


def masks_at_a_time(size_hw: tuple[int, int], device: torch.device, max_px: int | None = None) -> int:
    """How many masks of a size are upsampled at once, which bounds the memory for any number of them.

    Args:
        max_px: pixels of all of them (a single mask may exceed it); None: 2^26 (256 MiB in fp32), on the CPU
            2^22, where small pieces fit the processor's cache and are 2.5 times faster.
    """
    max_px = max_px or (1 << 22 if device.type == "cpu" else 1 << 26)
    return max(1, max_px // (size_hw[0] * size_hw[1]))


def pack_masks(masks_NHW: Tensor) -> Masks:
    """Pack masks (N, H, W) bool, on a GPU before they are transferred, as an eighth of a byte per pixel."""
    if not len(masks_NHW):
        return Masks.empty(0)
    boxes = tight_boxes(masks_NHW)
    if masks_NHW.device.type != "cpu":
        return _pack_on_device(masks_NHW, boxes)
    rows = zip(masks_NHW.numpy(), boxes.tolist(), strict=True)
    crops = [mask[y0:y1, x0:x1] for mask, (y0, x0, y1, x1) in rows]
    return Masks.from_crops(crops, boxes[:, :2].tolist())


def _pack_on_device(masks_NHW: Tensor, boxes: Tensor) -> Masks:
    """Without a loop over masks, each of which would wait for the device."""
    (y0, x0), (y1, x1) = boxes[:, :2].T, boxes[:, 2:].T
    device, (height, width) = masks_NHW.device, masks_NHW.shape[1:]
    num_bytes = -(-(x1 - x0) // 8)  # in a row of each crop
    # Rows are shifted so that each crop starts at column 0, where its first byte starts.
    columns = x0[:, None] + torch.arange(8 * int(num_bytes.max()), device=device)
    shifted = masks_NHW.gather(2, columns.clamp(max=width - 1)[:, None].expand(-1, height, -1))
    shifted &= (columns < x1[:, None])[:, None]
    weights = torch.tensor(_BITS, dtype=torch.uint8, device=device)
    packed = (shifted.unflatten(2, (-1, 8)) * weights).sum(dim=3, dtype=torch.uint8)
    rows = torch.arange(height, device=device)
    in_rows = (rows >= y0[:, None]) & (rows < y1[:, None])
    in_bytes = torch.arange(packed.shape[2], device=device) < num_bytes[:, None]
    bits = packed[in_rows[:, :, None] & in_bytes[:, None]]
    return Masks(boxes.cpu().numpy().astype(np.int32), bits.cpu().numpy())
