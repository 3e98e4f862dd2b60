"""A refresh, as part of training: refine with the student's averaged weights, shared out among the ranks."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, get_dist_info

from cache.generation import Generation
from cache.generations import generations, made_with
from cache.sharding import ShardSpec
from s4m_pipeline.engine.distributed import on_first_rank, wait_for_all
from s4m_pipeline.options.experiment import Options
from s4m_pipeline.refine.gate import Outcome
from s4m_pipeline.refine.inputs import RefineInputs, load_inputs
from s4m_pipeline.refine.session import begin_generation, label_share_of, publish_if_complete


class RefineLabels:
    """Makes generations of labels as `s4m refine` does, with the same settings; a `LabelMaker`.

    Every rank labels a shard or more. A generation that a killed training left half-made is gone on with, in
    the shards that it was begun with.

    Args:
        options: the experiment's.
        config: the whole config.
        root: the cache.
    """

    def __init__(self, options: Options, config: Mapping[str, Any], root: Path) -> None:
        self.options = options
        self.config = config
        self.root = root
        self.inputs: RefineInputs | None = None

    def __call__(self, checkpoint: Path, stop: Callable[[], bool]) -> tuple[int, Outcome] | None:
        """Label with the checkpoint's averaged weights; None if a rank was asked to stop.

        Raises:
            UserError, CacheError: as `s4m refine`.
        """
        if self.inputs is None:
            inputs = load_inputs(self.options, self.config, checkpoint)
        else:
            inputs = self.inputs.with_weights(checkpoint)
        self.inputs = inputs
        rank, ranks = get_dist_info()
        generation = on_first_rank(lambda: _begin(inputs, self.root, ranks))
        complete = label_share_of(inputs, generation, ShardSpec(rank + 1, ranks), stop=stop)
        wait_for_all(f"labelled {generation.name}", stop)  # one may have a shard more than the others
        if not _on_all_ranks(complete):
            return None
        return generation.number, on_first_rank(lambda: publish_if_complete(inputs, generation))


def _begin(inputs: RefineInputs, root: Path, ranks: int) -> Generation:
    """The generation that was begun with these weights, or the next one that nobody has begun."""
    begun = made_with(root, inputs.fingerprint())
    number = begun.number if begun else generations(root)[-1].number + 1
    return begin_generation(inputs, root, number, ranks)


def _on_all_ranks(value: bool) -> bool:
    smallest = torch.tensor(int(value))
    all_reduce(smallest, "min")
    return bool(smallest)
