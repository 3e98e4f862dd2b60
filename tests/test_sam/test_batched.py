"""Laws of the batched model: neither the make-up of batches and chunks nor a full device changes results."""

import pytest
import torch

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.sam import ImageEmbeddings, Prompts, full_size_masks
from s4m_pipeline.sam.chunks import Chunker, OutOfDeviceMemory
from s4m_pipeline.sam.tokens import stream_decoder_tokens

TIGHT = {"atol": 2e-5, "rtol": 0}


@pytest.fixture(scope="module")
def image_index() -> torch.Tensor:
    return torch.tensor([2, 0, 0, 3, 2, 0, 3])  # none for image 1, and not sorted


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts(points_xy_px=torch.rand((7, 3, 2), generator=torch.Generator().manual_seed(5)) * 64)


def subset(prompts: Prompts, rows: slice) -> Prompts:
    assert prompts.points_xy_px is not None
    return Prompts(points_xy_px=prompts.points_xy_px[rows])


def test_encode__one_by_one_equals_one_batch(small_sam, small_images, small_embeddings, monkeypatch) -> None:
    monkeypatch.setattr(small_sam.encoder_batches, "size", 3)
    batched = small_sam.encode(small_images)
    for name in ("tokens_BChw", "stride_8", "stride_4"):
        torch.testing.assert_close(getattr(batched, name), getattr(small_embeddings, name), **TIGHT)
    assert batched.image_hw_px == ((120, 200), (256, 256), (90, 64), (300, 180))


def test_encode__float_image_equals_uint8_image(small_sam, small_images, small_embeddings) -> None:
    one = small_sam.encode([small_images[0].float() / 255])
    torch.testing.assert_close(one.tokens_BChw[0], small_embeddings.tokens_BChw[0], **TIGHT)


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_decode__any_chunk_size_gives_the_same(
    small_sam, small_embeddings, image_index, prompts, monkeypatch, chunk: int
) -> None:
    expected = small_sam.decode(small_embeddings, image_index, prompts, "all")
    monkeypatch.setattr(small_sam.decoder_chunks, "size", chunk)
    found = small_sam.decode(small_embeddings, image_index, prompts, "all")
    torch.testing.assert_close(found.logits, expected.logits, **TIGHT)
    torch.testing.assert_close(found.iou, expected.iou, **TIGHT)


def test_decode__subset_of_the_prompts_gives_the_same(
    small_sam, small_embeddings, image_index, prompts
) -> None:
    expected = small_sam.decode(small_embeddings, image_index, prompts)
    found = small_sam.decode(small_embeddings, image_index[2:4], subset(prompts, slice(2, 4)))
    torch.testing.assert_close(found.logits, expected.logits[2:4], **TIGHT)


def test_decode__best_is_the_mask_of_highest_predicted_iou(
    small_sam, small_embeddings, image_index, prompts
) -> None:
    every = small_sam.decode(small_embeddings, image_index, prompts, "all")
    best = small_sam.decode(small_embeddings, image_index, prompts)
    rows = torch.arange(len(prompts))
    torch.testing.assert_close(best.iou[:, 0], every.iou.amax(1), **TIGHT)
    torch.testing.assert_close(best.logits[:, 0], every.logits[rows, every.iou.argmax(1)], **TIGHT)


@pytest.mark.parametrize("masks", ["best", "all", "single"])
def test_decode__no_prompts_gives_no_masks(small_sam, small_embeddings, masks) -> None:
    none = Prompts(points_xy_px=torch.zeros(0, 3, 2))
    found = small_sam.decode(small_embeddings, torch.zeros(0, dtype=torch.int64), none, masks)
    num_masks = 3 if masks == "all" else 1
    assert found.logits.shape == (0, num_masks, 64, 64)
    assert found.iou.shape == (0, num_masks)
    assert list(full_size_masks(found.logits[:, 0], torch.zeros(0), small_embeddings.image_hw_px)) == []


def test_decode__wrong_number_of_image_indices_is_refused(small_sam, small_embeddings, prompts) -> None:
    with pytest.raises(ValueError, match=r"expected \(7,\)"):
        small_sam.decode(small_embeddings, torch.tensor([0, 1]), prompts)


def test_decode__inference_mode_is_allowed(small_sam, small_embeddings, image_index, prompts) -> None:
    expected = small_sam.decode(small_embeddings, image_index, prompts)
    with torch.inference_mode():
        found = small_sam.decode(small_embeddings, image_index, prompts)
    assert torch.equal(found.logits, expected.logits)


def test_decode__out_of_memory_halves_the_chunk_and_gives_the_same(
    make_sam, small_embeddings, image_index, prompts, caplog
) -> None:
    sam = make_sam(256)
    expected = sam.decode(small_embeddings, image_index, prompts)
    _limit_rows(sam.network.sam_mask_decoder.transformer.layers[0].mlp, 2)
    sam.decoder_chunks.size = 7
    found = sam.decode(small_embeddings, image_index, prompts)
    assert sam.decoder_chunks.size == 1, "7, 3, 1"
    torch.testing.assert_close(found.logits, expected.logits, **TIGHT)
    assert [record.args for record in caplog.records] == [(3, "prompt"), (1, "prompt")]


def test_encode__out_of_memory_halves_the_batch_and_gives_the_same(
    make_sam, small_images, small_embeddings
) -> None:
    sam = make_sam(256)
    _limit_rows(sam.network.image_encoder.trunk, 2)
    sam.encoder_batches.size = 4
    found = sam.encode(small_images)
    assert sam.encoder_batches.size == 2
    torch.testing.assert_close(found.tokens_BChw, small_embeddings.tokens_BChw, **TIGHT)


def test_encode__out_of_memory_with_one_image_is_a_user_error(make_sam, small_images) -> None:
    sam = make_sam(256)
    _limit_rows(sam.network.image_encoder.trunk, 0)
    with pytest.raises(UserError, match="single image"):
        sam.encode(small_images)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        OutOfDeviceMemory("with a single prompt at a time"),
    ],
    ids=["torch", "cublas", "cudnn", "in a part"],
)
def test_chunker__any_kind_of_out_of_memory__halves_and_any_other_error_is_raised(error) -> None:
    def run(start: int, stop: int) -> range:
        if stop - start > 2:
            raise error
        return range(start, stop)

    assert [row for _, rows in Chunker(8, "image").map(run, 7) for row in rows] == list(range(7))
    with pytest.raises(RuntimeError, match="shapes"):
        list(Chunker(8, "image").map(lambda start, stop: _raise(RuntimeError("shapes differ")), 7))


def _raise(error: Exception) -> None:
    raise error


def _limit_rows(module: torch.nn.Module, most: int) -> None:
    """Make a module fail as a full device would when its input has more than `most` rows."""

    def fail(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > most:
            raise torch.OutOfMemoryError(f"injected at {len(inputs[0])} rows")

    module.register_forward_pre_hook(fail)


def test_bfloat16__masks_agree_and_prompts_and_iou_stay_in_float32(
    make_sam, small_sam, small_images, small_embeddings, image_index, prompts
) -> None:
    sam = make_sam(256, dtype=torch.bfloat16)
    assert {p.dtype for p in sam.network.sam_prompt_encoder.parameters()} == {torch.float32}
    head, expected_head = (each.network.sam_mask_decoder.iou_prediction_head for each in (sam, small_sam))
    for weight, unrounded in zip(head.parameters(), expected_head.parameters(), strict=True):
        assert torch.equal(weight, unrounded), "its output chooses the mask"
    embeddings = sam.encode(small_images)
    assert embeddings.tokens_BChw.dtype == embeddings.stride_4.dtype == torch.bfloat16
    found = sam.decode(embeddings, image_index, prompts, "all")
    expected = small_sam.decode(small_embeddings, image_index, prompts, "all")
    assert found.logits.dtype == found.iou.dtype == torch.float32
    assert ((found.logits > 0) == (expected.logits > 0)).float().mean() > 0.97
    torch.testing.assert_close(found.iou, expected.iou, atol=0.02, rtol=0)


def test_compile__padded_fixed_shapes_give_the_same(
    make_sam, small_sam, small_images, small_embeddings, image_index, prompts, monkeypatch
) -> None:
    shapes = []

    def compile_and_watch(function, *, dynamic):
        assert dynamic is False

        def run(*inputs):
            shapes.append(next(len(x) for x in inputs if isinstance(x, torch.Tensor)))
            return function(*inputs)

        return run

    monkeypatch.setattr(torch, "compile", compile_and_watch)
    sam = make_sam(256, compile=True)
    found = sam.decode(small_embeddings, image_index, prompts)
    assert shapes == [4, 4], "seven prompts in chunks of four: the last one is padded"
    expected = small_sam.decode(small_embeddings, image_index, prompts)
    torch.testing.assert_close(found.logits, expected.logits, **TIGHT)

    shapes.clear()
    sam.encoder_batches.size = 16
    tokens = sam.encode_tokens(small_images[:3])
    assert shapes == [4], "three images do not cost as much as sixteen"
    torch.testing.assert_close(tokens.tokens_BChw, small_embeddings.tokens_BChw[:3], **TIGHT)

    shapes.clear()
    points = torch.full((3, 1, 2), 5.0)
    (streamed,) = stream_decoder_tokens(sam, tokens, points)
    assert shapes == [4], "the blocks alone are compiled as well"
    expected_tokens = torch.cat([chunk for _, chunk in stream_decoder_tokens(small_sam, tokens, points)])
    torch.testing.assert_close(streamed[1], expected_tokens, **TIGHT)


def test_full_size_masks__pieces_stay_within_the_pixel_budget(
    small_sam, small_embeddings, image_index, prompts
) -> None:
    logits = small_sam.decode(small_embeddings, image_index, prompts).logits[:, 0]
    whole = dict(_by_row(full_size_masks(logits, image_index, small_embeddings.image_hw_px)))
    pieces = list(full_size_masks(logits, image_index, small_embeddings.image_hw_px, max_px=2 * 120 * 200))
    assert [rows.tolist() for rows, _ in pieces] == [[1, 2], [5], [0, 4], [3], [6]]
    for row, mask in _by_row(pieces):
        assert mask.dtype == torch.bool
        assert mask.shape == small_embeddings.image_hw_px[image_index[row]]
        assert torch.equal(mask, whole[row])


def _by_row(pieces) -> list[tuple[int, torch.Tensor]]:
    return [(int(row), mask) for rows, masks in pieces for row, mask in zip(rows, masks, strict=True)]


def test_prompts__nothing_given_is_refused() -> None:
    with pytest.raises(ValueError, match="points, boxes or masks"):
        Prompts()


def test_prompts__different_numbers_of_instances_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        Prompts(points_xy_px=torch.zeros(2, 1, 2), boxes_xyxy_px=torch.zeros(3, 4))


def test_image_embeddings__length_is_the_number_of_images(small_embeddings: ImageEmbeddings) -> None:
    assert len(small_embeddings) == 4
