"""Sums and gathers over the processes of a run, as operations that compile, differentiate and batch: torch's own
functional ones have no vmap rule."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@torch.library.custom_op("puregen::rank_sum", mutates_args=())
def rank_sum(x: Tensor) -> Tensor:
    y = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(y)
    return y


@torch.library.custom_op("puregen::rank_gather", mutates_args=())
def rank_gather(x: Tensor) -> Tensor:
    y = x.new_empty(dist.get_world_size(), *x.shape)
    dist.all_gather(list(y.unbind(0)), x.contiguous())
    return y


rank_sum.register_fake(lambda x: torch.empty_like(x, memory_format=torch.contiguous_format))
rank_gather.register_fake(lambda x: x.new_empty(dist.get_world_size(), *x.shape))
rank_sum.register_vmap(lambda info, dims, x: (rank_sum(x), dims[0]))
rank_gather.register_vmap(lambda info, dims, x: (rank_gather(x), dims[0] + 1))


class Sum(torch.autograd.Function):
    """`rank_sum` with a derivative. One that is registered with the operation itself would be lost to torch.func.grad
    in a compiled step."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return rank_sum(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return Sum.apply(grad)
