"""Notes played by recorded instruments: soundfonts of version 2 (the SoundFont specification 2.04, E-mu 2006).

Read are samples with their loops, keys, velocities, tuning, loudness, volume envelopes and a fixed low pass; what an
instrument modulates besides is left out, and all is heard in mono. Axis: n samples.
"""

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lib.cache import cache_dir, keep
from lib.data.files import content
from lib.data.sources import Source, fetch
from lib.data.voices import Notes
from lib.faults import DataError
from lib.sound import normalised

TIMGM = Source(
    file="pretty_midi-0.2.11.post0-py3-none-any.whl", package="pretty_midi==0.2.11.post0", size=5_597_222,
    licence="Tim Brechbill's TimGM6mb, GPL-2.0, in pretty_midi",
    sha256="a3e2321736245a9c92259716d85a4762f16b7bde2f591fb0dba95bdb6e793d8a",
)  # fmt: skip
LARGEST = 12_000  # cents by which a sample is played higher or lower, at most
LONGEST = 2.0  # seconds that a note goes on for when it is released, at most

# Generators by their numbers in the specification (section 8.1.2), and what they are where nothing is said.
START, END, LOOP_START, LOOP_END = 0, 1, 2, 3
FILTER, ATTACK, HOLD, DECAY, SUSTAIN, RELEASE = 8, 34, 35, 36, 37, 38
INSTRUMENT, KEYS, VELOCITIES, ATTENUATION, COARSE, FINE, SAMPLE, LOOPS, SCALE, ROOT = (
    41, 43, 44, 48, 51, 52, 53, 54, 56, 58,
)  # fmt: skip
FAR = {START: 4, END: 12, LOOP_START: 45, LOOP_END: 50}  # the same in steps of 32,768 samples
USUAL = {FILTER: 13500, ATTACK: -12000, HOLD: -12000, DECAY: -12000, RELEASE: -12000, SCALE: 100, ROOT: -1}
ADDED = (FILTER, ATTACK, HOLD, DECAY, SUSTAIN, RELEASE, ATTENUATION, COARSE, FINE, SCALE)  # to the instrument's own

_WORD = "<u2"
_LAYOUT = {
    "phdr": [("name", "S20"), ("preset", _WORD), ("bank", _WORD), ("bag", _WORD), ("rest", "V12")],
    "pbag": [("gen", _WORD), ("mod", _WORD)],
    "pgen": [("oper", _WORD), ("amount", "<i2")],
    "inst": [("name", "S20"), ("bag", _WORD)],
    "ibag": [("gen", _WORD), ("mod", _WORD)],
    "igen": [("oper", _WORD), ("amount", "<i2")],
    "shdr": [
        ("name", "S20"), ("start", "<u4"), ("end", "<u4"), ("loop_start", "<u4"), ("loop_end", "<u4"), ("rate", "<u4"),
        ("pitch", "u1"), ("correction", "i1"), ("link", _WORD), ("kind", _WORD),
    ],
}  # fmt: skip

Zone = dict[int, int]


class Soundfont(NamedTuple):
    """`presets`: of bank 0, by their General MIDI number from 0, each with (its zones, those of its instrument)."""

    samples: Float[Tensor, "n"]
    headers: np.ndarray
    presets: dict[int, list[tuple[Zone, list[Zone]]]]


def timgm(data_dir: Path | None = None) -> Path:
    """TimGM6mb.sf2, a small one of all General MIDI instruments, fetched if it is not there. Raises DataError."""
    kept = cache_dir() / "data" / "TimGM6mb.sf2"
    if not kept.exists():
        path = fetch(TIMGM, data_dir)
        try:
            with zipfile.ZipFile(path) as archive:
                keep(kept, archive.read("pretty_midi/TimGM6mb.sf2"))
        except (zipfile.BadZipFile, KeyError) as error:
            raise DataError(f"{path} has no soundfont: {error}") from error
    return kept


def read(path: Path) -> Soundfont:
    """Raises DataError for what is no soundfont, or one whose samples are compressed (.sf3)."""
    raw = content(path)
    if raw[:4] != b"RIFF" or raw[8:12] != b"sfbk":
        raise DataError(f"{path} is not a soundfont: it does not begin as one. Choose a file with the ending .sf2")
    try:
        chunks = dict(_chunks(raw, 12, len(raw), within=True))
        tables = {name: np.frombuffer(chunks[name], layout) for name, layout in _LAYOUT.items()}
        if (tables["shdr"]["kind"][:-1] & 0x10).any():
            raise DataError(f"{path} is compressed (.sf3): take it as .sf2")
        samples = torch.from_numpy(np.frombuffer(chunks["smpl"], "<i2").astype(np.float32) / 32768)
        instruments = list(_zones(tables["inst"]["bag"], tables["ibag"]["gen"], tables["igen"], SAMPLE))
        presets = dict[int, list[tuple[Zone, list[Zone]]]]()
        zones = _zones(tables["phdr"]["bag"], tables["pbag"]["gen"], tables["pgen"], INSTRUMENT)
        for header, found in zip(tables["phdr"], zones, strict=False):
            if header["bank"] == 0:
                presets[int(header["preset"])] = [(zone, instruments[zone[INSTRUMENT]]) for zone in found]
        linked = [zone[SAMPLE] for zones in instruments for zone in zones]
        if len(samples) < 2 or min(linked, default=0) < 0 or max(linked, default=0) > len(tables["shdr"]) - 2:
            raise IndexError("samples that are not there")
    except (KeyError, IndexError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error!r}. Get it again") from error
    return Soundfont(samples, tables["shdr"], presets)


def _chunks(raw: bytes, at: int, end: int, within: bool) -> Iterator[tuple[str, bytes]]:
    """(name, content) of all chunks, and of those `within` the lists among them."""
    while at + 8 <= end:
        name, size = raw[at : at + 4], int.from_bytes(raw[at + 4 : at + 8], "little")
        if name == b"LIST" and within:
            yield from _chunks(raw, at + 12, min(at + 8 + size, end), False)
        else:
            yield name.decode("latin1"), raw[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _zones(bags: np.ndarray, firsts: np.ndarray, gens: np.ndarray, link: int) -> Iterator[list[Zone]]:
    """Of each preset or instrument the zones that have a `link`, with what its first one says for all."""
    for begin, end in zip(bags[:-1].tolist(), bags[1:].tolist(), strict=True):
        common, found = Zone(), list[Zone]()
        for bag in range(begin, end):
            some = gens[int(firsts[bag]) : int(firsts[bag + 1])]
            zone = common | dict(zip(some["oper"].tolist(), some["amount"].tolist(), strict=True))
            if zone.get(link, 0) < 0:
                raise IndexError(f"bag {bag}")
            if link in zone:
                found.append(zone)
            elif bag == begin:
                common = zone
        yield found


def play(font: Soundfont, notes: Notes, program: int, rate: int) -> Float[Tensor, "n"]:
    """The notes on an instrument, by its General MIDI number from 0; `rate`: samples a second. Raises DataError where
    there is no such instrument."""
    if program not in font.presets:
        raise DataError(f"the soundfont has no instrument of number {program}: choose another one")
    ends = notes.start + notes.duration + LONGEST
    out = torch.zeros(math.ceil(float(ends.max()) * rate) + 1 if len(ends) else 0)
    for start, duration, pitch, velocity, _ in zip(*(column.tolist() for column in notes), strict=True):
        begin = round(start * rate)
        for zone in _sounding(font, program, pitch, velocity):
            tone = _tone(font, zone, pitch, velocity, duration, rate)
            out[begin : begin + len(tone)] += tone[: len(out) - begin]
    heard = out.abs() > 1e-4 * out.abs().amax() if len(out) else out
    return normalised(out[: int(heard.nonzero().max()) + 1] if heard.any() else out)


def _sounding(font: Soundfont, program: int, pitch: int, velocity: int) -> Iterator[Zone]:
    """What sounds of the instrument for a key that is pressed so hard, with all that is said of it."""

    def within(zone: Zone) -> bool:
        keys, hard = zone.get(KEYS, 127 << 8) & 0xFFFF, zone.get(VELOCITIES, 127 << 8) & 0xFFFF
        return keys & 255 <= pitch <= keys >> 8 and hard & 255 <= velocity <= hard >> 8

    for preset, instrument in font.presets[program]:
        for zone in filter(within, instrument if within(preset) else []):
            whole = USUAL | zone
            yield whole | {g: whole.get(g, 0) + preset[g] for g in ADDED if g in preset}


def _tone(font: Soundfont, zone: Zone, pitch: int, velocity: int, duration: float, rate: int) -> Float[Tensor, "n"]:
    header = font.headers[zone[SAMPLE]]
    first, last, loop_start, loop_end = (
        int(header[name]) + zone.get(g, 0) + 32768 * zone.get(FAR[g], 0)
        for name, g in (("start", START), ("end", END), ("loop_start", LOOP_START), ("loop_end", LOOP_END))
    )
    root = zone[ROOT] if zone[ROOT] >= 0 else int(header["pitch"])
    cents = (pitch - root) * zone[SCALE] + 100 * zone.get(COARSE, 0) + zone.get(FINE, 0) + int(header["correction"])
    seconds = {g: 2 ** (zone[g] / 1200) for g in (ATTACK, HOLD, DECAY, RELEASE)}
    release = min(seconds[RELEASE], LONGEST)
    t = torch.arange(math.ceil((duration + release) * rate), dtype=torch.float64)
    at = first + t * (2 ** (min(max(cents, -LARGEST), LARGEST) / 1200) * int(header["rate"]) / rate)
    if zone.get(LOOPS, 0) & 1 and loop_end > loop_start:
        at = torch.where(at < loop_end, at, loop_start + (at - loop_start) % (loop_end - loop_start))
    sounds = (at >= 0) & (at < min(last, len(font.samples) - 1))
    index = at.long().clamp(0, len(font.samples) - 2)
    x = torch.lerp(font.samples[index], font.samples[index + 1], (at - index).clamp(0, 1).float()) * sounds
    if zone[FILTER] < USUAL[FILTER]:  # before the envelope, so that what rings on is let go as well
        edge, spectrum = 8.176 * 2 ** (zone[FILTER] / 1200), torch.fft.rfft(x, 2 * len(x))
        frequency = torch.arange(len(spectrum)) * rate / max(2 * len(x), 1)
        x = torch.fft.irfft(spectrum / (1 + (frequency / edge) ** 4).sqrt(), 2 * len(x))[: len(x)]

    t = (t / rate).float()
    rise, fall = t / seconds[ATTACK], (t - seconds[ATTACK] - seconds[HOLD]) / seconds[DECAY]
    quieter = (100 * fall.clamp(min=0)).clamp(max=max(0.0, zone.get(SUSTAIN, 0) / 10))  # in dB: 100 in the whole decay
    let_go = 100 * ((t - duration) / release).clamp(min=0)
    decibels = quieter + let_go + max(0, zone.get(ATTENUATION, 0)) / 10
    return x * rise.clamp(max=1) * 10 ** (-decibels / 20) * (velocity / 127) ** 2
