"""lib/diffusion.py is held against the schedulers of Hugging Face's diffusers where these are installed (0.42.1 was
tried): the project does not depend on them. Both get a mixture's ideal denoiser, the same levels and the same noise."""

from functools import partial

import pytest
import torch

from lib import diffusion as df
from lib import random
from tests.test_diffusion import mixture_denoise, noise

diffusers = pytest.importorskip("diffusers")
sched = pytest.importorskip("diffusers.schedulers")

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs, of numpy

THEIR_NAME = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample", "flow": "flow_prediction"}
exact = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
# where a scheduler rounds the sample to fp32 in every step
rounded = partial(torch.testing.assert_close, rtol=1e-5, atol=2e-6)
LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


def set_to(scheduler, n=None, **how):
    """The scheduler is to take n steps, or those that `how` says; its tables, made in fp32, become fp64."""
    scheduler.set_timesteps(n, **how)
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = scheduler.sigmas.double()
        scheduler.set_begin_index(0)  # which it may not find by a time that is there twice
    else:
        scheduler.alphas_cumprod = torch.cumprod(1 - scheduler.betas.double(), 0)
    return scheduler


def of_chain(scheduler):
    """A scheduler that keeps a chain has these levels in our frame, at its times, and then 0."""
    kept = scheduler.alphas_cumprod[scheduler.timesteps]
    return torch.cat([((1 - kept) / kept).sqrt(), kept.new_zeros(1)])


def theirs(scheduler, scales, x, levels, into_frame=True, more=None):
    """The scheduler samples from our x at levels[0], and its answer is in our frame again. `scales` says what the
    network predicts; `into_frame` that the scheduler's frame is what a network sees, `into` x, not ours; `more(i)`
    goes to step i."""
    x = x * scales(levels[0]).into if into_frame else x
    seen = levels[:-1].repeat_interleave(scheduler.order)[
        scheduler.order - 1 :
    ]  # Heun's method sees all but the first twice
    for i, (t, sigma) in enumerate(zip(scheduler.timesteps, seen, strict=True)):
        skip, out, into = scales(sigma)
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        ours = scaled / into
        predicted = (mixture_denoise(ours, sigma) - skip * ours) / out
        x = scheduler.step(predicted, t, x, **(more(i) if more else {})).prev_sample
    return x / scales(levels[-1]).into if into_frame else x


@pytest.fixture
def draws(key, monkeypatch):
    """`draws(i)` is what step i of ours draws: in fp64 from now on, so that no product is rounded to fp32."""
    normal = random.normal
    monkeypatch.setattr(random, "normal", lambda k, shape=(): normal(k, shape).double())
    return lambda i: random.normal(random.fold_in(key, i), (200, 1))


def start(key, levels):
    return levels[0] * noise(random.fold_in(key, 1000), 200)


# ---- how much noise ----


@pytest.mark.parametrize("n", [100, 1000])
@pytest.mark.parametrize(("name", "ours"), [("linear", df.linear), ("squaredcos_cap_v2", df.cosine)])
def test_chains(name, ours, n):
    scheduler = diffusers.DDPMScheduler(n, beta_start=1e-4, beta_end=0.02, beta_schedule=name)
    found = ours(n)
    kept = torch.cumprod(1 - scheduler.betas.double(), 0)
    expected = ((1 - kept) / kept).sqrt().float()
    # the last beta of a cosine is .999: its distance to 1 has lost digits in fp32
    torch.testing.assert_close(found[:-1], expected[:-1], rtol=1e-6, atol=0)
    torch.testing.assert_close(found[-1], expected[-1], rtol=3e-5, atol=0)


@pytest.mark.parametrize("name", ["linear", "squaredcos_cap_v2", "scaled_linear", "exp"])
def test_levels_of_betas(name):
    """Heun's scheduler has the levels of a chain in our frame, twice each; fp32 costs those of little noise digits."""
    scheduler = diffusers.HeunDiscreteScheduler(1000, 1e-4, 0.02, name)
    found, expected = df.of_betas(scheduler.betas).flip(0), scheduler.sigmas[:-1:2]
    torch.testing.assert_close(found, expected, rtol=5e-4, atol=0)
    torch.testing.assert_close(found[:900], expected[:900], rtol=2e-5, atol=0)


@pytest.mark.parametrize("n", [1, 2, 10, 50, 250, 500, 1000])
def test_strided_is_their_trailing_where_n_divides_the_chain(n):
    scheduler = diffusers.DDIMScheduler(1000, timestep_spacing="trailing")
    scheduler.set_timesteps(n)
    for levels in (torch.arange(1.0, 1001.0), df.linear()):
        assert df.strided(levels, n)[:-1].equal(levels[scheduler.timesteps])


@pytest.mark.parametrize("n", [3, 7, 30, 300, 999])
def test_strided_is_their_trailing_elsewhere_but_for_one_level(n):
    """They round multiples of 1000 / n; we go evenly from the last level to one that is rounded down."""
    scheduler = diffusers.DDIMScheduler(1000, timestep_spacing="trailing")
    scheduler.set_timesteps(n)
    assert (df.strided(torch.arange(1000.0), n)[:-1] - scheduler.timesteps).abs().max() <= 1


@pytest.mark.parametrize(("low", "high", "rho"), [(0.002, 80.0, 7.0), (0.01, 20.0, 3.0)])
def test_karras_and_the_label_of_noise(low, high, rho):
    for kind in (diffusers.EDMEulerScheduler, diffusers.EDMDPMSolverMultistepScheduler):
        scheduler = kind(low, high, rho=rho)
        scheduler.set_timesteps(30)
        torch.testing.assert_close(df.karras(30, low, high, rho), scheduler.sigmas, rtol=5e-6, atol=0)
        found = df.noise_label(df.karras(30, low, high, rho)[:-1])
        torch.testing.assert_close(found, scheduler.timesteps, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_karras_between_the_ends_of_a_chain(name):
    scheduler = getattr(diffusers, name)(**LINEAR, use_karras_sigmas=True)
    scheduler.set_timesteps(30)
    sigmas = scheduler.sigmas.unique().flip(0)
    low, high = sigmas[-2].item(), sigmas[0].item()
    torch.testing.assert_close(df.karras(30, low, high), sigmas, rtol=1e-6, atol=0)
    ends = df.linear()[[0, -1]].tolist()
    assert [low, high] == pytest.approx(ends, rel=5e-4)


# ---- what a network predicts ----


def test_their_noisy_pictures_and_velocities(key):
    scheduler = set_to(diffusers.DDPMScheduler(**LINEAR), 1000)
    x, n, t = noise(key, 50), noise(random.fold_in(key, 1), 50), torch.arange(0, 1000, 20)
    sigma = of_chain(scheduler)[:-1].flip(0)[t][:, None]
    noisy = x + sigma * n
    skip, out, into = df.v(sigma)
    exact(into * noisy, scheduler.add_noise(x, n, t))
    exact((x - skip * noisy) / out, scheduler.get_velocity(x, n, t))


# ---- samplers ----


@pytest.mark.parametrize("chain", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("name", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(key, draws, eta, name, chain):
    scheduler = diffusers.DDIMScheduler(
        beta_schedule=chain, prediction_type=THEIR_NAME[name], clip_sample=False, timestep_spacing="trailing"
    )
    levels = of_chain(set_to(scheduler, 20))
    x = start(key, levels)
    more = lambda i: {"eta": eta, "variance_noise": draws(i)} if eta else {}  # noqa: E731
    expected = theirs(scheduler, df.PREDICTS[name], x, levels, more=more)
    exact(df.ddim(mixture_denoise, x, levels, key, eta), expected)


@pytest.mark.parametrize("chain", ["linear", "squaredcos_cap_v2"])
def test_ddim_with_all_noise_is_ddpm(key, draws, chain, monkeypatch):
    """Their ancestral sampler writes its mean with other coefficients (Ho et al. 2020, equation 7), on unlike steps."""
    scheduler = diffusers.DDPMScheduler(beta_schedule=chain, clip_sample=False)
    levels = of_chain(set_to(scheduler, timesteps=[999, 900, 700, 650, 400, 200, 120, 50, 10, 3, 0]))
    order = iter(range(len(levels)))
    monkeypatch.setattr(sched.scheduling_ddpm, "randn_tensor", lambda shape, **_: draws(next(order)))
    x = start(key, levels)
    expected = theirs(scheduler, df.epsilon, x, levels)
    assert next(order) == len(levels) - 2  # none in the step to 0
    exact(df.ddim(mixture_denoise, x, levels, key, 1.0), expected)


@pytest.mark.parametrize("name", ["epsilon", "v"])
@pytest.mark.parametrize("karras", [True, False])
def test_ddim_without_noise_is_euler(key, name, karras):
    scheduler = diffusers.EulerDiscreteScheduler(**LINEAR, prediction_type=THEIR_NAME[name], use_karras_sigmas=karras)
    levels = set_to(scheduler, 20).sigmas
    x = start(key, levels)
    expected = theirs(scheduler, df.PREDICTS[name], x, levels, into_frame=False)
    rounded(df.ddim(mixture_denoise, x, levels), expected)


@pytest.mark.parametrize("name", ["epsilon", "v"])
def test_ddim_with_all_noise_is_ancestral_euler(key, draws, name, monkeypatch):
    scheduler = diffusers.EulerAncestralDiscreteScheduler(**LINEAR, prediction_type=THEIR_NAME[name])
    levels = set_to(scheduler, 20).sigmas
    order = iter(range(20))
    module = sched.scheduling_euler_ancestral_discrete
    monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: draws(next(order)))
    x = start(key, levels)
    expected = theirs(scheduler, df.PREDICTS[name], x, levels, into_frame=False)
    rounded(df.ddim(mixture_denoise, x, levels, key, 1.0), expected)


def test_ddim_of_a_flow_is_euler_in_its_time(key):
    scheduler = set_to(diffusers.FlowMatchEulerDiscreteScheduler(), sigmas=[0.99, 0.9, 0.8, 0.55, 0.4, 0.25, 0.1, 0.03])
    levels = scheduler.sigmas / (1 - scheduler.sigmas)
    x = start(key, levels)
    expected = theirs(scheduler, df.flow, x, levels)
    rounded(df.ddim(mixture_denoise, x, levels), expected)


@pytest.mark.parametrize("name", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("karras", [True, False])
def test_heun(key, name, karras):
    scheduler = diffusers.HeunDiscreteScheduler(
        **LINEAR, prediction_type=THEIR_NAME[name], use_karras_sigmas=karras, timestep_spacing="trailing"
    )
    twice = set_to(scheduler, 20).sigmas
    levels = torch.cat([twice[:-1:2], twice[-1:]])
    x = start(key, levels)
    expected = theirs(scheduler, df.PREDICTS[name], x, levels, into_frame=False)
    exact(df.heun(mixture_denoise, x, levels), expected)


@pytest.mark.parametrize(
    ("made", "how"),
    [
        ({"use_karras_sigmas": True}, {"n": 20}),
        ({"use_karras_sigmas": True}, {"n": 5}),
        ({}, {"timesteps": [999, 900, 700, 650, 400, 200, 120, 50, 10, 3]}),
        ({"final_sigmas_type": "sigma_min", "lower_order_final": False}, {"n": 8}),
    ],
    ids=["karras", "few", "times", "above_0"],
)
@pytest.mark.parametrize("name", ["epsilon", "v", "x0"])
def test_dpm(key, name, made, how):
    """The last step is of first order where it ends at 0, and of second where it ends above."""
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **LINEAR, prediction_type=THEIR_NAME[name], algorithm_type="dpmsolver++", solver_order=2,
        solver_type="midpoint", **made,
    )  # fmt: skip
    levels = set_to(scheduler, **how).sigmas
    x = start(key, levels)
    expected = theirs(scheduler, df.PREDICTS[name], x, levels)
    rounded(df.dpm(mixture_denoise, x, levels), expected)


def test_dpm_of_a_flow(key):
    scheduler = diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    share = set_to(scheduler, 12).sigmas
    levels = share / (1 - share)
    x = start(key, levels)
    expected = theirs(scheduler, df.flow, x, levels)
    rounded(df.dpm(mixture_denoise, x, levels), expected)


@pytest.mark.parametrize(
    ("kind", "sampler", "close"),
    [("EDMDPMSolverMultistepScheduler", df.dpm, exact), ("EDMEulerScheduler", df.ddim, rounded)],
)
@pytest.mark.parametrize("data", [0.5, 1.2])
def test_a_network_of_edm(key, kind, sampler, close, data):
    """Their schedulers in our frame, which scale what the network gets and gives by EDM's table 1."""
    scheduler = getattr(diffusers, kind)(sigma_data=data)
    levels = set_to(scheduler, 20).sigmas
    x = start(key, levels)
    expected = theirs(scheduler, lambda sigma: df.edm(sigma, data), x, levels, into_frame=False)
    close(sampler(mixture_denoise, x, levels), expected)
