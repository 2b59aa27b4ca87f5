"""The adversarial steps of exp_gan_curve and exp_gan_fashion written the usual way: nn.Module, backward, Adam.

The bench's baseline for `just bench gan`: the same networks from the same parameters on the same real examples, so
that the peers differ in the way of writing only; jaxgans.py has them in JAX. Both losses are binary cross-entropy,
without gradient penalty.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments import exp_gan_curve, exp_gan_fashion
from lib import random
from lib.data.images import Images
from lib.tree import Tree
from tests.bench import measure
from tests.bench.measure import JAX, OURS, USUAL, Train


def mlp(p: list[Tree], activation: Callable[[], nn.Module], dropout: float = 0.0) -> nn.Sequential:
    """The module with a copy of the parameters of `lib.nn.mlp_init`."""
    parts: list[nn.Module] = []
    for i, layer in enumerate(p):
        linear = nn.Linear(*layer["w"].shape, device=layer["w"].device)
        linear.load_state_dict({"weight": layer["w"].T, "bias": layer["b"]})
        parts += [linear, activation(), nn.Dropout(dropout)] if i + 1 < len(p) else [linear]
    return nn.Sequential(*(part for part in parts if not (isinstance(part, nn.Dropout) and part.p == 0)))


class DcganGenerator(nn.Module):
    def __init__(self, p: Tree, width: int) -> None:
        super().__init__()
        self.inward = nn.Linear(p["in"]["w"].shape[0], 2 * width * 49, bias=False)
        self.norm_in, self.norm_up = nn.BatchNorm2d(2 * width), nn.BatchNorm2d(width)
        self.up = nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False)
        self.out = nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1)
        self.to(p["in"]["w"].device)
        weights = {"inward.weight": p["in"]["w"].T, "up.weight": p["up"]["w"]}
        weights |= {"out.weight": p["out"]["w"], "out.bias": p["out"]["b"]}
        self.load_state_dict(weights, strict=False)  # batch normalisation starts as ours: scale 1, bias 0

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.norm_in(self.inward(z).unflatten(1, (-1, 7, 7))))
        return self.out(F.relu(self.norm_up(self.up(x)))).tanh()


class DcganDiscriminator(nn.Module):
    def __init__(self, p: Tree, width: int) -> None:
        super().__init__()
        self.inward = nn.Conv2d(1, width, 4, stride=2, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2 * width)
        self.out = nn.Linear(2 * width * 49, 1)
        self.to(p["in"]["w"].device)
        weights = {"inward.weight": p["in"]["w"], "inward.bias": p["in"]["b"], "down.weight": p["down"]["w"]}
        weights |= {"out.weight": p["out"]["w"].T, "out.bias": p["out"]["b"]}
        self.load_state_dict(weights, strict=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.inward(x), 0.2)
        h = F.leaky_relu(self.norm(self.down(h)), 0.2)
        return self.out(h.flatten(1)).squeeze(1)


class Trainer:
    """Discriminator, then generator, each with torch.optim.Adam, and an averaged copy of the generator."""

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        lr: float,
        betas: tuple[float, float],
        ema_decay: float,
        dtype: torch.dtype,
        compiled: bool,
    ) -> None:
        adam = partial(torch.optim.Adam, lr=lr, betas=betas, fused=True if compiled else None)
        self.opt_g, self.opt_d = adam(generator.parameters()), adam(discriminator.parameters())
        self.average = copy.deepcopy(generator) if ema_decay else None
        self.weights, self.ema_decay, self.dtype = list(generator.parameters()), ema_decay, dtype
        self.g = torch.compile(generator) if compiled else generator
        self.d = torch.compile(discriminator) if compiled else discriminator

    def step(self, real: Tensor, latents: Sequence[Tensor]) -> None:
        cast = partial(torch.autocast, real.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)
        bce = F.binary_cross_entropy_with_logits
        with cast():
            fake = self.g(latents[0]).detach()
            on_real, on_fake = self.d(real), self.d(fake)
        loss_d = bce(on_real.float(), torch.ones_like(on_real).float())
        loss_d = loss_d + bce(on_fake.float(), torch.zeros_like(on_fake).float())
        self.opt_d.zero_grad(set_to_none=True)
        loss_d.backward()
        self.opt_d.step()

        with cast():
            on_fake = self.d(self.g(latents[1]))
        loss_g = bce(on_fake.float(), torch.ones_like(on_fake).float())
        self.opt_g.zero_grad(set_to_none=True)
        loss_g.backward()
        self.opt_g.step()
        if self.average is not None:
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.parameters()), self.weights, 1 - self.ema_decay)


def curve_step(peer: str, device: torch.device, dtype: torch.dtype) -> Train:
    """Of exp_gan_curve's `book` preset: dense networks on its 2,048 points."""
    del dtype  # always fp32, as the experiment
    args = exp_gan_curve.PRESETS["book"]
    curve = exp_gan_curve.curve(args.formula)
    state = exp_gan_curve.init_state(random.key(0, device), args)
    if peer in OURS:
        update = measure.ours(partial(exp_gan_curve.step, args=args, curve=curve), state, OURS[peer])
        return lambda _: update()
    activation, x = partial(nn.LeakyReLU, args.slope), state.x
    points = (torch.stack([x, curve.f(x)], -1) - torch.tensor(curve.mean).to(x)) / torch.tensor(curve.std).to(x)
    networks = mlp(state.params.g, activation), mlp(state.params.d, activation, args.dropout)
    settings = args.lr, args.betas, args.ema_decay, torch.float32
    if peer == JAX:
        from tests.bench import jaxes, jaxgans  # the optional extra

        jaxes.use(device)
        draw = lambda key, points: points[jaxes.random.randint(key, (args.batch,), 0, len(points))]  # noqa: E731
        dense = jaxgans.dense(*networks, args)
        jax_trainer, given = (
            jaxgans.adversarial(dense, draw, (args.batch, args.latent), *settings),
            jaxes.arrays(points),
        )
        return lambda _: jax_trainer.step(given)
    discriminator = nn.Sequential(networks[1], nn.Flatten(0))
    trainer = Trainer(networks[0], discriminator, *settings, USUAL[peer])

    def train(_: int) -> None:
        index = torch.randint(len(points), (args.batch,), device=device)
        trainer.step(points[index], torch.randn(2, args.batch, args.latent, device=device).unbind())

    return train


def fashion_step(peer: str, device: torch.device, dtype: torch.dtype) -> Train:
    """Of exp_gan_fashion's `small` preset: DCGAN on made-up pictures that lie on the device as uint8."""
    args = exp_gan_fashion.PRESETS["small"]
    pixels = random.randint(random.key(1, device), (4096, 1, 28, 28), 0, 256).to(torch.uint8)
    data = Images(pixels, torch.zeros(len(pixels), dtype=torch.int64, device=device))
    state = exp_gan_fashion.init_state(random.key(0, device), args)
    indices = torch.arange(len(pixels), device=device).view(-1, args.batch)
    if peer in OURS:
        update = measure.ours(partial(exp_gan_fashion.step, args=args, dtype=dtype), state, OURS[peer], data)
        return lambda n: update(indices[n % len(indices)])
    networks = DcganGenerator(state.params.g, args.width), DcganDiscriminator(state.params.d, args.width)
    settings = args.lr, (args.beta1, 0.999), args.ema_decay, dtype
    if peer == JAX:
        from tests.bench import jaxes, jaxgans  # the optional extra

        jaxes.use(device)
        take = lambda _, pixels, index: pixels[index].astype(jaxes.jnp.float32) / 127.5 - 1  # noqa: E731
        dcgan = jaxgans.dcgan(*networks, args.latent, args.width)
        jax_trainer = jaxgans.adversarial(dcgan, take, (args.batch, args.latent), *settings)
        all_pixels, order = jaxes.arrays(pixels), list(jaxes.arrays(indices))
        return lambda n: jax_trainer.step(all_pixels, order[n % len(order)])
    trainer = Trainer(*networks, *settings, USUAL[peer])

    def train(n: int) -> None:
        real = pixels[indices[n % len(indices)]].float() / 127.5 - 1
        trainer.step(real, torch.randn(2, args.batch, args.latent, device=device).unbind())

    return train


STEPS = {"exp_gan_curve": (curve_step, 100), "exp_gan_fashion": (fashion_step, 4)}  # and steps in one timing
