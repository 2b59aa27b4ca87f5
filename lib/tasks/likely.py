"""How probable a model finds each token of a text, and which ones it finds likeliest there."""

import functools
from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.answers import Steps

SHOWN = 10  # tokens that are likeliest


@torch.no_grad()
def steps(
    ids: Int[Tensor, "n"],
    logits: Iterable[Float[Tensor, "t v"]],
    named: Callable[[int], str],
    begins: Sequence[int] = (),
    read: Sequence[str] = (),
    looked: Float[Tensor, "n s"] | None = None,
) -> Steps:
    """Of tokens whose logits come in parts; all but these as `Steps` has it. Probabilities are the model's own,
    whatever temperature the text was drawn with."""
    p: list[float] = []
    likeliest: list[tuple[tuple[str, float], ...]] = []
    name = functools.cache(named)
    for part in logits:
        own, shares = ids[len(p) : len(p) + len(part)].to(part.device), part.float().softmax(-1)
        best = shares.topk(min(SHOWN, shares.shape[-1]))
        likeliest += [
            tuple((name(i), x) for i, x in zip(*row, strict=True))
            for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        p += shares.gather(1, own[:, None])[:, 0].tolist()
    tokens = tuple(map(name, ids.tolist()))
    weights = () if looked is None else tuple(map(tuple, looked.tolist()))
    return Steps(tokens, tuple(p), tuple(likeliest), tuple(begins), tuple(read), weights)
