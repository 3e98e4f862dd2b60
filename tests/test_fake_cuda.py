"""The real paths on a pretended GPU: torch's fake tensors have a device, a dtype and a shape, but no numbers.

So a mistake of device or dtype fails on any machine, waits for the device are counted, and the memory that
backward needs is known, at the sizes of the paper. torch runs no backward of fake CUDA tensors without a GPU.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.models.registry import register_all
from s4m_pipeline.refine.prompts import draw_uniforms, make_prompts
from s4m_pipeline.refine.selection import MaskFrame
from s4m_pipeline.sam import BatchedSam, ImageEmbeddings, Prompts, build_sam
from s4m_pipeline.sam import similarity_rows as sam_rows
from s4m_pipeline.train.determinism import DeterministicForms, sample_bilinear
from tests.conftest import REPOSITORY

CUDA = torch.device("cuda")
CITYSCAPES = (REPOSITORY / "configs/cityscapes/cityscapes.py", (512, 1024), 8)
COCO = (REPOSITORY / "configs/coco/coco.py", (1024, 1024), 80)
KINDS = ("points", "points_softmax", "point_centre", "point_confident", "box", "mask")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """New tensors are fake, and autocast believes in the GPU."""
    register_all()
    from s4m_pipeline.models import distilled, fused_attention, head, matching, pixel_decoder

    assert fused_attention  # its operators are registered before there are fake tensors

    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(distilled, "_now", lambda device: 0.0)
    monkeypatch.setattr(pixel_decoder, "fused_attention_works", lambda device: True)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", _attend_as_on_a_gpu)
    # What depends on numbers: the first queries are matched, and query points are anywhere.
    monkeypatch.setattr(matching, "least_cost_pairs", _first_pairs)
    monkeypatch.setattr(
        distilled, "sample_query_points", lambda mask, count: torch.rand(count, 2, device=mask.device)
    )
    caches = (head._on_device, pixel_decoder._shapes_and_starts)
    for cache in caches:
        cache.cache_clear()
    yield FakeTensorMode()
    for cache in caches:
        cache.cache_clear()


def _attend_as_on_a_gpu(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0
) -> Tensor:
    """The kernel that torch chooses there for masks of any form; without a GPU it would be decomposed."""
    bias = None
    if attn_mask is not None:
        bias = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
        bias = bias.expand(*query.shape[:3], key.shape[2])
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    return kernel(query, key, value, bias, torch.is_grad_enabled(), dropout_p)[0]


def _first_pairs(cost_BQM: Tensor, counts: list[int]) -> Tensor:
    assert cost_BQM.device.type == "cpu"
    image = [image for image, count in enumerate(counts) for _ in range(count)]
    query = [place for count in counts for place in range(count)]
    return torch.tensor([image, query, [*range(len(image))]])


def on_gpu(network: torch.nn.Module, mode: FakeTensorMode) -> torch.nn.Module:
    """The network with its weights and buffers as fake CUDA tensors."""

    def move(tensor: Tensor) -> Tensor:
        fake = mode.from_tensor(tensor.detach())
        with mode:
            return fake.to(CUDA)

    for module in network.modules():
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = torch.nn.Parameter(move(value), value.requires_grad)
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = move(value)
    return network


def sam_on_gpu(mode: FakeTensorMode, model: str = "facebook/sam2.1-hiera-tiny") -> BatchedSam:
    sam = BatchedSam(build_sam(model).requires_grad_(False), dtype=torch.bfloat16, encoder_batch=16)
    sam.decoder_chunks.size = 128
    on_gpu(sam.network, mode)
    sam.device = CUDA
    return sam


def build(recipe: tuple, stage: str, mode: FakeTensorMode, sam: BatchedSam | None = None) -> Any:
    """The network of a stage of a recipe, of the paper's size."""
    from mmdet.registry import MODELS

    from s4m_pipeline.models.distilled import DistilledMask2Former, MetaTeacher
    from s4m_pipeline.models.load import model_config
    from s4m_pipeline.student.build import student_model

    path, _, classes = recipe
    options, config = load_experiment(path, [])
    if stage == "student":
        model = student_model(options.require_student(), config, classes)
    else:
        model = model_config(config["model"], classes, None)
    if sam is not None:
        sd = {"sd_weight": 1.0, "sd_points": 128, "sd_target": "decoder", "sd_loss": "structural"}
        model.update(type=DistilledMask2Former, meta_teacher=MetaTeacher(sam), **sd)
    return on_gpu(MODELS.build(model).train(), mode)


def batch(recipe: tuple, branches: list[str | None], objects: int = 10) -> tuple[Tensor, list[Any]]:
    """Images and samples on the GPU, as the preprocessor leaves them."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    size = recipe[1]
    samples = []
    for branch in branches:
        meta = {"img_shape": size, "ori_shape": size, "batch_input_shape": size}
        sample = DetDataSample(metainfo=meta | ({"branch": branch} if branch else {}))
        sample.gt_instances = InstanceData(
            labels=torch.zeros(objects, dtype=torch.int64, device=CUDA),
            masks=torch.zeros(objects, *size, dtype=torch.bool, device=CUDA),
        )
        samples.append(sample)
    return torch.rand(len(branches), 3, *size, device=CUDA), samples


@contextmanager
def saved_for_backward() -> Iterator[Counter]:
    """Bytes of the storages that autograd keeps, each counted once."""
    storages: Counter = Counter()
    kept = []

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
            kept.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield storages


class Waits(TorchFunctionMode):
    """Counts calls that make the CPU wait for the GPU: copies from or to it, and numbers of its tensors."""

    READS = (
        *(Tensor.item, Tensor.tolist, Tensor.nonzero, Tensor.numpy),
        *(getattr(Tensor, f"__{name}__") for name in ("bool", "int", "float", "index")),
    )
    MAKES = (torch.tensor, torch.as_tensor, Tensor.new_tensor)
    COPIES = (Tensor.to, Tensor.cpu, Tensor.cuda)

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        moved = isinstance(result, Tensor) and isinstance(args[0], Tensor) and result.device != args[0].device
        read = func in self.READS and args[0].is_cuda
        made = func in self.MAKES and result.is_cuda
        waited = not (kwargs or {}).get("non_blocking")
        if read or made or (func in self.COPIES and moved and waited):
            self.counts[func.__name__] += 1
        return result


class RefuseNondeterministic(TorchDispatchMode):
    """Raises an error for what torch documents to have no deterministic kernel on a GPU."""

    REFUSED = ("grid_sampler", "upsample_linear", "upsample_bilinear", "upsample_bicubic", "reflection_pad")
    ALSO = ("nll_loss2d", "kthvalue", "median", "histc", "put_", "adaptive_avg_pool2d", "max_unpool")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        on_gpu = isinstance(result, Tensor) and result.is_cuda
        if on_gpu and (name.startswith(self.REFUSED) or name in self.ALSO):
            raise AssertionError(f"no deterministic kernel: {name}")
        if on_gpu and name == "cumsum" and result.is_floating_point():
            raise AssertionError("no deterministic kernel: cumsum")
        return result


def test_sam__encodes_and_decodes_every_kind_of_prompt_in_bf16(gpu: FakeTensorMode) -> None:
    sam = sam_on_gpu(gpu)
    with gpu, torch.inference_mode():
        photos = [torch.zeros(3, 1024, 2048, dtype=torch.uint8), torch.zeros(3, 480, 640, dtype=torch.uint8)]
        embeddings = sam.encode(photos)
        assert embeddings.tokens_BChw.device.type == "cuda"
        assert {embeddings.tokens_BChw.dtype, embeddings.stride_4.dtype} == {torch.bfloat16}
        for kind in KINDS:
            prompts = make_prompts(
                kind,
                torch.rand(5, 256, 512, device=CUDA),
                MaskFrame((1024, 2048), (1024, 2048)),
                uniforms=draw_uniforms(0, 0, 7, 5, 3),
                sam_logits_size=(256, 256),
            )
            decode_five(sam, embeddings, prompts)
        rows, _ = sam_rows(sam, embeddings, torch.rand(2, 128, 2))
        assert (rows.shape, rows.dtype, rows.device.type) == ((2, 128, 4096), torch.float32, "cuda")


def decode_five(sam: BatchedSam, embeddings: ImageEmbeddings, prompts: Prompts) -> None:
    decoded = sam.decode(embeddings, torch.tensor([0, 0, 1, 1, 1]), prompts)
    assert decoded.logits.shape == (5, 1, 256, 256) and decoded.iou.shape == (5, 1)
    assert decoded.logits.dtype == decoded.iou.dtype == torch.float32
    assert decoded.logits.device.type == decoded.iou.device.type == "cuda"


@pytest.mark.parametrize("recipe", [CITYSCAPES, COCO], ids=["cityscapes", "coco"])
def test_teacher__predicts_queries_in_bf16_waiting_once_only(recipe: tuple, gpu: FakeTensorMode) -> None:
    teacher = build(recipe, "teacher", gpu).eval()
    with gpu, torch.inference_mode(), torch.autocast("cuda", torch.bfloat16), Waits() as waits:
        for class_logits, mask_logits in teacher.mask_queries(*batch(recipe, [None, None])):
            assert class_logits.shape == (100, recipe[2] + 1) and class_logits.device.type == "cuda"
            assert mask_logits.shape == (100, *(side // 4 for side in recipe[1]))
            assert mask_logits.dtype == torch.float32
    assert waits.counts == {"tensor": 2}  # the sizes of the levels, which are kept


def test_teacher__with_structural_distillation__all_losses_are_float32_on_the_gpu(
    gpu: FakeTensorMode,
) -> None:
    teacher = build(CITYSCAPES, "teacher", gpu, sam_on_gpu(gpu))
    with gpu, torch.autocast("cuda", torch.bfloat16):
        losses = teacher.loss(*batch(CITYSCAPES, [None, None]))
    del losses["sam_seconds"]
    assert len(losses) == 31 and "loss_sd" in losses
    assert {(value.dtype, value.device.type) for value in losses.values()} == {(torch.float32, "cuda")}


@pytest.mark.parametrize(
    ("recipe", "gb_per_image"), [(CITYSCAPES, 1.4), (COCO, 2.8)], ids=["cityscapes", "coco"]
)
def test_student__step_in_bf16__saves_and_waits_no_more_than_documented(
    recipe: tuple, gb_per_image: float, gpu: FakeTensorMode, capsys: pytest.CaptureFixture[str]
) -> None:
    student = build(recipe, "student", gpu)
    with gpu, torch.autocast("cuda", torch.bfloat16):
        images, samples = batch(recipe, 2 * ["labeled"] + 2 * ["unlabeled"])
        with Waits() as waits, saved_for_backward() as saved:
            losses = student.loss(images, samples)
    del losses["pseudo_instances"]
    assert {(value.dtype, value.device.type) for value in losses.values()} == {(torch.float32, "cuda")}
    found = sum(saved.values()) / len(images) / 1e9
    with capsys.disabled():
        print(f"\n{recipe[0].stem}: {found:.2f} GB per image kept for backward, waits {dict(waits.counts)}")
    assert found < gb_per_image
    # All costs are fetched together, and their pairs sent back. Each branch sends the indices of its images
    # and of its objects. Class weights and the sizes of the levels are sent once in a training.
    assert waits.counts["cpu"] == 1
    assert waits.counts.total() <= 1 + 1 + 2 * 2 + 2 + 2


def test_optimizer__step_in_bf16__waits_for_nothing(
    gpu: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s4m_pipeline.train.optim import FiniteAmpOptimWrapper

    read = Counter()
    monkeypatch.setattr(torch.cuda, "Event", lambda: SimpleNamespace(record=lambda: read.update(recorded=1)))
    wrapper = object.__new__(FiniteAmpOptimWrapper)
    wrapper.clip_grad_kwargs = {"max_norm": 1.0}
    with gpu:
        weights = [torch.nn.Parameter(torch.rand(3, 4, device=CUDA)) for _ in range(5)]
        wrapper.optimizer = torch.optim.AdamW(weights, lr=1e-4)
        for weight in weights:
            weight.grad = torch.rand(3, 4, device=CUDA)
        with Waits() as waits:
            wrapper._clip_grad()
    assert not waits.counts
    assert read == {"recorded": 1}


def test_student__deterministic__uses_no_kernel_that_is_not(
    gpu: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    student = build(CITYSCAPES, "student", gpu)
    with gpu, torch.autocast("cuda", torch.bfloat16):
        images, samples = batch(CITYSCAPES, ["labeled", "unlabeled"])
        with pytest.raises(AssertionError, match="no deterministic kernel"), RefuseNondeterministic():
            student.loss(images, samples)
        monkeypatch.setattr(
            torch, "are_deterministic_algorithms_enabled", lambda: True
        )  # as mmengine sets it
        with RefuseNondeterministic(), DeterministicForms():
            student.loss(images, samples)
            draw = make_prompts(
                "points",
                torch.rand(5, 128, 256, device=CUDA),
                MaskFrame((1024, 2048), (512, 1024)),
                uniforms=torch.rand(5, 3, dtype=torch.float64),
                sam_logits_size=(256, 256),
            )
    assert draw.points_xy_px is not None


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_sample_bilinear__values_and_gradients__are_those_of_grid_sample(padding: str) -> None:
    random = torch.Generator().manual_seed(0)
    values = torch.randn(2, 3, 5, 7, generator=random, dtype=torch.float64).requires_grad_()
    grid = (2.4 * torch.rand(2, 4, 6, 2, generator=random, dtype=torch.float64) - 1.2).requires_grad_()
    told = []
    for sample in (sample_bilinear, torch.nn.functional.grid_sample):
        found = sample(values, grid, padding_mode=padding, align_corners=False)
        told.append([found, *torch.autograd.grad(found.square().sum(), [values, grid])])
    for found, expected in zip(*told, strict=True):
        torch.testing.assert_close(found, expected)
