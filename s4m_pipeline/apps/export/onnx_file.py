"""A network as an ONNX file: from normalized images to class probabilities and masks at stride 4."""

import json
import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from s4m_cache.atomic import atomic_path
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.evaluation.duplicates import DUPLICATE_IOU

if TYPE_CHECKING:
    from s4m_pipeline.models.mask2former import InstanceMask2Former

_PACKAGES = ("onnx", "onnxscript")
_OPSET = 20
_TRACED_HW_PX = (128, 96)
"""Any size with different sides, neither of them one stride."""


def require_packages() -> None:
    """Refuse to go on without the packages of the extra `onnx`.

    Raises:
        UserError: naming those that are missing.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise UserError(
            f"ONNX files need {' and '.join(missing)}, not installed here.\n"
            'Install with pip install "s4m-pipeline[onnx]".'
        )


class _Queries(nn.Module):
    """Class probabilities and mask logits of the last decoder layer."""

    def __init__(self, network: "InstanceMask2Former") -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        class_logits, mask_logits = self.network.panoptic_head(self.network.extract_feat(images), [])
        return class_logits[-1].softmax(-1)[..., :-1], mask_logits[-1]


def write_onnx(
    network: "InstanceMask2Former",
    config: Mapping[str, Any],
    classes: Sequence[str],
    path: Path,
    size_hw_px: tuple[int, int] | None = None,
) -> None:
    """Write a network on the CPU, in eval mode, as ONNX.

    Input `images`: (B, 3, H, W) float32, normalized with the `mean` and `std` of the file's metadata and
    padded with 0 to multiples of `divisor` pixels. Outputs: `probabilities` (B, Q, classes) and `masks`
    (B, Q, H / 4, W / 4), logits. B is any; H and W are too, unless given. The metadata also have `classes`,
    `nms_iou` (of `s4m predict`) and `test_pipeline`, all as JSON.

    Raises:
        UserError: if the network cannot be exported, or the size is no multiple of the divisor.
        OSError: as the file system reports it.
    """
    divisor = int(network.data_preprocessor.pad_size_divisor)
    if size_hw_px and any(side < divisor or side % divisor for side in size_hw_px):
        raise UserError(f"--size {size_hw_px[0]} {size_hw_px[1]}: expected multiples of {divisor}.")
    sides = (
        {} if size_hw_px else {2: divisor * torch.export.Dim("rows"), 3: divisor * torch.export.Dim("cols")}
    )
    images = torch.zeros(2, 3, *(size_hw_px or _TRACED_HW_PX))
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    try:
        with torch.no_grad():
            # With torch's own call of torch.export it would try several ways, one after the other.
            traced = torch.export.export(
                _Queries(network),
                (images,),
                dynamic_shapes=({0: torch.export.Dim("batch"), **sides},),
                strict=False,
            )
            program = torch.onnx.export(
                traced,
                (),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["probabilities", "masks"],
                opset_version=_OPSET,
                optimize=False,  # takes as long as all else, and ONNX Runtime does it when it loads the file
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        advice = "" if size_hw_px else "\nTry a fixed size: --size HEIGHT WIDTH, multiples of 32."
        raise UserError(f"This network cannot be exported ({str(error).splitlines()[0]}).{advice}") from error
    assert program is not None
    preprocessor = network.data_preprocessor
    about = {
        "classes": list(classes),
        "mean": preprocessor.mean.flatten().tolist(),
        "std": preprocessor.std.flatten().tolist(),
        "divisor": divisor,
        "nms_iou": config["refine"].get("nms_iou") or DUPLICATE_IOU,
        "test_pipeline": config["test_pipeline"],
    }
    program.model.metadata_props.update({key: json.dumps(value) for key, value in about.items()})
    with atomic_path(path) as temporary:
        program.save(temporary)
