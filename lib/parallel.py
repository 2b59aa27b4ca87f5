"""Data parallelism: one training step on several processes, each with its rows of the global batch.

`just run-multi 2 exp_...` starts the processes (lib/run/launch.py) and `join` makes them a group. Inside `together()` a
step is the step of one process with the whole batch: `mean` averages over the ranks, and every draw is this rank's rows
of the global draw (`random.on_rank`). Outside of it, and with one process, all of this does nothing.
"""

import atexit
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from lib import collectives, random, tree
from lib.faults import ParallelError
from lib.optim import Optimizer
from lib.tree import Tree

TIMEOUT = timedelta(minutes=10)  # a rank that is silent for so long is lost; others wait while rank 0 evaluates
ANSWER = timedelta(seconds=5)

_store: dist.Store | None = None
_rank: Tensor | None = None  # inside a step; a tensor, so that all ranks compile the same graph


def join(cuda: bool) -> None:
    """Enter the group that the launcher describes in the environment, if it does, each process with a GPU of its own
    where `cuda`. Raises ParallelError."""
    global _store
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        return
    backend = "gloo"
    if cuda:
        mine, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if mine >= there:
            raise ParallelError(f"{os.environ['LOCAL_WORLD_SIZE']} processes, but {there} GPUs: at most one each")
        torch.cuda.set_device(mine)
        backend = "cpu:gloo,cuda:nccl"
    _store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
    dist.init_process_group(
        backend, store=dist.PrefixStore("group", _store), rank=rank, world_size=size, timeout=TIMEOUT
    )
    atexit.register(dist.destroy_process_group)  # a process that ends with gloo's threads alive is at times aborted


def rank() -> int:
    """Number of this process; 0 writes the run."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def agree(text: str) -> str:
    """What rank 0 says. All ranks must call it."""
    said: list = [text]
    if size() > 1:
        dist.broadcast_object_list(said, src=0)
    return said[0]


def any_rank(yes: bool) -> bool:
    """Whether any rank says yes. All ranks must call it."""
    flag = torch.tensor(int(yes))
    if size() > 1:
        dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


def missing() -> list[int]:
    """After a failed exchange: the ranks that do not answer. Every rank that notices the failure must call it."""
    if _store is None:
        return []
    _store.set(f"here/{rank()}", "")
    return [other for other in range(size()) if not _known(f"here/{other}")]


def told(fault: str) -> bool:
    """Whether another rank has found the same fault, and tells it: what all ranks find is told once."""
    if _store is None or size() == 1:
        return False
    if rank() == 0:
        _store.set(f"told/{fault}", "")
        return False
    return _known(f"told/{fault}")


def _known(name: str) -> bool:
    """Whether some rank sets this name before long."""
    assert _store is not None
    try:
        _store.wait([name], ANSWER)
    except dist.DistError:
        return False
    return True


@contextmanager
def together(device: torch.device | str = "cpu") -> Iterator[None]:
    """Inside, all ranks do one step on one global batch."""
    global _rank
    if size() == 1:
        yield
        return
    _rank = torch.tensor(rank(), dtype=torch.int32, device=device)
    try:
        with random.on_rank(_rank):
            yield
    finally:
        _rank = None


def ranks() -> int:
    """How many processes share this step: 1 outside of `together()`."""
    return 1 if _rank is None else size()


def rows(n: int) -> int:
    """How many of a global batch's n rows this rank works on. Raises ParallelError where ranks do not divide n."""
    if n % ranks():
        raise ParallelError(f"a batch of {n} cannot be divided among {ranks()} processes")
    return n // ranks()


def shard(batch: Tree) -> Tree:
    """This rank's rows of a global batch: of every leaf its share of the first axis."""
    if size() == 1:
        return batch
    if bad := [len(x) for x in tree.leaves(batch) if len(x) % size()]:
        raise ParallelError(f"a batch of {bad[0]} cannot be divided among {size()} processes")
    return tree.map(lambda x: x.chunk(size())[rank()], batch)


def mean(values: Tree) -> Tree:
    """The mean over ranks of every leaf; differentiable. In a step: gradients, losses and what is logged."""
    if _rank is None:
        return values
    flat = torch.cat([x.flatten() for x in tree.leaves(values)])  # one exchange, whatever the number of leaves
    parts = (collectives.Sum.apply(flat) / size()).split([x.numel() for x in tree.leaves(values)])
    return tree.unflatten(values, [p.view(x.shape) for p, x in zip(parts, tree.leaves(values), strict=True)])


def weighted(value: Tensor, n: Tensor) -> Tensor:
    """A mean over this rank's n items, weighted so that the mean over ranks is the mean over the items of all ranks."""
    return value if _rank is None else value * (n * size() / collectives.rank_sum(n))


def joined(x: Tensor) -> Tensor:
    """The rows of all ranks, of a tensor that holds this rank's rows of a batch; has no derivative."""
    return x if _rank is None else collectives.rank_gather(x).flatten(0, 1)


def mine(x: Tensor) -> Tensor:
    """This rank's rows, of a tensor that holds those of all ranks: the inverse of `joined`."""
    return x if _rank is None else x.unflatten(0, (size(), -1)).index_select(0, _rank.view(1)).squeeze(0)


def shard_optimizer(optimizer: Optimizer, enabled: bool) -> Optimizer:
    """The same updates, but each rank keeps 1 / size of the optimiser's state (ZeRO stage 1, Rajbhandari et al. 2020).

    For optimisers that treat elements one by one. A leaf of the state holds this rank's part of its parameter laid
    flat, padded to equal parts and with as many axes as the parameter has, so that decay masks still see a matrix."""
    if not enabled or size() == 1:
        return optimizer

    def update(grads: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree]:
        mine = tree.map(part, params)
        new, state = optimizer.update(tree.map(part, grads), state, mine)
        return whole(new, params), state

    return Optimizer(lambda params: optimizer.init(tree.map(part, params)), update)


def part(x: Tensor) -> Tensor:
    """This rank's part of a leaf, as `shard_optimizer` keeps it; the leaf itself where it has fewer numbers than there
    are ranks."""
    if x.numel() < size():
        return x
    n = math.ceil(x.numel() / size())
    flat = F.pad(x.flatten(), (0, n * size() - x.numel())).view(size(), n)
    mine = torch.tensor(rank(), device=x.device) if _rank is None else _rank
    return flat.index_select(0, mine.view(1)).view(n, *[1] * (x.ndim - 1))


def whole(parts: Tree, like: Tree) -> Tree:
    """The leaves of which all ranks' `parts` are, in the shapes of `like`. All ranks must call it."""
    flat = torch.cat([x.flatten() for x in tree.leaves(parts)])
    columns = collectives.rank_gather(flat).split([x.numel() for x in tree.leaves(parts)], dim=1)
    leaves = tree.leaves(like)
    new = [c.reshape(-1)[: x.numel()].view(x.shape) for c, x in zip(columns, leaves, strict=True)]
    return tree.unflatten(like, new)  # of a leaf that every rank keeps this is the first rank's


def gathered(state: Tree, like: Tree, replicas: int) -> Tree:
    """The state of one process: leaves whose shapes are not those of `like` are parts. All ranks must call it."""
    leaves, likes = tree.leaves(state), tree.leaves(like)
    cut = [i for i, (x, y) in enumerate(zip(leaves, likes, strict=True)) if x.shape != y.shape]
    join = torch.func.vmap(whole) if replicas > 1 else whole
    for i, x in zip(cut, join([leaves[i] for i in cut], [likes[i] for i in cut]) if cut else [], strict=True):
        leaves[i] = x
    return tree.unflatten(state, leaves)


def scattered(whole: Tree, state: Tree, replicas: int) -> Tree:
    """The inverse of `gathered`: this rank's parts of a whole state, in the shapes of `state`."""
    cut = torch.func.vmap(part) if replicas > 1 else part
    return tree.map(lambda x, like: x if x.shape == like.shape else cut(x), whole, state)


def same(values: Tree) -> bool:
    """Whether all ranks have (almost) the same leaves, by a projection of each. All ranks must call it."""
    if size() == 1:
        return True
    marks = []
    for x in tree.leaves(values):
        flat = x.detach().double().flatten().cpu()
        wave = torch.arange(1, len(flat) + 1, dtype=torch.float64).cos()
        marks += [flat @ wave, flat.norm()]
    low, high = torch.stack(marks), torch.stack(marks)
    dist.all_reduce(low, dist.ReduceOp.MIN)
    dist.all_reduce(high, dist.ReduceOp.MAX)
    (far, _), (_, norm) = (high - low).view(-1, 2).T, high.view(-1, 2).T
    return bool((far <= 1e-3 * norm).all())
