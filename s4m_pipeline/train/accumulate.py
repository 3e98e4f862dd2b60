"""Gradient accumulation: an iteration computes its batch in parts, as that many more devices would at once.

Part j of rank r is the batch of rank r + j * ranks among ranks * parts: the same images, the same random
numbers, the same normalization. So devices * parts decides what is learned, up to rounding. An iteration
remains one step of the optimizer, for schedules, EMA, checkpoints and BatchNorm's running statistics as well.
"""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet.structures import SampleList
from mmengine.runner import IterBasedTrainLoop
from torch import Tensor

from s4m_pipeline.data.seeding import STEP_STREAM, seed_all
from s4m_pipeline.models.matching import MEAN_MATCHED
from s4m_pipeline.models.student import LABELED, UNLABELED

_TIMES = "_seconds"
"""Ending of the figures that are sums over the parts; all others are means."""


class AccumulatingLoop(IterBasedTrainLoop):
    """mmengine's loop over iterations whose batches are computed in parts.

    Args:
        parts: of each batch; the optimizer wrapper's `accumulative_counts` is the same.
        seed: of the training.
        loop: arguments of mmengine's loop.
    """

    def __init__(self, *, parts: int, seed: int, **loop: Any) -> None:
        super().__init__(**loop)
        self.parts = parts
        self.seed = seed

    def run(self) -> Any:
        """Train; the optimizer wrapper counts parts, not iterations."""
        self.runner.optim_wrapper.initialize_count_status(
            self.runner.model, self._iter * self.parts, self._max_iters * self.parts
        )
        return super().run()

    def run_iter(self, data_batch: dict[str, Any]) -> None:
        """One iteration: all parts are augmented first, because ARP decides how many objects they have."""
        runner, network = self.runner, self.runner.network
        runner.call_hook("before_train_iter", batch_idx=self._iter, data_batch=data_batch)
        prepared = []
        for index, part in enumerate(split_batch(data_batch, self.parts)):
            if index > 0:  # the first one is seeded by the hook
                seed_all(self.seed, STEP_STREAM, self._iter, runner.rank + index * runner.world_size)
            prepared.append((network.data_preprocessor(part, True), _random_state()))
        set_mean_counts([part["data_samples"] for part, _ in prepared], network.panoptic_head.num_queries)
        outputs: dict[str, Tensor] = {}
        for index, (part, random_state) in enumerate(prepared):
            _set_random_state(random_state)
            for name, value in self._learn(part).items():
                scale = 1 if name.endswith(_TIMES) else self.parts
                outputs[name] = outputs.get(name, 0) + value.detach() / scale
            if index == 0:  # as on several devices, which take the statistics of the first one
                buffers = [buffer.clone() for buffer in network.buffers()]
        for buffer, first in zip(network.buffers(), buffers, strict=True):
            buffer.copy_(first)
        runner.call_hook("after_train_iter", batch_idx=self._iter, data_batch=data_batch, outputs=outputs)
        self._iter += 1

    def _learn(self, part: dict[str, Any]) -> dict[str, Tensor]:
        """Add a part's gradients; the last one's call updates the weights. Returns the losses."""
        runner = self.runner
        with runner.optim_wrapper.optim_context(runner.model):
            losses = runner.model(**part, mode="loss")
        loss, outputs = runner.network.parse_losses(losses)
        runner.optim_wrapper.update_params(loss)
        return outputs


def split_batch(batch: dict[str, Any], parts: int) -> list[dict[str, Any]]:
    """Parts of a batch of lists: of each branch, every `parts`-th image."""
    branches: dict[str, list[int]] = {}
    for index, sample in enumerate(batch["data_samples"]):
        branches.setdefault(_branch(sample), []).append(index)
    chosen = [[i for images in branches.values() for i in images[part::parts]] for part in range(parts)]
    return [{name: [values[i] for i in part] for name, values in batch.items()} for part in chosen]


def set_mean_counts(parts: Sequence[SampleList], num_queries: int) -> None:
    """Note in each sample how many objects its branch matches in a part, on average over the parts.

    Mask losses are sums over objects, divided by their mean number over all devices. Counted are those that
    the loss counts: at least one for an image, but none for an unlabeled image without pseudo-labels.
    """
    for branch in (LABELED, UNLABELED):
        chosen = [[sample for sample in part if _branch(sample) == branch] for part in parts]
        least = int(branch == LABELED)
        counts = [
            sum(max(min(len(sample.gt_instances), num_queries), least) for sample in samples)
            for samples in chosen
        ]
        mean = sum(max(count, 1) for count in counts) / len(parts)
        for sample in (sample for samples in chosen for sample in samples):
            sample.set_metainfo({MEAN_MATCHED: mean})


def _branch(sample: Any) -> str:
    branch: str = sample.metainfo.get("branch", LABELED)
    return branch


def _random_state() -> tuple[Any, ...]:
    on_gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), on_gpu


def _set_random_state(state: tuple[Any, ...]) -> None:
    python, numpy, cpu, gpu = state
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if gpu is not None:
        torch.cuda.set_rng_state(gpu)
