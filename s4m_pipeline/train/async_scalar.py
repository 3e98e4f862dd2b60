"""Numbers of the device that are read an iteration later, so that nothing waits for them."""

import torch
from torch import Tensor


class AsyncScalar:
    """A number that is copied from its device meanwhile; reading it waits only if it has not arrived.

    Args:
        value: tensor of one element.
    """

    def __init__(self, value: Tensor) -> None:
        self._copy = value.detach().to("cpu", non_blocking=True)
        self._arrival = torch.cuda.Event() if value.is_cuda else None
        if self._arrival is not None:
            self._arrival.record()

    def __float__(self) -> float:
        if self._arrival is not None:
            self._arrival.synchronize()
        return float(self._copy)
