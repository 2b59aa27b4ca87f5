"""lib/meanflow.py where the flow is known: of normal data the mean velocity is a closed form."""

import pytest
import torch

from lib import meanflow, random, tree
from lib.transform import jit, value_and_grad

S = 0.3  # standard deviation of the data


def width(t):
    return ((1 - t) ** 2 * S**2 + t**2).sqrt()


def exact(z, t, gap):
    """From time t the flow scales z by the widths; below a gap of 1e-4 its velocity is written out."""
    t, gap = t[:, None], gap[:, None]
    slope = (t - (1 - t) * S**2) / width(t) ** 2
    return torch.where(gap > 1e-4, (1 - width(t - gap) / width(t)) / gap.clamp(min=1e-4), slope) * z


def of_velocity(z, t):
    """Pictures and noise on whose line z moves as the flow does."""
    v = exact(z, t, torch.zeros_like(t))
    return z - t[:, None] * v, z + (1 - t[:, None]) * v


@pytest.fixture
def known():
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    gap = t * torch.linspace(0, 1, 9, dtype=torch.float64)
    z = random.normal(random.key(0), (9, 4)).double()
    return (*of_velocity(z, t), t, gap)


def test_the_true_mean_velocity_has_no_loss(known):
    _, error = meanflow.loss(exact, *known)
    assert error.max() < 1e-20
    _, error = meanflow.loss(lambda z, t, gap: 1.1 * exact(z, t, gap), *known)
    assert error.min() > 1e-4


def test_only_examples_with_a_gap_need_a_derivative(known):
    x, noise, t, gap = (part[:8] for part in known)
    gap = torch.where(torch.arange(8) % 4 == 0, gap + 0.01, torch.zeros_like(gap))
    wrong = lambda z, t, gap: (1.1 + t[:, None]) * exact(z, t, gap)  # noqa: E731
    torch.testing.assert_close(meanflow.loss(wrong, x, noise, t, gap, 4), meanflow.loss(wrong, x, noise, t, gap))


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_any_number_of_steps_gives_the_data(steps):
    noise = random.normal(random.key(1), (200, 4))
    torch.testing.assert_close(meanflow.sample(exact, noise, steps), S * noise, atol=1e-5, rtol=1e-4)


def test_no_steps():
    with pytest.raises(ValueError, match="at least one"):
        meanflow.sample(exact, torch.zeros(1, 2), 0)


def test_times():
    t, gap = meanflow.times(random.key(2), 20_000)
    assert t.min() > 0 and t.max() < 1 and (gap >= 0).all() and (t - gap >= 0).all()
    assert (gap > 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert t.logit().mean().item() > -0.4 + 0.5  # of two the later
    assert (t - gap)[gap > 0].logit().mean().item() == pytest.approx(-0.4 - 0.564, abs=0.05)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_velocity_is_learnt_through_its_own_derivative(compiled):
    """u(z, t, gap) = f(t, gap) z with f a small network, on normal data: one step gives their spread."""

    def velocity(p, z, t, gap):
        h = (torch.stack([t, gap, t - gap, torch.ones_like(t)], 1) @ p["in"]).tanh()
        return (h @ p["out"] + p["shift"]) * z

    def step(p, key):
        k_x, k_noise, k_times = random.split(key, 3)
        x, noise = S * random.normal(k_x, (256, 2)), random.normal(k_noise, (256, 2))
        t, gap = meanflow.times(k_times, 256, every=2)

        def objective(p):
            return meanflow.loss(lambda *given: velocity(p, *given), x, noise, t, gap, every=2)[1].mean()

        value, grads = value_and_grad(objective)(p)
        return tree.map(lambda x, g: x - 0.1 * g, p, grads), {"loss": value}

    p = {"in": random.normal(random.key(3), (4, 16)), "out": torch.zeros(16, 1), "shift": torch.zeros(1)}
    p = tree.map(torch.clone, p)
    update = jit(step, backend="aot_eager") if compiled else step
    for i in range(3 if compiled else 1500):
        p, out = update(p, random.fold_in(random.key(4), i))
        assert torch.isfinite(out["loss"])
    if not compiled:
        noise = random.normal(random.key(5), (2000, 2))
        x = meanflow.sample(lambda *given: velocity(p, *given), noise, 1)
        assert x.std().item() == pytest.approx(S, abs=0.05)
