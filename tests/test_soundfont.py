"""lib/data/soundfont.py: a soundfont of one made instrument is heard at its pitch, loop, length and loudness."""

import math
import struct

import pytest
import torch

from lib.data import soundfont
from lib.data.voices import Notes
from lib.faults import DataError

RATE, PERIOD = 22050, 100  # the sample: ten periods of a sine of 220.5 Hz, its octave in the second half of its keys


def chunk(name, content):
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def gens(*pairs):
    return b"".join(struct.pack("<Hh", *pair) for pair in pairs)


def made(path, zones=None, kind=1, common=(), preset=(), number=5):
    """`zones`: (generators, sample) of the instrument; two by default, with keys below and from 60."""
    sine = [round(20000 * math.sin(2 * math.pi * i / PERIOD)) for i in range(10 * PERIOD)]
    octave = [round(20000 * math.sin(4 * math.pi * i / PERIOD)) for i in range(10 * PERIOD)]
    samples = struct.pack("<2046h", *sine, *[0] * 46, *octave[:1000])
    low, high = (soundfont.KEYS, 59 << 8), (soundfont.KEYS, 127 << 8 | 60)
    zones = zones or [([low, (soundfont.LOOPS, 1)], 0), ([high, (soundfont.LOOPS, 1)], 1)]
    parts = [gens(*common)] * bool(common) + [gens(*own, (soundfont.SAMPLE, n)) for own, n in zones]
    firsts = [sum(len(p) for p in parts[:i]) // 4 for i in range(len(parts) + 1)]
    header = lambda name, start, pitch: struct.pack(  # noqa: E731
        "<20sIIIIIBbHH", name, start, start + 1000, start + 200, start + 800, RATE, pitch, 0, 0, kind
    )
    chosen = gens(*preset, (soundfont.INSTRUMENT, 0))
    pdta = {
        b"phdr": struct.pack("<20sHHH12x", b"one", number, 0, 0) + struct.pack("<20sHHH12x", b"EOP", 0, 0, 1),
        b"pbag": struct.pack("<HHHH", 0, 0, len(chosen) // 4, 0), b"pmod": b"", b"pgen": chosen + gens((0, 0)),
        b"inst": struct.pack("<20sH20sH", b"one", 0, b"EOI", len(parts)),
        b"ibag": b"".join(struct.pack("<HH", first, 0) for first in firsts), b"imod": b"",
        b"igen": b"".join(parts) + gens((0, 0)),
        b"shdr": header(b"low", 0, 57) + header(b"high", 1046, 69) + header(b"EOS", 0, 0),
    }  # fmt: skip
    lists = chunk(b"LIST", b"INFO" + chunk(b"ifil", b"\2\0\4\0"))
    lists += chunk(b"LIST", b"sdta" + chunk(b"smpl", samples))
    lists += chunk(b"LIST", b"pdta" + b"".join(chunk(name, x) for name, x in pdta.items()))
    path.write_bytes(chunk(b"RIFF", b"sfbk" + lists))
    return path


def notes(*rows):
    start, duration, pitch, velocity = map(torch.tensor, zip(*rows, strict=True))
    return Notes(start, duration, pitch, velocity, torch.zeros_like(pitch))


def pitch_of(x):
    spectrum = torch.fft.rfft(x * torch.hann_window(len(x))).abs()
    return float(spectrum.argmax()) * RATE / len(x)


@pytest.mark.parametrize("pitch, wanted", [(57, 220.5), (45, 110.25), (69, 441.0), (81, 882.0), (64, 330.4)])
def test_every_key_has_its_pitch(tmp_path, pitch, wanted):
    font = soundfont.read(made(tmp_path / "a.sf2"))
    x = soundfont.play(font, notes((0.0, 1.0, pitch, 100)), 5, RATE)
    assert pitch_of(x[:RATE]) == pytest.approx(wanted, abs=1.1)
    assert x[: RATE - 100].view(-1, 25)[1:].abs().amax(1).min() > 0.01  # the loop has no gap


def test_tuning_and_a_root_of_its_own(tmp_path):
    common = [(soundfont.COARSE, 1), (soundfont.LOOPS, 1)]
    font = soundfont.read(made(tmp_path / "a.sf2", [([(soundfont.ROOT, 58)], 0)], common=common))
    assert pitch_of(soundfont.play(font, notes((0.0, 1.0, 57, 100)), 5, RATE)[:RATE]) == pytest.approx(220.5, abs=1.1)
    font = soundfont.read(made(tmp_path / "b.sf2", [([], 0)], common=common, preset=[(soundfont.FINE, -100)]))
    assert pitch_of(soundfont.play(font, notes((0.0, 1.0, 57, 100)), 5, RATE)[:RATE]) == pytest.approx(220.5, abs=1.1)


def test_without_a_loop_a_sample_ends(tmp_path):
    font = soundfont.read(made(tmp_path / "a.sf2", [([], 0)]))
    assert len(soundfont.play(font, notes((0.0, 1.0, 57, 100)), 5, RATE)) <= 1001


def test_softer_keys_and_release(tmp_path):
    zone = [(soundfont.LOOPS, 1), (soundfont.RELEASE, 1200 * 0)]  # a second
    font = soundfont.read(made(tmp_path / "a.sf2", [(zone, 0)]))
    x = soundfont.play(font, notes((0.0, 0.5, 57, 127), (3.0, 0.5, 57, 64)), 5, RATE)
    loud = lambda at: float(x[int(at * RATE) : int((at + 0.05) * RATE)].abs().max())  # noqa: E731
    assert loud(3.2) / loud(0.2) == pytest.approx((64 / 127) ** 2, rel=0.01)
    assert loud(0.7) / loud(0.2) == pytest.approx(0.1, rel=0.1)  # 20 of the 100 dB of its release
    assert loud(1.6) == 0


def test_envelope(tmp_path):
    """Half a second to the full loudness, then down to 20 dB below within a fifth of the decay of a second."""
    zone = [(soundfont.LOOPS, 1), (soundfont.ATTACK, -1200), (soundfont.DECAY, 0), (soundfont.SUSTAIN, 200)]
    font = soundfont.read(made(tmp_path / "a.sf2", [(zone, 0)]))
    x = soundfont.play(font, notes((0.0, 2.0, 57, 127)), 5, RATE)
    loud = lambda at: float(x[int(at * RATE) - 200 : int(at * RATE)].abs().max())  # noqa: E731
    assert loud(0.25) / loud(0.5) == pytest.approx(0.5, rel=0.05)
    assert loud(0.6) / loud(0.5) == pytest.approx(10**-0.5, rel=0.1)
    assert loud(0.8) / loud(0.5) == loud(1.8) / loud(0.5) == pytest.approx(0.1, rel=0.05)


def test_a_low_pass(tmp_path):
    low = 1200 * math.log2(110 / 8.176)
    font = soundfont.read(made(tmp_path / "a.sf2", [([(soundfont.LOOPS, 1), (soundfont.FILTER, round(low))], 0)]))
    x = soundfont.play(font, notes((0.0, 1.0, 45, 127), (2.0, 1.0, 69, 127)), 5, RATE)
    loud = lambda at: float(x[int(at * RATE) : int((at + 0.5) * RATE)].abs().max())  # noqa: E731
    assert loud(2.2) / loud(0.2) == pytest.approx(2**0.5 / (1 + 4.0**4) ** 0.5, rel=0.05)
    one = soundfont.play(font, notes((0.0, 0.5, 69, 127)), 5, RATE)
    assert float(one[-5:].abs().max()) < 2e-3 * float(one.abs().max())  # its beginning is not heard at its end


@pytest.mark.parametrize(
    "zone",
    [
        [(soundfont.COARSE, 32767)], [(soundfont.COARSE, -32768)], [(soundfont.ATTENUATION, -32768)],
        [(soundfont.START, -5000)], [(soundfont.LOOPS, 1), (soundfont.LOOP_START, -5000)], [(soundfont.ATTACK, 32767)],
        [(soundfont.END, 32767), (soundfont.START, 32767)], [(soundfont.RELEASE, 32767)], [(soundfont.FILTER, -32768)],
    ],
)  # fmt: skip
def test_absurd_numbers_are_silent_or_finite(tmp_path, zone):
    font = soundfont.read(made(tmp_path / "a.sf2", [(zone, 0)]))
    x = soundfont.play(font, notes((0.0, 0.2, 57, 100)), 5, RATE)
    assert x.isfinite().all() and (len(x) == 0 or x.abs().max() <= 1)


@pytest.mark.parametrize("sample", [99, -1, 2])  # 2 ends the list
def test_samples_that_are_not_there(tmp_path, sample):
    with pytest.raises(DataError, match="is damaged"):
        soundfont.read(made(tmp_path / "a.sf2", [([], sample)]))


def test_what_is_no_soundfont(tmp_path):
    path = tmp_path / "a.sf2"
    path.write_bytes(b"RIFF1234WAVE")
    with pytest.raises(DataError, match="is not a soundfont"):
        soundfont.read(path)
    with pytest.raises(DataError, match="is compressed"):
        soundfont.read(made(path, kind=0x11))
    whole = made(path).read_bytes()
    for size in range(12, len(whole) - 300, 401):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match="is damaged"):
            soundfont.read(path)
    with pytest.raises(DataError, match="no instrument of number 3"):
        soundfont.play(soundfont.read(made(path)), notes((0.0, 1.0, 60, 100)), 3, RATE)
    with pytest.raises(DataError, match="cannot read"):
        soundfont.read(tmp_path / "nowhere")
