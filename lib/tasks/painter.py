"""A model that draws what a sentence says, first small, then refined: how it draws, what it heeds, how it describes.

Pictures have values in [-1, 1]. Axes: n pictures, h height, w width, l words, k noise levels.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from lib import diffusion, random
from lib.data.scenes import Scene
from lib.tasks.reader import Reader

AT_ONCE = 100  # pictures that are drawn together
HIGH, LOW, FINE = 80.0, 0.01, 20.0  # noise levels: the most, the least, the most of the refiner
GUIDED = (0.2, 8.0)  # levels at which guidance is of use (Kynkäänniemi et al. 2024)
AUGMENTED = 0.1  # noise on the small picture that the refiner is given
FINE_STEPS = 8
ASKED = (0.6, 1.0, 1.7, 3.0)  # noise levels at which a picture is described


class Painter(NamedTuple):
    """`base`: the network of small pictures under sentences, `refiner`: that of large ones, given small ones, their
    noise and its level; `heeded`: for each position and word, how much the first heeds the second. `held_out`: gives
    the test pictures; `scene`: what they show, where that is known."""

    base: Callable[[Int[Tensor, "n l"]], diffusion.Network]
    refiner: Callable[[Tensor, Tensor, Tensor], diffusion.Network]
    heeded: Callable[[Tensor, Tensor, Int[Tensor, "n l"]], Float[Tensor, "n l h w"]]
    reader: Reader
    small: int
    device: torch.device
    held_out: Callable[[], UInt8[Tensor, "m 3 h w"]]
    scene: Scene | None

    @property
    def example(self) -> str:
        """A sentence; of no words where nothing is known of the pictures."""
        return self.scene.example if self.scene else ""

    def ids(self, texts: Sequence[str]) -> Int[Tensor, "n l"]:
        """Raises DataError."""
        return self.reader.encode(texts).to(self.device)

    def noise(self, numbers: Sequence[int], seed: int, size: int, purpose: int = 0) -> Float[Tensor, "n 3 h w"]:
        """The same number is the same noise, whatever else is drawn; another for each `purpose`."""
        k, shape = random.fold_in(random.key(seed, self.device), purpose), (3, size, size)
        return torch.stack([random.normal(random.fold_in(k, i), shape) for i in numbers])

    def denoiser(self, ids: Int[Tensor, "n l"], guidance: float) -> diffusion.Denoise:
        """Of small pictures; with guidance both what is asked for and nothing, in one batch. What goes beyond the words
        is taken at the levels GUIDED, what stays behind them at all: 0 is nothing asked for."""
        plain = diffusion.denoiser(self.base(ids), diffusion.edm)
        if guidance == 1:
            return diffusion.clipped(plain)
        nothing = self.ids([""]).expand_as(ids)
        both = diffusion.denoiser(self.base(torch.cat([ids, nothing])), diffusion.edm)

        def denoise(x: Float[Tensor, "n 3 h w"], sigma: Float[Tensor, ""]) -> Float[Tensor, "n 3 h w"]:
            if guidance > 1 and not GUIDED[0] < sigma <= GUIDED[1]:
                return plain(x, sigma)
            told, untold = both(torch.cat([x, x]), sigma).chunk(2)
            return untold + guidance * (told - untold)

        return diffusion.clipped(denoise)

    @torch.no_grad()
    def sketched(
        self, noise: Float[Tensor, "n 3 h w"], ids: Int[Tensor, "n l"], guidance: float = 2.0, steps: int = 20
    ) -> Float[Tensor, "n 3 h w"]:
        """The small pictures that become of standard normal noise."""
        levels = diffusion.karras(steps, LOW, HIGH).to(self.device)
        parts = zip(noise.split(AT_ONCE), ids.split(AT_ONCE), strict=True)
        return torch.cat([diffusion.dpm(self.denoiser(i, guidance), levels[0] * z, levels) for z, i in parts])

    @torch.no_grad()
    def refined(self, small: Float[Tensor, "n 3 h w"], numbers: Sequence[int], seed: int) -> Float[Tensor, "n 3 h w"]:
        """Twice as large, with what small ones cannot show."""
        levels = diffusion.karras(FINE_STEPS, LOW, FINE).to(self.device)
        given, start = self.noise(numbers, seed, self.small, 1), self.noise(numbers, seed, 2 * self.small, 2)
        parts = []
        for x, on_it, z in zip(
            small.clamp(-1, 1).split(AT_ONCE), given.split(AT_ONCE), start.split(AT_ONCE), strict=True
        ):
            network = self.refiner(x, on_it, torch.full((len(x),), AUGMENTED, device=self.device))
            denoise = diffusion.clipped(diffusion.denoiser(network, diffusion.edm))
            large = F.interpolate(x, scale_factor=2, mode="bilinear")
            parts.append(diffusion.dpm(denoise, large + levels[0] * z, levels))
        return torch.cat(parts)

    def drawn(
        self, texts: Sequence[str], numbers: Sequence[int], seed: int, guidance: float = 2.0, steps: int = 20
    ) -> Float[Tensor, "n 3 h w"]:
        """A picture for each text, of the noise of that number. Raises DataError for a word that is not known."""
        small = self.sketched(self.noise(numbers, seed, self.small), self.ids(texts), guidance, steps)
        return self.refined(small, numbers, seed)

    @torch.no_grad()
    def edited(
        self, x: Float[Tensor, "n 3 h w"], before: Sequence[str], after: Sequence[str], guidance: float, steps: int
    ) -> Float[Tensor, "n 3 h w"]:
        """Pictures turned into noise under what is true of them, and drawn again under what is to be, in so many steps
        each way."""
        rising = diffusion.karras(steps, LOW, HIGH)[:-1].flip(0).to(self.device)
        parts = zip(F.avg_pool2d(x, 2).split(AT_ONCE), self.ids(before).split(AT_ONCE), strict=True)
        there = [diffusion.heun(diffusion.denoiser(self.base(i), diffusion.edm), small, rising) for small, i in parts]
        small = self.sketched(torch.cat(there) / rising[-1], self.ids(after), guidance, steps)
        return self.refined(small, range(len(x)), 0)

    @torch.no_grad()
    def words(self, x: Float[Tensor, "1 3 h w"], text: str) -> tuple[list[str], Float[Tensor, "l h w"]]:
        """The words of a text, or the pieces it is read as, and how much each place of a picture that was drawn for
        it heeds them."""
        ids, small = self.ids([text]), F.avg_pool2d(x, 2)
        noisy, sigma = small + self.noise([0], 0, self.small), torch.ones(1, device=self.device)
        found = self.heeded(noisy * diffusion.edm(sigma).into, diffusion.noise_label(sigma), ids)[0]
        said = self.reader.tokens(text)
        return said, F.interpolate(found[1 : len(said) + 1, None], size=x.shape[2:], mode="bilinear")[:, 0]

    def described(self, x: Float[Tensor, "n 3 h w"], scene: Scene, draws: int = 4) -> dict[str, Float[Tensor, "n k"]]:
        """Probabilities of each attribute's values, all equally likely before: by how well the plainest sentences
        explain the pictures (Li et al. 2023, "Your diffusion model is secretly a zero-shot classifier"), each of
        them as likely where a value has several."""
        found = {}
        for name, values in scene.names.items():
            texts = [text for value in values for text in scene.short(name, value)]
            fits = rearrange(-self.errors(x, [texts] * len(x), draws), "n (k ways) -> n k ways", k=len(values))
            found[name] = fits.logsumexp(2).softmax(1)
        return found

    @torch.no_grad()
    def errors(
        self, x: Float[Tensor, "n 3 h w"], texts: Sequence[Sequence[str]], draws: int = 4
    ) -> Float[Tensor, "n v"]:
        """How far from each picture, behind noise that is the same for all, the denoiser stays under each of as many
        sentences: half the squared distance over the noise's variance, summed over levels and averaged over draws."""
        small, sigma = F.avg_pool2d(x, 2), torch.tensor(ASKED, device=self.device)
        v, n, found = len(texts[0]), len(sigma), []
        for one, said in zip(small, texts, strict=True):
            denoise = diffusion.denoiser(self.base(self.ids(said).repeat_interleave(n, 0)), diffusion.edm)
            total = torch.zeros(v, device=self.device)
            for j in range(draws):
                z = self.noise(range(j * n, j * n + n), 0, self.small, 3)
                noisy = (one + sigma[:, None, None, None] * z).repeat(v, 1, 1, 1)
                off = (denoise(noisy, sigma.repeat(v)) - one).square().flatten(1).sum(1).view(v, n) / (2 * sigma**2)
                total += off.sum(1) / draws
            found.append(total)
        return torch.stack(found)
