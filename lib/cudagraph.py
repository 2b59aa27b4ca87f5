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
    """What is known of one state: how often it was stepped, where the arguments lie, and the graph."""

    def __init__(self, leaves: list[Tensor]) -> None:
        self.calls, self.out = 0, None  # type: int, Tree
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stale = False  # the graph reads an argument where it is no more; kept, for its memory is the next one's
        self.places = [x.data_ptr() for x in leaves]
        self.moved = [False] * len(leaves)
        self.buffers: dict[int, Tensor] = {}

    def arguments(self, leaves: list[Tensor]) -> list[Tensor]:
        """The arguments that a graph reads: as they are those that stay where they lie, copies of the others. What has
        moved once may stay from then on, as data that was loaded anew; what moves again gets a buffer, as a batch."""
        for i, x in enumerate(leaves):
            if i in self.buffers:
                self.buffers[i].copy_(x)
                continue
            if x.data_ptr() == self.places[i]:
                continue
            if self.moved[i]:
                self.buffers[i] = x.clone()
            self.places[i], self.moved[i] = x.data_ptr(), True
            self.stale, self.calls = True, min(self.calls, WARM - 1)
        return [self.buffers.get(i, x) for i, x in enumerate(leaves)]


class Graphed:
    """`fn(state, *args) -> out`, which writes to the state, as a CUDA graph from the fourth call with a state on.

    There is a graph for each place of a state (replicas that are stepped one after another) and each shape of the
    arguments; all share one pool of memory. What a call returns is a copy, for the next replay overwrites it. A replay
    looks at addresses and shapes only: what else `fn` reads stays as it was at the capture. Where a leaf is not on a
    GPU, or several processes work together, `fn` is called as it is, and so it is for good, with a warning, where it
    cannot be captured: a step must not wait for the device.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn, self.fit, self.pool = fn, True, None  # type: Callable[..., Any], bool, Any
        self.entries: dict[tuple, _Entry] = {}

    def __call__(self, state: Tree, *args: Tree) -> Any:
        held, leaves = tree.leaves(state), tree.leaves(args)
        if not (self.fit and _on_gpu(held[:1])) or dist.is_initialized():
            return self.fn(state, *args)
        kinds = [(x.shape, x.stride(), x.dtype) for x in (*held, *leaves)]
        where = (*(x.data_ptr() for x in held), *kinds)
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
        if entry.graph is None or entry.stale:
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
        entry.graph, entry.stale = graph, False
        return True


def _on_gpu(leaves: list[Tensor]) -> bool:
    return all(x.is_cuda for x in leaves)
