"""lib/data/sheet.py: bars where the notes are, and scores that show their staves."""

import pytest
import torch

from lib import plot
from lib.data import musicxml, sheet, voices

CELLS = torch.zeros(16, 4, dtype=torch.int64)
CELLS[0] = torch.tensor([40, 30, 20, 10])
CELLS[8] = torch.tensor([0, 32, 1, 12])


def test_bars_stand_where_the_notes_are():
    figure = sheet.pianoroll(voices.notes(CELLS, 60.0), voices.NAMES)
    [axes] = figure.axes
    of_voice = [[bar.get_bbox() for bar in voice] for voice in axes.containers]
    assert [[round(bar.y0 + 0.4) for bar in bars] for bars in of_voice] == [[74], [64, 66], [54], [44, 46]]
    assert [[bar.x0 for bar in bars] for bars in of_voice] == [[0], [0, 2], [0], [0, 2]]
    assert [[round(bar.x1, 1) for bar in bars] for bars in of_voice] == [[4], [2, 4], [2], [2, 4]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(voices.NAMES)
    assert "C4" in [label.get_text() for label, at in zip(axes.get_yticklabels(), axes.get_yticks()) if at == 60]  # noqa: B905
    assert plot.encoded(figure, ".png").startswith(b"\x89PNG")


def test_no_notes_are_an_empty_roll():
    figure = sheet.pianoroll(voices.notes(torch.ones(4, 4, dtype=torch.int64), 60.0), voices.NAMES)
    assert plot.encoded(figure, ".png").startswith(b"\x89PNG")


def test_a_score_has_staves_and_notes():
    pytest.importorskip("verovio")
    score = lambda cells: sheet.score(musicxml.written(cells, torch.arange(16), 0, "a", 60.0))  # noqa: E731
    picture, resting = score(CELLS), score(torch.ones(16, 4, dtype=torch.int64))
    assert picture.shape[::2] == (3, sheet.WIDTH) and picture.dtype == torch.uint8
    dark = (picture[0, :, 240:500] < 128).float().mean(1) > 0.9
    assert int((dark[1:] & ~dark[:-1]).sum()) == 20  # lines: four staves of five
    assert len(picture[0].unique()) > 20  # clefs and heads have smooth edges
    assert picture.shape != resting.shape or (picture != resting).sum() > 1000


def test_without_verovio_there_is_no_score(monkeypatch):
    monkeypatch.setattr(sheet, "find_spec", lambda name: None)
    assert sheet.score(b"") is None
