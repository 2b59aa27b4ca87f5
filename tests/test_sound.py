"""lib/sound.py and lib/data/synthesis.py: the pitches that are asked for, as loud as can be, without clicks."""

import io
import wave

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from lib import sound
from lib.data import synthesis
from lib.data.voices import Notes


def notes(*rows):
    """Of (start, duration, pitch) each."""
    start, duration, pitch = (torch.tensor(column) for column in zip(*rows, strict=True))
    return Notes(start, duration, pitch, torch.full_like(pitch, 80), torch.zeros_like(pitch))


def loudness(samples, rate, frequency):
    """Of a sine of that frequency, among all that is heard."""
    spectrum = torch.fft.rfft(samples * torch.hann_window(len(samples))).abs() ** 2
    middle = round(frequency * len(samples) / rate)
    return float(spectrum[middle - 3 : middle + 4].sum() / spectrum.sum())


@pytest.mark.parametrize("rate", [16_000, 22_050])
@pytest.mark.parametrize("pitch, frequency", [(69, 440.0), (57, 220.0), (60, 261.63), (81, 880.0)])
def test_a_note_has_its_frequency(pitch, frequency, rate):
    samples = synthesis.synthesise(notes((0.0, 1.0, pitch)), rate)
    spectrum = torch.fft.rfft(samples * torch.hann_window(len(samples))).abs()
    assert abs(int(spectrum.argmax()) * rate / len(samples) - frequency) < 1
    heard = [loudness(samples, rate, h * frequency) for h in range(1, 9)]
    assert heard[0] > 0.6 and heard[1] > 0.01 and sum(heard) > 0.99  # and nothing but its harmonics


def test_notes_sound_when_they_are_to():
    samples = synthesis.synthesise(notes((0.5, 0.25, 69), (1.0, 0.5, 57), (1.0, 0.5, 76)), 10_000)
    assert len(samples) == pytest.approx(15_800, abs=2)
    assert (samples[:5000] == 0).all() and (samples[8400:10_000] == 0).all()
    assert loudness(samples[5000:7500], 10_000, 440) > 0.6
    assert loudness(samples[10_000:15_000], 10_000, 220) > 0.2 < loudness(samples[10_000:15_000], 10_000, 659.26)


def test_nothing_clicks_and_nothing_is_clipped():
    chord = notes(*((0.0, 0.3, pitch) for pitch in (48, 60, 64, 67, 72)), (0.3, 0.3, 60))
    samples = synthesis.synthesise(chord)
    assert samples.abs().max() == pytest.approx(sound.PEAK)
    assert max(samples[0].abs(), samples[-1].abs()) < 1e-3
    low = synthesis.synthesise(notes((0.0, 0.3, 36)))
    assert low.diff().abs().max() < 0.1  # a tone that ends at once falls by half


def test_a_louder_note_is_louder():
    both = notes((0.0, 0.5, 69), (1.0, 0.5, 69))._replace(velocity=torch.tensor([40, 120]))
    samples = synthesis.synthesise(both, 10_000)
    assert samples[10_000:].abs().max() / samples[:9000].abs().max() == pytest.approx(3, rel=1e-3)


def test_no_notes_are_no_sound():
    none = Notes(*(column[:0] for column in notes((0.0, 1.0, 60))))
    assert synthesis.synthesise(none).shape == (0,)
    assert torch.equal(sound.normalised(torch.zeros(9)), torch.zeros(9))


@pytest.mark.parametrize("n", [0, 1, 1000])
def test_a_wav_comes_back_as_it_was(n):
    samples = torch.linspace(-1, 1, n)
    with wave.open(io.BytesIO(sound.wav(samples, 22_050))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes()) == (1, 2, 22_050, n)
        back = np.frombuffer(file.readframes(n), "<i2")
    torch.testing.assert_close(torch.from_numpy(back / 32767).float(), samples, atol=2e-5, rtol=0)


def test_what_is_too_loud_is_clipped():
    with wave.open(io.BytesIO(sound.wav(torch.tensor([-7.0, 3.0], requires_grad=True), 8000))) as file:
        assert np.frombuffer(file.readframes(2), "<i2").tolist() == [-32767, 32767]


def test_tensorboard_reads_a_sound(tmp_path):
    samples = torch.linspace(-1, 1, 500)
    with SummaryWriter(tmp_path) as writer:
        sound.add_sound(writer, "samples/chorale", samples, 8000, 30)
    events = EventAccumulator(str(tmp_path), size_guidance={"audio": 0}).Reload()
    assert events.Tags()["audio"] == ["samples/chorale"]
    [event] = events.Audio("samples/chorale")
    assert (event.step, event.sample_rate, event.length_frames) == (30, 8000, 500)
    assert event.content_type == "audio/wav" and event.encoded_audio_string == sound.wav(samples, 8000)
