"""The step of exp_diffusion_flowers written the usual way: nn.Module, autocast, backward, fused AdamW, an average.

The bench's baseline for `just bench diffusion`: the same U-Net from the same parameters on the same pictures, so that
the peers differ in the way of writing only; jaxdiffusion.py has it in JAX. Levels of noise, noise and mirror images are
each framework's own draws, but JAX's, which are ours. The loss is EDM's.
Axes: b batch, c channels, h height, w width, e numbers of the embedding.
"""

import copy
import itertools
import math
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from experiments import exp_diffusion_flowers as exp
from lib import random, transformer, tree
from lib.models import unet
from lib.tree import Tree
from tests.bench import faces, measure, modules
from tests.bench.measure import JAX, OURS, USUAL, Train

DATA = 0.5  # the pictures' standard deviation that EDM's scales assume


class Size(NamedTuple):
    """Of a residual block: channels in and out, numbers of the embedding, heads of attention (0: none)."""

    c: int
    f: int
    e: int
    heads: int

    @property
    def attention(self) -> transformer.Config:
        return transformer.Config(width=self.f, heads=self.heads, ff=self.f, dropout=0.0)


class Sizes(NamedTuple):
    """Of the blocks of a U-Net, level by level, in the order of `lib.models.unet.init`."""

    down: list[list[Size]]
    middle: list[Size]
    up: list[list[Size]]
    narrow: list[tuple[int, int]]
    folded: int  # channels of a folded picture

    @classmethod
    def of(cls, cfg: unet.Config) -> "Sizes":
        widths = cfg.widths

        def level(i: int, c: int) -> list[Size]:
            f, attends = widths[i], i >= len(widths) - cfg.attention
            heads = math.gcd(f, max(1, f // 32)) if attends else 0
            return [Size(f if j else c, f, cfg.embedding, heads) for j in range(cfg.blocks)]

        down = [level(i, widths[max(0, i - 1)]) for i in range(len(widths))]
        up = [level(i, 2 * widths[i]) for i in reversed(range(len(widths)))]
        narrow = list(itertools.pairwise(reversed(widths)))
        return cls(down, [up[0][0]._replace(c=widths[-1])] * 2, up, narrow, cfg.channels * cfg.patch**2)


class Block(nn.Module):
    """Two convolutions around a group norm whose scale and shift the embedding gives, then attention, where it is."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        c, f, e, heads = size
        self.norm_in, self.conv_in = nn.GroupNorm(unet.GROUPS, c), nn.Conv2d(c, f, 3, padding=1)
        self.embed, self.norm_out = nn.Linear(e, 2 * f), nn.GroupNorm(unet.GROUPS, f, affine=False)
        self.conv_out = nn.Conv2d(f, f, 3, padding=1)
        self.skip = nn.Conv2d(c, f, 1) if c != f else nn.Identity()
        if heads:
            self.norm_attn, self.attn = nn.GroupNorm(unet.GROUPS, f), modules.Attention(size.attention)

    def forward(self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b f h w"]:
        scale, shift = self.embed(embedding)[..., None, None].chunk(2, 1)
        h = self.norm_out(self.conv_in(F.silu(self.norm_in(x)))) * (1 + scale) + shift
        x = self.skip(x) + self.conv_out(F.silu(h))
        if not hasattr(self, "attn"):
            return x
        h = self.norm_attn(x).flatten(2).transpose(1, 2)
        return x + self.attn(h, h).transpose(1, 2).unflatten(2, x.shape[2:])


class UNet(nn.Module):
    """A copy of the parameters of `lib.models.unet.init`; `forward` gives the loss, so that one compilation holds it
    all."""

    def __init__(self, p: Tree, cfg: unet.Config) -> None:
        super().__init__()
        if cfg.labels:
            raise ValueError("the baseline is told nothing but the noise: labels must be 0")
        sizes, first, e = Sizes.of(cfg), cfg.widths[0], cfg.embedding
        level = lambda blocks: nn.ModuleList(map(Block, blocks))  # noqa: E731
        self.patch = cfg.patch
        self.embed = nn.Sequential(nn.Linear(unet.WAVES, e), nn.SiLU(), nn.Linear(e, e))
        self.inward = nn.Conv2d(sizes.folded, first, 3, padding=1)
        self.down, self.up = nn.ModuleList(map(level, sizes.down)), nn.ModuleList(map(level, sizes.up))
        self.middle = level(sizes.middle)
        self.narrow = nn.ModuleList(nn.Conv2d(c, f, 1) for c, f in sizes.narrow)
        self.norm, self.out = nn.GroupNorm(unet.GROUPS, first), nn.Conv2d(first, sizes.folded, 3, padding=1)
        self.filter = nn.Conv2d(sizes.folded, sizes.folded, 3, padding=1)
        self.gain = nn.Linear(e, sizes.folded)
        self.to(p["in"]["w"].device)
        self.load_state_dict(weights(p))

    def predicted(self, x: Float[Tensor, "b c h w"], noise: Float[Tensor, "b"]) -> Float[Tensor, "b c h w"]:
        """Of pictures with noise and its label, in fp32."""
        embedding = F.silu(self.embed(unet.waves(noise)))
        folded = F.pixel_unshuffle(x, self.patch)
        h, kept = self.inward(folded), []
        for i, blocks in enumerate(self.down):
            h = F.avg_pool2d(h, 2) if i else h
            for block in blocks:
                h = block(h, embedding)
            kept.append(h)
        for block in self.middle:
            h = block(h, embedding)
        for i, blocks in enumerate(self.up):
            h = F.interpolate(self.narrow[i - 1](h), scale_factor=2) if i else h
            h = torch.cat([h, kept.pop()], 1)
            for block in blocks:
                h = block(h, embedding)
        h = self.out(F.silu(self.norm(h))) + self.filter(folded) * self.gain(embedding).exp()[:, :, None, None]
        return F.pixel_shuffle(h.float(), self.patch)

    def forward(
        self, x: Float[Tensor, "b c h w"], sigma: Float[Tensor, "b"], noise: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, ""]:
        """Mean squared error of what EDM's network predicts (Karras et al. 2022, equation 8)."""
        level = sigma[:, None, None, None]
        both, noisy = (level**2 + DATA**2).sqrt(), x + level * noise
        wanted = (x - (DATA / both) ** 2 * noisy) * both / (level * DATA)
        return F.mse_loss(self.predicted(noisy / both, sigma.log() / 4), wanted)


def weights(p: Tree) -> dict[str, Tensor]:
    """Our parameters under the names of UNet's."""
    renamed, found = {"in": "inward", "embed.1": "embed.2"}, {}
    for path, x in tree.flatten(p).items():
        place, kind = path.rsplit(".", 1)
        place = renamed.get(place, place)
        if kind.startswith("w_"):  # of attention: d h c, the last map h c d
            place, x = f"{place}.{'out' if kind == 'w_o' else kind[2]}", x.flatten(*((0, 1) if kind == "w_o" else (1,)))
        found[f"{place}.{'bias' if kind in ('b', 'bias') else 'weight'}"] = x.T if x.ndim == 2 else x
    return found


class Trainer(modules.Training):
    """Training with an averaged copy, whose decay rises as ours does. `args` is the experiment's, with EDM's loss."""

    def __init__(self, model: UNet, args: exp.Args, dtype: torch.dtype, compiled: bool) -> None:
        if (args.objective, args.levels, args.power) != ("edm", "lognormal", 2):
            raise ValueError(f"the baseline knows EDM's loss, not {args.objective}, {args.levels}, {args.power}")
        optimizer = modules.adamw(model, args.lr, (0.9, 0.99), args.weight_decay)
        rate = partial(modules.cosine, args.steps, args.warmup)
        self.average, self.weights = copy.deepcopy(model), list(model.parameters())
        self.averages, self.ema_decay, self.updates = list(self.average.parameters()), args.ema_decay, 0
        super().__init__(model, optimizer, rate, args.clip, dtype, compiled)

    @torch.no_grad()
    def follow(self) -> None:
        """Moves the averaged copy towards the weights."""
        decay = min(self.ema_decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.averages, self.weights, 1 - decay)
        self.updates += 1

    def step(
        self, x: Float[Tensor, "b c h w"], sigma: Float[Tensor, "b"], noise: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, ""]:
        loss = super().step(x, sigma, noise)
        self.follow()
        return loss


def drawn(pixels: UInt8[Tensor, "n c h w"], index: Int[Tensor, "b"], args: exp.Args) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures in [-1, 1], half of them mirrored with `args.flip`, their levels of noise, and noise."""
    x = pixels[index].float() / 127.5 - 1
    if args.flip:
        x = torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(-1), x)
    median, std = args.noise
    return x, median * (std * torch.randn(len(x), device=x.device)).exp(), torch.randn_like(x)


def unet_step(peer: str, device: torch.device, dtype: torch.dtype) -> Train:
    """Of exp_diffusion_flowers' `small` preset with AdamW alone, on made-up pictures that lie on the device as
    uint8."""
    args = replace(exp.PRESETS["small"], muon_lr=0.0)
    pixels = faces.noise(args.size, device)
    state = exp.init_state(random.key(0, device), args)
    indices = torch.arange(len(pixels), device=device).view(-1, args.batch)
    if peer in OURS:
        update = measure.ours(partial(exp.step, args=args, dtype=dtype), state, OURS[peer], pixels)
        return lambda n: update(indices[n % len(indices)])
    if peer == JAX:
        from tests.bench import jaxdiffusion, jaxes  # the optional extra

        jaxes.use(device)
        jax_trainer = jaxdiffusion.trainer(state, args, dtype)
        all_pixels, order = jaxes.arrays(pixels), list(jaxes.arrays(indices))
        return lambda n: jax_trainer.step(all_pixels, order[n % len(order)])
    trainer = Trainer(UNet(state.params, args.network()), args, dtype, USUAL[peer])
    return lambda n: trainer.step(*drawn(pixels, indices[n % len(indices)], args))


STEPS = {"exp_diffusion_flowers": (unet_step, 1)}  # and steps in one timing
