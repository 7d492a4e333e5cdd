"""The device's part of an update as one CUDA graph: a single launch in place of some thousand kernels.

Small networks and long unrolls keep a GPU waiting for Python. A graph is recorded once and replayed with other numbers
at the same addresses; the update allows it because nothing in it depends on data (tests/learner/test_no_waiting.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from learner.updates import Inputs, Outputs

WARM_UP = 3
"""Updates made plainly before one is recorded: libraries choose their kernels and allocate meanwhile."""


class CapturedStep:
    """``compute``, recorded as a CUDA graph after `WARM_UP` calls; what has other shapes is computed plainly.

    Where it cannot be recorded that is said once, and all calls are plain.
    """

    def __init__(self, compute: Callable[[Inputs], Outputs]) -> None:
        self._compute = compute
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._outputs: Outputs | None = None

    def __call__(self, inputs: Inputs) -> Outputs:
        if self._calls < WARM_UP:
            self._calls += 1
            return self._warm_up(inputs)
        if self._calls == WARM_UP:
            self._calls += 1
            self._record(inputs)
        tensors = inputs.tensors()
        if self._graph is None or [each.shape for each in tensors] != [each.shape for each in self._inputs]:
            return self._compute(inputs)
        for held, new in zip(self._inputs, tensors, strict=True):
            held.copy_(new, non_blocking=True)
        self._graph.replay()
        assert self._outputs is not None
        # The next replay writes to the same addresses.
        return Outputs(self._outputs.names, self._outputs.numbers.clone(), self._outputs.taken.clone())

    def _warm_up(self, inputs: Inputs) -> Outputs:
        """As recording asks for it: on a stream of its own."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            outputs = self._compute(inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return outputs

    def _record(self, inputs: Inputs) -> None:
        """Record the graph; nothing is computed meanwhile."""
        self._inputs = [each.clone() for each in inputs.tensors()]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._outputs = self._compute(inputs.like(self._inputs))
        except RuntimeError as error:
            warnings.warn(
                f"the update could not be recorded as a CUDA graph and goes on without one: {error}", stacklevel=2
            )
            return
        self._graph = graph
