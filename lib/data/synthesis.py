"""Notes to sound, as sums of sines. Axis: n samples."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lib.data.voices import Notes
from lib.sound import normalised

RATE = 22050  # samples a second: up to 11 kHz can be heard
ATTACK, RELEASE = 0.01, 0.08  # seconds: a tone that begins or ends at once clicks
HARMONICS = 8


def synthesise(notes: Notes, rate: int = RATE) -> Float[Tensor, "n"]:
    """The notes as tones of harmonics that die away, the higher the sooner. `rate`: samples a second."""
    ends = notes.start + notes.duration + RELEASE
    samples = torch.zeros(math.ceil(float(ends.max()) * rate) + 1 if len(ends) else 0)
    for start, duration, pitch, velocity, _ in zip(*(column.tolist() for column in notes), strict=True):
        t, base = torch.arange(math.ceil((duration + RELEASE) * rate)) / rate, 440 * 2 ** ((pitch - 69) / 12)
        turn, tone, power = torch.polar((-t).exp(), 2 * math.pi * base * t), torch.zeros_like(t), torch.ones(())
        for h in range(1, min(HARMONICS, int(rate / 2 / base)) + 1):  # no further: what is higher folds back
            power = power * turn  # its imaginary part is e^-ht sin(2 pi h base t)
            tone += power.imag / h**1.5
        attack, release = (t / ATTACK).clamp(max=1), ((duration + RELEASE - t) / RELEASE).clamp(0, 1)
        begin = round(start * rate)
        samples[begin : begin + len(t)] += velocity / 127 * attack * release * tone
    return normalised(samples)
