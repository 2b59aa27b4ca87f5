"""Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000), equal to nn.LSTM.

Axes: b rows, t positions, l layers, d features in, h (and k) features of a state, g the gates in torch's order: input,
forget, cell, output. A state is what a row has read so far, so its rows come first: it is cut and reset as a batch is.
"""

from typing import NamedTuple

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from lib import nn, random
from lib.random import Key
from lib.transform import func_transformed, second_order
from lib.tree import Tree

ONEDNN = torch.backends.mkldnn.is_available()


class State(NamedTuple):
    h: Float[Tensor, "b l h"]  # what the cell shows
    c: Float[Tensor, "b l h"]  # what it keeps


def lstm_init(key: Key, d: int, h: int, layers: int) -> list[Tree]:
    """Of each layer {"w_x": (d, 4, h), "w_h": (h, 4, h), "b": (4, h)}: Xavier-uniform weights of each gate, a bias of 1
    for the forget gate (Jozefowicz et al. 2015) and of 0 for the others. torch's +-h^-1/2 keeps a second layer silent
    for hundreds of steps (LOG.md), and has two biases, of which only the sum counts."""
    return [_layer_init(k, h if i else d, h) for i, k in enumerate(random.split(key, layers))]


def _layer_init(key: Key, d: int, h: int) -> Tree:
    k_x, k_h = random.split(key)
    forget = torch.tensor([0.0, 1.0, 0.0, 0.0], device=key.device)
    b = repeat(forget, "g -> g h", h=h).contiguous()
    return {"w_x": nn.xavier(k_x, (d, 4, h), d, h), "w_h": nn.xavier(k_h, (h, 4, h), h, h), "b": b}


def zero_state(p: list[Tree], b: int) -> State:
    """Before the first token."""
    h = p[0]["w_h"]
    return State(*(h.new_zeros(b, len(p), len(h)) for _ in "hc"))


def cell(
    p: Tree, x: Float[Tensor, "b d"], h: Float[Tensor, "b h"], c: Float[Tensor, "b h"]
) -> tuple[Float[Tensor, "b h"], Float[Tensor, "b h"]]:
    """One step of one layer: (h, c) after reading x."""
    gates = einsum(x, p["w_x"], "b d, d g h -> g b h") + einsum(h, p["w_h"], "b k, k g h -> g b h")
    i, f, new, o = gates + rearrange(p["b"], "g h -> g 1 h")
    c = f.sigmoid() * c + i.sigmoid() * new.tanh()
    return o.sigmoid() * c.tanh(), c


def lstm(
    p: list[Tree], x: Float[Tensor, "b t d"], state: State, key: Key | None = None, *, dropout: float = 0.0
) -> tuple[Float[Tensor, "b t h"], State]:
    """What the last layer shows at each position, and the state after the last one.

    With a key, each layer's input but the first's goes through dropout. A layer is one fused call, but where a second
    or forward-mode derivative is under way, which that lacks, or on a GPU where it is traced, which cuDNN's call cannot
    be.
    """
    layer = unrolled if second_order() or (x.is_cuda and func_transformed()) else fused
    ends = []
    for i, (q, k) in enumerate(zip(p, random.split(key, len(p)), strict=True)):
        x = nn.dropout(x, dropout, k) if i else x
        x, h, c = layer(q, x, state.h[:, i], state.c[:, i])
        ends.append((h, c))
    return x, State(*(torch.stack(parts, dim=1) for parts in zip(*ends, strict=True)))


Layer = tuple[Float[Tensor, "b t h"], Float[Tensor, "b h"], Float[Tensor, "b h"]]


def unrolled(p: Tree, x: Float[Tensor, "b t d"], h: Float[Tensor, "b h"], c: Float[Tensor, "b h"]) -> Layer:
    """One layer over a sequence, step by step: (h at each position, last h, last c)."""
    shown = []
    for x_t in x.unbind(1):
        h, c = cell(p, x_t, h, c)
        shown.append(h)
    return torch.stack(shown, dim=1), h, c


def fused(p: Tree, x: Float[Tensor, "b t d"], h: Float[Tensor, "b h"], c: Float[Tensor, "b h"]) -> Layer:
    """The same in one call: oneDNN's on a CPU, cuDNN's on a GPU."""
    w_x, w_h = (rearrange(p[name], "d g h -> (g h) d").contiguous() for name in ("w_x", "w_h"))
    bias = rearrange(p["b"], "g h -> (g h)")
    weights = [w_x, w_h, bias, torch.zeros_like(bias)]
    if torch.compiler.is_compiling() and x.device.type == "cpu" and ONEDNN:
        # The call below would be traced step by step: 64 times the graph. This is what it calls on a CPU; the numbers
        # are of torch's RNN modes (2: LSTM), of features and of layers.
        x, h, c = rearrange(x, "b t d -> t b d").contiguous(), h.contiguous(), c.contiguous()
        y, h, c, _ = torch.ops.aten.mkldnn_rnn_layer(
            x, *weights, h, c, False, [], 2, h.shape[-1], 1, True, False, False, True
        )
        return rearrange(y, "t b h -> b t h"), h, c
    y, h, c = torch._VF.lstm(x, (h[None].contiguous(), c[None].contiguous()), weights, True, 1, 0.0, True, False, True)
    return y, h[0], c[0]
