"""The adversarial step of exp_dcgan_faces and the critic's step of exp_cgan_glasses written the usual way: nn.Module,
backward, torch.optim.Adam.

The bench's baseline for `just bench faces`: the same networks from the same parameters on the same real examples. The
gradient penalty is the usual one, torch.autograd.grad with create_graph=True. torch.compile cannot differentiate a
compiled module twice, so the compiled critic is compiled as what is left: each forward pass without the penalty.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments import exp_cgan_glasses, exp_dcgan_faces
from lib import random, tree
from lib.models import dcgan
from lib.tree import Tree
from tests.bench import gans, measure
from tests.bench.measure import OURS, USUAL, Train

PICTURES = 2048
VALUES = 16  # of exp_cgan_glasses' labels on its default data


class Generator(nn.Module):
    def __init__(self, p: Tree) -> None:
        super().__init__()
        z, flat = p["in"].shape
        widths = [flat // 16, *(q["w"].shape[1] for q in p["up"])]
        pairs = itertools.pairwise(widths)
        self.inward = nn.Linear(z, flat, bias=False)
        self.up = nn.ModuleList(nn.ConvTranspose2d(c, f, 4, stride=2, padding=1, bias=False) for c, f in pairs)
        self.norm = nn.ModuleList(nn.BatchNorm2d(c) for c in widths)
        self.out = nn.ConvTranspose2d(widths[-1], 3, 4, stride=2, padding=1)
        of_maps = p.get("label", [])
        self.label = nn.ModuleList(
            nn.Linear(*w["scale"].shape[:1], 2 * w["scale"].shape[1], bias=False) for w in of_maps
        )
        self.to(p["in"].device)
        weights = {"inward.weight": p["in"].T, "out.weight": p["out"]["w"], "out.bias": p["out"]["b"]}
        weights |= {f"label.{i}.weight": torch.cat([w["scale"], w["bias"]], 1).T for i, w in enumerate(of_maps)}
        weights |= {f"up.{i}.weight": q["w"] for i, q in enumerate(p["up"])}
        self.load_state_dict(weights, strict=False)  # batch normalisation starts as ours: scale 1, bias 0

    def normalised(self, i: int, x: Tensor, label: Tensor | None) -> Tensor:
        x = self.norm[i](x)
        if label is not None:
            scale, bias = self.label[i](dcgan.LABEL * label)[..., None, None].chunk(2, 1)
            x = x * (1 + scale) + bias
        return F.relu(x)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        x = self.normalised(0, self.inward(z).unflatten(1, (-1, 4, 4)), label)
        for i, up in enumerate(self.up):
            x = self.normalised(i + 1, up(x), label)
        return self.out(x).tanh()


class Discriminator(nn.Module):
    def __init__(self, p: Tree, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        widths = [len(p["in"]["w"]), *(len(q["w"]) for q in p["down"])]
        pairs = itertools.pairwise(widths)
        self.inward = nn.Conv2d(p["in"]["w"].shape[1], widths[0], 4, stride=2, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(c, f, 4, stride=2, padding=1, bias=False) for c, f in pairs)
        self.norm = nn.ModuleList(norm(f) for f in widths[1:])
        self.out = nn.Conv2d(widths[-1], 1, 4)
        self.to(p["in"]["w"].device)
        weights = {f"{ours}.{x}": p[key][y] for ours, key in (("inward", "in"), ("out", "out")) for x, y in NAMES}
        weights |= {f"down.{i}.weight": q["w"] for i, q in enumerate(p["down"])}
        self.load_state_dict(weights, strict=False)

    def features(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.inward(x), 0.2)
        for down, norm in zip(self.down, self.norm, strict=True):
            h = F.leaky_relu(norm(down(h)), 0.2)
        return h

    def forward(self, x: Tensor) -> Any:
        return self.out(self.features(x)).flatten()


NAMES = (("weight", "w"), ("bias", "b"))


def dcgan_step(peer: str, device: torch.device, dtype: torch.dtype) -> Train:
    """Of exp_dcgan_faces' `small` preset with the paper's discriminator, batch normalisation and no penalty, on made-up
    pictures that lie on the device as uint8."""
    args = replace(exp_dcgan_faces.PRESETS["small"], norm="batch", r1=0.0)
    pixels = noise(args.size, device)
    state = exp_dcgan_faces.init_state(random.key(0, device), args)
    indices = torch.arange(PICTURES, device=device).view(-1, args.batch)
    if peer in OURS:
        update = measure.ours(partial(exp_dcgan_faces.step, args=args, dtype=dtype), state, OURS[peer], pixels)
        return lambda n: update(indices[n % len(indices)])
    generator, discriminator = Generator(state.params.g), Discriminator(state.params.d, nn.BatchNorm2d)
    settings = args.lr, (args.beta1, 0.999), args.ema_decay, dtype
    trainer = gans.Trainer(generator, discriminator, *settings, USUAL[peer])

    def train(n: int) -> None:
        real = pixels[indices[n % len(indices)]].float() / 127.5 - 1
        trainer.step(real, torch.randn(2, args.batch, args.latent, device=device).unbind())

    return train


class Reader(Discriminator):
    """With the labels that an auxiliary critic reads."""

    def __init__(self, p: Tree) -> None:
        super().__init__(p, partial(nn.GroupNorm, dcgan.GROUPS))
        self.label = nn.Linear(*p["label"]["w"].shape, device=p["label"]["w"].device)
        self.label.load_state_dict({"weight": p["label"]["w"].T, "bias": p["label"]["b"]})

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.features(x)
        return self.out(h).flatten(), self.label(h.flatten(1))


class Critic:
    """One batch of real pictures, one of made-up ones, the labels of the real ones, the penalties between, Adam."""

    def __init__(
        self, generator: nn.Module, critic: nn.Module, args: exp_cgan_glasses.Args, dtype: torch.dtype, compiled: bool
    ) -> None:
        self.optimizer = torch.optim.Adam(
            critic.parameters(), args.lr, (args.beta1, 0.9), fused=True if compiled else None
        )
        self.generator, self.critic, self.args, self.dtype = generator, critic, args, dtype
        self.draw = torch.compile(generator) if compiled else generator
        self.judge = torch.compile(critic) if compiled else critic

    def score(self, x: Tensor) -> Tensor:
        return self.critic(x)[0].float().sum()

    def read(self, label: Tensor, x: Tensor) -> Tensor:
        return (self.critic(x)[1].float() * label).sum()

    def excess(self, real: Tensor, fake: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
        """Of slopes over 1, at a random point between each real and made-up picture."""
        x = torch.lerp(real, fake, torch.rand(len(real), 1, 1, 1, device=real.device)).requires_grad_()
        (slope,) = torch.autograd.grad(read(x), x, create_graph=True)
        return slope.flatten(1).norm(dim=1) - 1

    def step(self, real: Tensor, label: Tensor, z: Tensor) -> None:
        cast = partial(torch.autocast, real.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)
        with cast():
            with torch.no_grad():
                fake = self.draw(z, label).float()
            scores, read = self.judge(torch.cat([real, fake]))
            on_real, on_fake = scores.float().chunk(2)
            score, steep = (self.excess(real, fake, of) for of in (self.score, partial(self.read, label)))
        penalty = score.square().mean() + steep.clamp(min=0).square().mean()
        both = torch.cat([label, torch.zeros_like(label)])
        misread = F.binary_cross_entropy_with_logits(read.float(), both, reduction="none").sum(1).mean()
        loss = on_fake.mean() - on_real.mean() + self.args.penalty * penalty + self.args.reading * misread
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


class CriticState(NamedTuple):
    d: Tree
    opt: Tree
    model: Tree
    key: Tensor
    step: Tensor


def ours_critic(
    state: CriticState, index: Tensor, g: Tree, pixels: Tensor, label: Tensor, *, args: exp_cgan_glasses.Args,
    dtype: torch.dtype,
) -> tuple[CriticState, dict[str, Tensor]]:  # fmt: skip
    """The experiment's critic step as a step of its own."""
    key, real = random.fold_in(state.key, state.step), pixels[index] / 127.5 - 1
    d, opt, model, out = exp_cgan_glasses.critic_step(
        state.d, state.opt, state.model, tree.cast(g, dtype), real, label[index], key, args=args, dtype=dtype
    )
    return CriticState(d, opt, model, state.key, state.step + 1), out


def critic_step(peer: str, device: torch.device, dtype: torch.dtype) -> Train:
    """Of exp_cgan_glasses' `small` preset: one step of the critic, second derivatives included, on made-up pictures."""
    args = exp_cgan_glasses.PRESETS["small"]
    pixels = noise(args.size, device)
    label = random.bernoulli(random.key(2, device), 0.5, (PICTURES, VALUES)).float()
    state = exp_cgan_glasses.init_state(random.key(0, device), args, VALUES)
    indices = torch.arange(PICTURES, device=device).view(-1, args.batch)
    if peer in OURS:
        update = measure.ours(
            partial(ours_critic, args=args, dtype=dtype),
            CriticState(state.params.d, state.opt.d, state.model, state.key, state.step),
            OURS[peer],
            state.params.g,
            pixels,
            label,
        )
        return lambda n: update(indices[n % len(indices)])
    generator = Generator(state.params.g)
    critic = Reader(state.params.d)
    trainer = Critic(generator, critic, args, dtype, USUAL[peer])

    def train(n: int) -> None:
        i = indices[n % len(indices)]
        trainer.step(pixels[i].float() / 127.5 - 1, label[i], torch.randn(args.batch, args.latent, device=device))

    return train


def noise(size: int, device: torch.device) -> Tensor:
    return random.randint(random.key(1, device), (PICTURES, 3, size, size), 0, 256).to(torch.uint8)


STEPS = {"exp_dcgan_faces": (dcgan_step, 2), "exp_cgan_glasses, critic": (critic_step, 2)}  # and steps in one timing
