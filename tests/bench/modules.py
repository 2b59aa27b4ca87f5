"""The encoder-decoder of lib/models/seq2seq.py written the usual way: nn.Module, autocast, backward, fused AdamW.

The bench's baseline for `just bench step`: the same architecture on the same packed batches, so that the two differ
in the way of writing only. Axes: b rows, s source positions, t target positions, d model width, h heads, v vocabulary.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from experiments.exp_transformer_fr import Args
from lib import transformer
from lib.data.packing import Batch
from lib.data.tokens import PAD
from lib.models.seq2seq import Config
from lib.tree import Tree

NORMS: dict[str, Callable] = {"layer": nn.LayerNorm, "rms": partial(nn.RMSNorm, eps=1e-6)}


class Attention(nn.Module):
    """Multi-head attention without biases."""

    def __init__(self, cfg: transformer.Config) -> None:
        super().__init__()
        self.heads, self.dropout = cfg.heads, cfg.dropout
        self.q, self.k, self.v, self.out = (nn.Linear(cfg.width, cfg.width, bias=False) for _ in range(4))

    def forward(
        self, x: Float[Tensor, "b t d"], memory: Float[Tensor, "b s d"], mask: Bool[Tensor, "b 1 t s"] | None = None
    ) -> Float[Tensor, "b t d"]:
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (self.q(x), self.k(memory), self.v(memory))
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0)
        return self.out(y.transpose(1, 2).flatten(-2))


class Block(nn.Module):
    """A pre-norm block; with `cross` it also attends to the encoder's output."""

    def __init__(self, cfg: transformer.Config, cross: bool) -> None:
        super().__init__()
        norm, d = NORMS[cfg.norm], cfg.width
        self.norm_attn, self.attn = norm(d), Attention(cfg)
        if cross:
            self.norm_cross, self.cross = norm(d), Attention(cfg)
        self.norm_ff = norm(d)
        self.ff = nn.Sequential(nn.Linear(d, cfg.ff), nn.ReLU(), nn.Dropout(cfg.dropout), nn.Linear(cfg.ff, d))
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(
        self, x: Tensor, mask: Tensor, memory: Tensor | None = None, memory_mask: Tensor | None = None
    ) -> Float[Tensor, "b t d"]:
        h = self.norm_attn(x)
        x = x + self.dropout(self.attn(h, h, mask))
        if memory is not None:
            x = x + self.dropout(self.cross(self.norm_cross(x), memory, memory_mask))
        return x + self.dropout(self.ff(self.norm_ff(x)))


class Positions(nn.Module):
    """Adds sinusoidal positions (Vaswani et al. 2017, section 3.5), kept as a buffer of `longest` rows."""

    def __init__(self, longest: int, d: int, dropout: float) -> None:
        super().__init__()
        angle = torch.arange(longest)[:, None] / 10000 ** (torch.arange(0, d, 2) / d)
        waves = torch.zeros(longest, d)
        waves[:, 0::2], waves[:, 1::2] = angle.sin(), angle.cos()
        self.register_buffer("waves", waves, persistent=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b t d"], position: Int[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        return self.dropout(x * math.sqrt(x.shape[-1]) + self.waves[position])


class Transformer(nn.Module):
    """Encoder and decoder with three untied tables; `forward` gives the loss, so that one compilation holds it all.

    `longest`: positions of a row. `smoothing`: label smoothing of the loss.
    """

    def __init__(self, cfg: Config, longest: int, smoothing: float) -> None:
        super().__init__()
        block, d = cfg.block, cfg.block.width
        self.smoothing = smoothing
        self.source, self.target = nn.Embedding(cfg.source_vocabulary, d), nn.Embedding(cfg.target_vocabulary, d)
        self.positions = Positions(longest, d, block.dropout)
        self.encoder = nn.ModuleList(Block(block, cross=False) for _ in range(cfg.encoder_layers))
        self.decoder = nn.ModuleList(Block(block, cross=True) for _ in range(cfg.decoder_layers))
        self.encoder_norm, self.decoder_norm = NORMS[block.norm](d), NORMS[block.norm](d)
        self.head = nn.Linear(d, cfg.target_vocabulary, bias=False)

    def logits(self, batch: Batch) -> Float[Tensor, "b t v"]:
        source_mask = batch.source_segment[:, None, :, None] == batch.source_segment[:, None, None, :]
        memory_mask = batch.target_segment[:, None, :, None] == batch.source_segment[:, None, None, :]
        target_mask = batch.target_segment[:, None, :, None] == batch.target_segment[:, None, None, :]
        target_mask = target_mask & torch.ones_like(target_mask[0, 0]).tril()
        x = self.positions(self.source(batch.source), batch.source_position)
        for block in self.encoder:
            x = block(x, source_mask)
        memory = self.encoder_norm(x)
        x = self.positions(self.target(batch.target_in), batch.target_position)
        for block in self.decoder:
            x = block(x, target_mask, memory, memory_mask)
        return self.head(self.decoder_norm(x))

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        """Mean cross-entropy per target token in nats, with label smoothing."""
        logits, labels = self.logits(batch).float().flatten(0, 1), batch.target_out.flatten().long()
        return F.cross_entropy(logits, labels, ignore_index=PAD, label_smoothing=self.smoothing)


class Training:
    """A training step with the usual parts. `rate(n)`: what the learning rate is multiplied by at update n, from 0."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        rate: Callable[[int], float],
        clip: float,
        dtype: torch.dtype,
        compiled: bool,
    ) -> None:
        self.optimizer, self.clip, self.dtype = optimizer, clip, dtype
        self.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.model = torch.compile(model) if compiled else model

    def loss(self, *batch: Any) -> Float[Tensor, ""]:
        return self.model(*batch)

    def step(self, *batch: Any) -> Float[Tensor, ""]:
        """One update; the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        device = self.parameters[0].device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            loss = self.loss(*batch)
        loss.backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()


class Trainer(Training):
    """The translator's. `args` is the experiment's, with its inverse_sqrt schedule."""

    def __init__(self, model: nn.Module, args: Args, dtype: torch.dtype, compiled: bool) -> None:
        if args.schedule != "inverse_sqrt":
            raise ValueError(f"the baseline knows the inverse_sqrt schedule, not {args.schedule}")
        optimizer = adamw(model, args.lr, (0.9, 0.98), args.weight_decay, eps=1e-9)
        super().__init__(model, optimizer, partial(noam, args.width, args.warmup), args.clip, dtype, compiled)


def adamw(
    model: nn.Module, lr: float, betas: tuple[float, float], weight_decay: float, eps: float = 1e-8
) -> torch.optim.Optimizer:
    """Fused AdamW that decays what has two axes or more."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)


def cosine(steps: int, warmup: int, n: int) -> float:
    """Rises to 1 in the warm-up and falls to 0 by half a cosine."""
    done = min(1.0, (n - warmup) / (steps - warmup))
    return (n + 1) / warmup if n < warmup else 0.5 * (1 + math.cos(math.pi * done))


def noam(d: int, warmup: int, step: int) -> float:
    """d^-1/2 min(n^-1/2, n warmup^-3/2) with n = step + 1 (Vaswani et al. 2017, equation 3)."""
    return d**-0.5 * min((step + 1) ** -0.5, (step + 1) * warmup**-1.5)


def from_tree(params: Tree, cfg: Config, longest: int, smoothing: float = 0.0) -> Transformer:
    """The module with a copy of the parameters of `lib.seq2seq.init`, on their device."""
    if cfg.shared:
        raise ValueError("the baseline has three untied tables: shared must be False")
    model = Transformer(cfg, longest, smoothing).to(params["embed"]["source"].device)
    weights = {f"{name}.weight": params["embed"][name] for name in ("source", "target", "head")}
    for side in ("encoder", "decoder"):
        weights |= _norm(f"{side}_norm", params[side]["norm"])
        for i, p in enumerate(params[side]["blocks"]):
            for name, part in p.items():
                kind = _ff if name == "ff" else _norm if name.startswith("norm") else _attention
                weights |= kind(f"{side}.{i}.{name}", part)
    model.load_state_dict(weights)
    return model


def _norm(name: str, p: Tree) -> dict[str, Tensor]:
    return {f"{name}.weight": p["scale"]} | ({f"{name}.bias": p["bias"]} if "bias" in p else {})


def _attention(name: str, p: Tree) -> dict[str, Tensor]:
    inward = {f"{name}.{x}.weight": p[f"w_{x}"].flatten(1).T for x in "qkv"}
    return inward | {f"{name}.out.weight": p["w_o"].flatten(0, 1).T}


def _ff(name: str, p: Tree) -> dict[str, Tensor]:
    weights = {f"{name}.0.weight": p["in"]["w"].T, f"{name}.3.weight": p["out"]["w"].T}
    return weights | {f"{name}.0.bias": p["in"]["b"], f"{name}.3.bias": p["out"]["b"]}
