"""lib/diffusion.py and lib/likelihood.py against mixtures of Gaussians, whose denoiser, likelihood and flow are known:
orders of convergence, parametrisations against each other, likelihood in nats, inversion, guidance and inpainting."""

import itertools
import math
from functools import partial

import pytest
import torch

from lib import diffusion as df
from lib import random
from lib.likelihood import bits_per_dimension, dequantised, log_likelihood

WEIGHTS, MEANS, STDS = (torch.tensor(x, dtype=torch.float64) for x in ([0.3, 0.7], [-1.0, 0.6], [0.2, 0.3]))
LEVELS = df.karras(40, 0.01, 50.0).double()


def mixture_denoise(x, sigma, weights=WEIGHTS, means=MEANS, stds=STDS):
    """E[x0 | x] of each number by itself."""
    variance = stds**2 + sigma[..., None] ** 2
    apart = x[..., None] - means
    share = (weights.log() - variance.log() / 2 - apart**2 / (2 * variance)).softmax(-1)
    return (share * (means + stds**2 / variance * apart)).sum(-1)


def mixture_log_p(x):
    apart = (x[..., None] - MEANS) / STDS
    return (WEIGHTS.log() - STDS.log() - apart**2 / 2 - 0.5 * math.log(2 * math.pi)).logsumexp(-1)


def noise(key, n, *shape):
    return random.normal(key, (n, *(shape or (1,)))).double()


# ---- what a network predicts ----


@pytest.mark.parametrize("name", df.PREDICTS)
def test_a_network_that_predicts_rightly_is_the_ideal_denoiser(key, name):
    """`denoiser` undoes `scales`; whether these are right the next test says."""
    scales = df.PREDICTS[name]

    def network(scaled, label):
        sigma = (4 * label).exp()[:, None]
        skip, out, into = scales(sigma)
        x = scaled / into
        return (mixture_denoise(x, sigma) - skip * x) / out

    x, sigma = noise(key, 50), df.lognormal(random.fold_in(key, 1), 50).double()
    found = df.denoiser(network, scales)(x, sigma)
    torch.testing.assert_close(found, mixture_denoise(x, sigma[:, None]))
    torch.testing.assert_close(df.denoiser(network, scales)(x, sigma[0]), mixture_denoise(x, sigma[0]))


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("epsilon", lambda x, n, a, b: n),
        ("v", lambda x, n, a, b: a * n - b * x),
        ("x0", lambda x, n, a, b: x),
        ("flow", lambda x, n, a, b: n - x),
    ],
)
@pytest.mark.parametrize("power", [1, 2])
def test_the_loss_is_the_usual_one(key, name, target, power):
    """Of alpha x + beta n, against what each paper predicts; the network sees that sum."""
    x, n, guess = (noise(k, 6, 2, 3) for k in random.split(key, 3))
    sigma = torch.linspace(0.1, 3, 6, dtype=torch.float64)
    alpha, beta = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
    if name == "flow":
        alpha, beta = 1 / (1 + sigma), sigma / (1 + sigma)
    alpha, beta = (x.reshape(-1, 1, 1) for x in (alpha, beta))
    seen = []

    def network(scaled, label):
        seen.append(scaled)
        return guess

    found = df.loss(network, df.PREDICTS[name], x, sigma, n, power)
    torch.testing.assert_close(seen[0], alpha * x + beta * n)
    error = (guess.float() - target(x, n, alpha, beta)).abs() ** power
    torch.testing.assert_close(found, error.flatten(1).mean(1), rtol=1e-5, atol=1e-6)


def test_edm_has_inputs_and_targets_of_variance_one(key):
    x, n = 0.5 * noise(key, 100_000), noise(random.fold_in(key, 1), 100_000)
    for sigma in (0.05, 0.5, 5.0):
        skip, out, into = df.edm(torch.tensor(sigma, dtype=torch.float64))
        noisy = x + sigma * n
        assert (into * noisy).std().item() == pytest.approx(1, abs=0.01)
        assert ((x - skip * noisy) / out).std().item() == pytest.approx(1, abs=0.01)
        assert (noisy * (x - skip * noisy)).mean().item() == pytest.approx(0, abs=0.02)  # the best line through 0


# ---- how much noise ----


def test_levels():
    levels = df.karras(5, 1.0, 32.0, rho=1.0)
    torch.testing.assert_close(levels, torch.tensor([32.0, 24.25, 16.5, 8.75, 1.0, 0.0]))
    assert df.karras(1, 1.0, 32.0).tolist() == [32.0, 0.0]
    cosine = df.cosine(1000)
    share = lambda t: math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
    kept = share(500) / share(0)
    assert cosine[499].item() == pytest.approx(math.sqrt(1 / kept - 1), rel=1e-5)
    assert (cosine.diff() > 0).all()
    clipped = df.cosine(1000, least=1e-4, most=0.02)
    assert 1 / (1 + clipped[-1].item() ** 2) == pytest.approx(0.0032, abs=5e-5)  # of the book's scheduler
    kept = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).neg().add(1).prod().item()
    assert df.linear(1000)[-1].item() == pytest.approx(math.sqrt(1 / kept - 1), rel=1e-5)
    some = df.strided(cosine, 50)
    assert len(some) == 51 and some[0] == cosine[-1] and some[-1] == 0 and (some.diff() < 0).all()
    assert df.strided(cosine, 1000)[:-1].equal(cosine.flip(0))
    assert df.strided(torch.arange(1.0, 11.0), 3).tolist() == [10, 7, 4, 0]
    assert df.strided(cosine, 1).tolist() == [cosine[-1].item(), 0]
    for n in (0, 1001):
        with pytest.raises(ValueError, match="of 1000 levels"):
            df.strided(cosine, n)


def test_training_levels(key):
    logs = df.lognormal(key, 100_000).log()
    assert (logs.mean().item(), logs.std().item()) == pytest.approx((-1.2, 1.2), abs=0.02)
    levels = df.linear(10)
    found = df.chosen(key, 10_000, levels)
    assert [(found == level).sum().item() / 10_000 for level in levels] == pytest.approx([0.1] * 10, abs=0.02)


# ---- samplers ----


def at_the_end(sampler, steps, key):
    """What becomes of the same noise between two levels where the flow is smooth."""
    levels = torch.linspace(3, 0.5, steps + 1, dtype=torch.float64)
    return sampler(mixture_denoise, 3 * noise(key, 200), levels)


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("heun", 2), ("dpm", 2)])
def test_order_of_convergence(key, name, order):
    exact = at_the_end(df.heun, 2000, key)
    errors = [(at_the_end(df.SAMPLERS[name], n, key) - exact).abs().mean().item() for n in (40, 80, 160)]
    found = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert found == pytest.approx([order, order], abs=0.15)


@pytest.mark.parametrize("sampler", [df.heun, df.dpm, df.ddim, partial(df.ddim, eta=1.0), partial(df.ddim, eta=0.5)])
def test_samples_are_of_the_mixture(key, sampler):
    more = {"key": random.fold_in(key, 1)} if isinstance(sampler, partial) else {}
    levels = df.karras(200, 0.005, 50.0).double()
    x = sampler(mixture_denoise, levels[0] * noise(key, 20_000), levels, **more).flatten()
    left = x < -0.3
    assert left.double().mean().item() == pytest.approx(0.3, abs=0.015)
    for part, mean, std in ((x[left], -1.0, 0.2), (x[~left], 0.6, 0.3)):
        assert (part.mean().item(), part.std().item()) == pytest.approx((mean, std), abs=0.02)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_equation_12(key, eta):
    """A step of Song et al. 2021, in their frame: sqrt(kept) x0 + sqrt(1 - kept) n."""
    now, then = torch.tensor([2.0, 0.7], dtype=torch.float64)
    kept, kept_then = 1 / (1 + now**2), 1 / (1 + then**2)
    x = now * noise(key, 5)
    theirs, n = kept.sqrt() * x, noise(random.fold_in(key, 0), 5)
    eps = (theirs - kept.sqrt() * mixture_denoise(x, now)) / (1 - kept).sqrt()
    sigma = eta * ((1 - kept_then) / (1 - kept) * (1 - kept / kept_then)).sqrt()
    expected = kept_then.sqrt() * mixture_denoise(x, now) + (1 - kept_then - sigma**2).sqrt() * eps + sigma * n
    found = df.ddim(mixture_denoise, x, torch.stack([now, then]), key, eta)
    torch.testing.assert_close(kept_then.sqrt() * found, expected)


def test_noise_and_back(key):
    x = 0.3 * noise(key, 100) + 0.5
    rising = df.karras(100, 0.01, 20.0)[:-1].flip(0).double()
    back = df.heun(mixture_denoise, df.heun(mixture_denoise, x, rising), rising.flip(0))
    assert (back - x).abs().max() < 1e-3


# ---- denoisers of denoisers ----


def test_guidance(key):
    x, sigma = noise(key, 9), torch.tensor(0.8, dtype=torch.float64)
    strong, weak = (lambda x, s: x + 1), (lambda x, s: x)
    at = lambda *args: (df.guided(strong, weak, *args)(x, sigma) - x).mean().item()  # noqa: E731
    assert [at(w) for w in (0.0, 1.0, 3.0)] == pytest.approx([0, 1, 3])
    assert [at(3.0, *ends) for ends in ((0.5, 1.0), (0.8, 1.0), (0.5, 0.8), (0.1, 0.7))] == pytest.approx([3, 1, 3, 1])
    wide, narrow = (partial(mixture_denoise, means=torch.zeros(2), stds=torch.full((2,), s)) for s in (0.5, 0.25))
    levels = df.karras(60, 0.01, 20.0).double()
    found = df.dpm(df.guided(narrow, wide, 2.0), levels[0] * noise(key, 2000), levels)
    assert found.std() < 0.2  # away from the weak one, beyond the strong one's .25


def test_what_is_known_stays(key):
    known, mask = torch.full((4, 6), 0.25, dtype=torch.float64), torch.arange(6) < 2
    for sampler in (df.heun, df.dpm, df.ddim, partial(df.ddim, key=key, eta=1.0)):
        x = sampler(df.inpainted(mixture_denoise, known, mask), 50 * noise(key, 4, 6), LEVELS)
        assert torch.equal(x[:, :2], known[:, :2])
        assert (x[:, 2:] - 0.25).abs().min() > 0


def test_clipped():
    x = torch.tensor([[-3.0, 0.5, 2.0]])
    assert df.clipped(lambda x, s: x)(x, torch.tensor(1.0)).tolist() == [[-1.0, 0.5, 1.0]]


# ---- how likely ----


def test_likelihood_in_nats(key):
    x = torch.linspace(-1.5, 1.5, 25, dtype=torch.float64)[:, None]
    rising = df.karras(300, 1e-3, 80.0)[:-1].flip(0).double()
    found = log_likelihood(mixture_denoise, x, rising, key)
    torch.testing.assert_close(found, mixture_log_p(x)[:, 0], rtol=0, atol=0.01)


def test_the_likelihood_of_several_numbers_is_right_on_average(key):
    """Numbers that depend on each other: a Gaussian in three dimensions, whose denoiser is linear."""
    root = torch.tensor([[1.0, 0, 0], [0.8, 0.5, 0], [-0.5, 0.4, 0.3]], dtype=torch.float64)
    cov = root @ root.T
    denoise = lambda x, sigma: x @ torch.linalg.solve(cov + sigma**2 * torch.eye(3), cov)  # noqa: E731
    x = noise(key, 3, 3) @ root.T
    expected = torch.distributions.MultivariateNormal(torch.zeros(3).double(), cov).log_prob(x)
    rising = df.karras(150, 1e-3, 80.0)[:-1].flip(0).double()
    many = x.repeat_interleave(2000, 0)
    found = log_likelihood(denoise, many, rising, key).reshape(3, 2000)
    torch.testing.assert_close(found.mean(1), expected, rtol=0, atol=0.1)
    assert (found.std(1) > 0.05).all()  # an estimate


def test_bits_per_dimension(key):
    """Uniform over all 256 values: a density of a half in [-1, 1), and 8 bits each."""
    n, pixels = 12, torch.arange(256, dtype=torch.uint8).repeat(40)
    assert bits_per_dimension(torch.tensor([n * math.log(1 / 2)]), n).item() == pytest.approx(8)
    x = dequantised(key, pixels)
    assert x.min() >= -1 and x.max() < 1 and ((x + 1) * 128).floor().equal(pixels.float())
    assert x.mean().item() == pytest.approx(0, abs=1e-3)


def test_several_probes_are_their_mean_and_each_examples_own(key):
    root = torch.tensor([[1.0, 0], [0.8, 0.5]], dtype=torch.float64)
    cov = root @ root.T
    denoise = lambda x, sigma: x @ torch.linalg.solve(cov + sigma**2 * torch.eye(2), cov)  # noqa: E731
    x, rising = noise(key, 400, 2) @ root.T, df.karras(30, 1e-2, 20.0)[:-1].flip(0)
    one, four = (log_likelihood(denoise, x, rising, key, probes) for probes in (1, 4))
    exact = torch.distributions.MultivariateNormal(torch.zeros(2).double(), cov + 1e-4 * torch.eye(2)).log_prob(x)
    assert 0.3 < (four - exact).std() / (one - exact).std() < 0.7
    torch.testing.assert_close(log_likelihood(denoise, x[:5], rising, key, 4), four[:5])


# ---- how it is called ----


@pytest.mark.parametrize("name", df.SAMPLERS)
def test_dtypes_stay(key, name):
    """bf16 pictures stay bf16 on levels in fp32, which may be one or several."""
    network = lambda x, label: x * label.to(x.dtype)[:, None]  # noqa: E731
    denoise, levels = df.denoiser(network, df.v), df.karras(4)
    x = noise(key, 3).bfloat16()
    assert df.SAMPLERS[name](denoise, x, levels).dtype == torch.bfloat16
    assert denoise(x, levels[0]).dtype == torch.bfloat16 and denoise(x, levels[:3]).dtype == torch.bfloat16


def test_what_cannot_be(key):
    for eta, with_key in ((1.5, key), (-0.1, key), (0.5, None)):
        with pytest.raises(ValueError, match=f"eta {eta}: it must be in"):
            df.ddim(mixture_denoise, noise(key, 2), LEVELS, with_key, eta)
