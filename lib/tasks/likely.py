"""How probable a model finds each token of a text, and which ones it finds likeliest there."""

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
    skip: int = 0,
    read: Sequence[str] = (),
    looked: Float[Tensor, "n s"] | None = None,
) -> Steps:
    """Of tokens whose logits come in parts, behind `skip` that are left out. Probabilities are the model's own,
    whatever temperature the text was drawn with."""
    p: list[float] = []
    likeliest: list[tuple[tuple[str, float], ...]] = []
    for every in logits:
        part, skip = every[skip:], max(0, skip - len(every))
        own, shares = ids[len(p) : len(p) + len(part)].to(part.device), part.float().softmax(-1)
        best = shares.topk(min(SHOWN, shares.shape[-1]))
        likeliest += [
            tuple((named(i), x) for i, x in zip(*row, strict=True))
            for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        p += shares.gather(1, own[:, None])[:, 0].tolist()
    tokens = tuple(map(named, ids.tolist()))
    weights = () if looked is None else tuple(map(tuple, looked.tolist()))
    return Steps(tokens, tuple(p), tuple(likeliest), tuple(read), weights)
