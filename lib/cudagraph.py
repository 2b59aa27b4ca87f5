"""One CUDA graph for a whole donated step: hundreds of kernels are started by one call.

A donated step (lib/transform.py) writes its new state where the old one was, so what a graph remembers, addresses, is
right at every step. torch's own graphs ("reduce-overhead") are not for this: they leave out steps that mutate what they
are given.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lib import tree
from lib.tree import Tree

WARM = 3  # calls before a capture: they compile, and libraries choose their kernels
MOST = 128  # graphs of one function: a text that is generated has a state of its own, and its graph is of no use later


class _Entry:
    """What is known of one state: how often it was stepped, where the arguments lay, and the graph."""

    def __init__(self, leaves: list[Tensor]) -> None:
        self.calls, self.graph, self.out = 0, None, None  # type: tuple[int, torch.cuda.CUDAGraph | None, Tree]
        self.places = [x.data_ptr() for x in leaves]
        self.buffers: dict[int, Tensor] = {}

    def arguments(self, leaves: list[Tensor]) -> list[Tensor]:
        """The arguments that a graph reads: those that lie where they have always lain as they are, copies of others.
        One that lies elsewhere for the first time gets a buffer, and a graph that does not read it is given up."""
        for i, x in enumerate(leaves):
            if i in self.buffers:
                self.buffers[i].copy_(x)
            elif x.data_ptr() != self.places[i]:
                self.buffers[i] = x.clone()
                self.graph, self.calls = None, min(self.calls, WARM - 1)
        return [self.buffers.get(i, x) for i, x in enumerate(leaves)]


class Graphed:
    """`fn(state, *args) -> out`, which writes to the state, as a CUDA graph from the fourth call with a state on.

    There is a graph for each place of a state (replicas that are stepped one after another) and each shape of the
    arguments; all share one pool of memory. What a call returns is a copy, for the next replay overwrites it. Where a
    leaf is not on a GPU, or several processes work together, `fn` is called as it is, and so it is for good, with a
    warning, where it cannot be captured: a step must not wait for the device.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn, self.fit, self.pool = fn, True, None  # type: Callable[..., Any], bool, Any
        self.entries: dict[tuple, _Entry] = {}

    def __call__(self, state: Tree, *args: Tree) -> Any:
        held, leaves = tree.leaves(state), tree.leaves(args)
        if not (self.fit and _on_gpu(held[:1])) or dist.is_initialized():
            return self.fn(state, *args)
        where = (*(x.data_ptr() for x in held), *((x.shape, x.stride(), x.dtype) for x in leaves))
        entry = self.entries.pop(where, None)
        if entry is None:
            if not _on_gpu([*held, *leaves]):
                return self.fn(state, *args)
            entry = _Entry(leaves)
            if len(self.entries) == MOST:
                del self.entries[next(iter(self.entries))]  # the one that was used longest ago
        self.entries[where] = entry
        read = entry.arguments(leaves)
        entry.calls += 1
        if entry.graph is None:
            args = tree.unflatten(args, read)
            if entry.calls <= WARM or not self._capture(entry, state, args):
                return self.fn(state, *args)
        assert entry.graph is not None
        entry.graph.replay()
        return tree.map(torch.clone, entry.out)

    def _capture(self, entry: _Entry, state: Tree, args: tuple[Tree, ...]) -> bool:
        """Record a call, which is not carried out. False where that is impossible."""
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:  # thread_local: the thread that makes batches may allocate meanwhile
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                entry.out = self.fn(state, *args)
        except RuntimeError as error:
            warnings.warn(f"steps run without a CUDA graph: {str(error).splitlines()[0]}", stacklevel=4)
            self.fit = False
            self.entries.clear()
            return False
        entry.graph = graph
        return True


def _on_gpu(leaves: list[Tensor]) -> bool:
    return all(x.is_cuda for x in leaves)
