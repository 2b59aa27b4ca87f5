"""The language models' steps, exp_gpt_hemingway's and exp_lstm_novel's, written the usual way: nn.Module, autocast,
backward, fused Adam.

The bench's baseline for `just bench language`: the same models from the same parameters on the same made-up tokens,
which lie on the device, so that the peers differ in the way of writing only; jaxlanguage.py has them in JAX. A model
takes a window of tokens with what it carries along and gives the loss with what it carries to the next window.
Axes: b rows, t positions, d model width, h heads, v vocabulary.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from experiments import exp_gpt_hemingway, exp_lstm_novel
from lib import random, transformer
from lib.data import batches
from lib.models import gpt
from lib.tree import Tree
from tests.bench import measure, modules
from tests.bench.measure import JAX, OURS, USUAL, Train

Carry = tuple[Tensor, ...]  # nothing of a GPT; h and c of an LSTM, each (layers, b, d)
BATCHES = 8  # different ones
# GPT-2's kind of model: on a CPU one of 12 million parameters, on a GPU the smallest of Radford et al. 2019.
_GPT2 = partial(
    exp_gpt_hemingway.Args, norm="layer", position="learned", activation="gelu", bias="all", optimizer="adamw", rows=8
)
GPTS = {
    "cpu": _GPT2(layers=6, width=384, heads=6, ff=1536, vocabulary=3500, length=128),
    "cuda": _GPT2(layers=12, width=768, heads=12, ff=3072, vocabulary=50_257, length=1024),
}


def gpt_config(args: exp_gpt_hemingway.Args) -> gpt.Config:
    block = transformer.Config(
        width=args.width,
        heads=args.heads,
        ff=args.ff,
        dropout=args.dropout,
        norm=args.norm,
        activation=args.activation,
        position=args.position,
        bias=args.bias,
    )
    return gpt.Config(args.vocabulary, args.length, args.layers, block, args.head)


class Attention(nn.Module):
    """Causal multi-head attention; one map makes queries, keys and values."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.qkv(x).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(-2))


class Block(nn.Module):
    def __init__(self, d: int, heads: int, ff: int) -> None:
        super().__init__()
        self.norm_attn, self.attn, self.norm_ff = nn.LayerNorm(d), Attention(d, heads), nn.LayerNorm(d)
        self.ff = nn.Sequential(nn.Linear(d, ff), nn.GELU(), nn.Linear(ff, d))

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        x = x + self.attn(self.norm_attn(x))
        return x + self.ff(self.norm_ff(x))


class Gpt(nn.Module):
    """With learned positions and a tied head, without dropout; a copy of the parameters of `lib.gpt.init`."""

    def __init__(self, p: Tree, cfg: gpt.Config) -> None:
        super().__init__()
        block, d = cfg.block, cfg.block.width
        kind = block.norm, block.position, block.activation, block.bias, cfg.head, block.dropout
        if kind != ("layer", "learned", "gelu", "all", "tied", 0.0):
            raise ValueError(f"the baseline is GPT-2's kind of model without dropout, not {cfg}")
        self.tokens, self.positions = nn.Embedding(cfg.vocabulary, d), nn.Embedding(cfg.context, d)
        self.blocks = nn.ModuleList(Block(d, block.heads, block.ff) for _ in range(cfg.layers))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, cfg.vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        self.to(p["embed"]["tokens"].device)
        weights = {f"{name}.weight": p["embed"][name] for name in ("tokens", "positions")}
        weights |= {"head.weight": p["embed"]["tokens"], **_norm("norm", p["decoder"]["norm"])}
        for i, q in enumerate(p["decoder"]["blocks"]):
            weights |= {f"blocks.{i}.{name}": w for name, w in _block(q).items()}
        self.load_state_dict(weights)

    def logits(self, ids: Int[Tensor, "b t"]) -> Float[Tensor, "b t v"]:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def forward(self, window: Int[Tensor, "b t_plus_1"], carry: Carry) -> tuple[Float[Tensor, ""], Carry]:
        return cross_entropy(self.logits(window[:, :-1]), window), carry


class Lstm(nn.Module):
    """A copy of the parameters of `exp_lstm_novel.init`, with dropout before each layer and the head. Of nn.LSTM's two
    biases, whose sum is all that counts, the second stays zero: as the two have one gradient, Adam would move their sum
    twice as far as our one. torch.compile leaves nn.LSTM's fused call as it is: the graph breaks there."""

    def __init__(self, p: Tree, args: exp_lstm_novel.Args) -> None:
        super().__init__()
        self.embedding, self.dropout = nn.Embedding(*p["embedding"].shape), nn.Dropout(args.dropout)
        self.lstm = nn.LSTM(args.embedding, args.hidden, args.layers, dropout=args.dropout, batch_first=True)
        self.head = nn.Linear(*p["head"]["w"].shape)
        self.to(p["embedding"].device)
        weights = {"embedding.weight": p["embedding"], "head.weight": p["head"]["w"].T, "head.bias": p["head"]["b"]}
        for i, q in enumerate(p["lstm"]):
            weights[f"lstm.bias_ih_l{i}"], weights[f"lstm.bias_hh_l{i}"] = q["b"].flatten(), torch.zeros(q["b"].numel())
            for ours, its in (("w_x", "ih"), ("w_h", "hh")):
                weights[f"lstm.weight_{its}_l{i}"] = q[ours].flatten(1).T
            self.get_parameter(f"lstm.bias_hh_l{i}").requires_grad_(False)
        self.load_state_dict(weights)

    def logits(self, ids: Int[Tensor, "b t"], carry: Carry) -> tuple[Float[Tensor, "b t v"], Carry]:
        y, carry = self.lstm(self.dropout(self.embedding(ids)), carry)
        return self.head(self.dropout(y)), carry

    def forward(self, window: Int[Tensor, "b t_plus_1"], carry: Carry) -> tuple[Float[Tensor, ""], Carry]:
        logits, carry = self.logits(window[:, :-1], carry)
        return cross_entropy(logits, window), carry


def cross_entropy(logits: Float[Tensor, "b t v"], window: Int[Tensor, "b t_plus_1"]) -> Float[Tensor, ""]:
    """Mean per token in nats."""
    return F.cross_entropy(logits.float().flatten(0, 1), window[:, 1:].flatten())


class Trainer(modules.Training):
    """Training on windows of text one after another. No gradient goes through what is carried to the one before."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        rate: Callable[[int], float],
        clip: float,
        carry: Carry,
        dtype: torch.dtype,
        compiled: bool,
    ) -> None:
        super().__init__(model, optimizer, rate, clip, dtype, compiled)
        self.carry = carry

    def loss(self, window: Int[Tensor, "b t_plus_1"]) -> Float[Tensor, ""]:
        loss, carry = self.model(window, self.carry)
        self.carry = tuple(x.detach().float() for x in carry)
        return loss


def gpt_trainer(model: Gpt, args: exp_gpt_hemingway.Args, dtype: torch.dtype, compiled: bool) -> Trainer:
    """`args` is the experiment's, with AdamW and the linear schedule."""
    if args.optimizer != "adamw" or args.schedule != "linear":
        raise ValueError(f"the baseline knows adamw and the linear schedule, not {args.optimizer} and {args.schedule}")

    def rate(n: int) -> float:
        return (n + 1) / args.warmup if n < args.warmup else max(0.0, (args.steps - n) / (args.steps - args.warmup))

    optimizer = modules.adamw(model, args.lr, (0.9, 0.95), args.weight_decay)
    return Trainer(model, optimizer, rate, args.clip, (), dtype, compiled)


def lstm_trainer(model: Lstm, args: exp_lstm_novel.Args, dtype: torch.dtype, compiled: bool) -> Trainer:
    """`args` is the experiment's, with the cosine schedule."""
    if args.schedule != "cosine":
        raise ValueError(f"the baseline knows the cosine schedule, not {args.schedule}")
    rate = partial(modules.cosine, args.steps, args.steps // 20)
    zeros = model.head.weight.new_zeros(2, args.layers, args.rows, args.hidden)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=args.lr, fused=True)
    return Trainer(model, optimizer, rate, args.clip, zeros.unbind(), dtype, compiled)


def gpt_step(peer: str, device: torch.device, dtype: torch.dtype) -> Train:
    """Of a GPT of the device's size, by AdamW."""
    args = GPTS[device.type]
    cfg, windows = gpt_config(args), made_up(args, device)
    state = exp_gpt_hemingway.init_state(random.key(args.seed, device), cfg, args)
    if peer in OURS:
        step = partial(exp_gpt_hemingway.step, cfg=cfg, args=args, dtype=dtype)
        return in_turn(measure.ours(step, state, OURS[peer]), windows)
    model = Gpt(state.params, cfg)
    if peer == JAX:
        from tests.bench import jaxes, jaxlanguage  # the optional extra

        jaxes.use(device)
        return in_turn(jaxlanguage.gpt(model, cfg, args, dtype).step, jaxes.arrays(windows))
    return in_turn(gpt_trainer(model, args, dtype, USUAL[peer]).step, windows)


def lstm_step(peer: str, device: torch.device, dtype: torch.dtype) -> Train:
    """Of exp_lstm_novel's `small` preset, its state carried from window to window."""
    args = exp_lstm_novel.PRESETS["small"]
    windows = made_up(args, device)
    state = exp_lstm_novel.init_state(random.key(args.seed, device), args.vocabulary, args)
    if peer in OURS:
        fresh = torch.zeros(args.rows, dtype=torch.bool, device=device)
        step = partial(exp_lstm_novel.step, args=args, dtype=dtype)
        return in_turn(measure.ours(step, state, OURS[peer]), [batches.Window(window, fresh) for window in windows])
    model = Lstm(state.params, args)
    if peer == JAX:
        from tests.bench import jaxes, jaxlanguage  # the optional extra

        jaxes.use(device)
        return in_turn(jaxlanguage.lstm(model, args, dtype).step, jaxes.arrays(windows))
    return in_turn(lstm_trainer(model, args, dtype, USUAL[peer]).step, windows)


def made_up(args: Any, device: torch.device) -> list[Int[Tensor, "rows length_plus_1"]]:
    shape = BATCHES, args.rows, args.length + 1
    return list(random.randint(random.key(1, device), shape, 0, args.vocabulary).long())


def in_turn(step: Callable[[Any], object], windows: list) -> Train:
    return lambda n: step(windows[n % len(windows)])


def _norm(name: str, p: Tree) -> dict[str, Tensor]:
    return {f"{name}.weight": p["scale"], f"{name}.bias": p["bias"]}


def _block(p: Tree) -> dict[str, Tensor]:
    attn, ff = p["attn"], p["ff"]
    weights = {"attn.qkv.weight": torch.cat([attn[f"w_{x}"].flatten(1).T for x in "qkv"])}
    weights |= {"attn.qkv.bias": torch.cat([attn[f"b_{x}"] for x in "qkv"])}
    weights |= {"attn.out.weight": attn["w_o"].flatten(0, 1).T, "attn.out.bias": attn["b_o"]}
    for i, name in ((0, "in"), (2, "out")):
        weights |= {f"ff.{i}.weight": ff[name]["w"].T, f"ff.{i}.bias": ff[name]["b"]}
    return weights | _norm("norm_attn", p["norm_attn"]) | _norm("norm_ff", p["norm_ff"])


STEPS = {"exp_gpt_hemingway": (gpt_step, 1), "exp_lstm_novel": (lstm_step, 2)}  # and steps in one timing
