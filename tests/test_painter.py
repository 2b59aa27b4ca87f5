"""lib/tasks/painter.py and paint.py, of a model that is known: each sentence has one small picture, or any of a few."""

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lib import diffusion, random
from lib.answers import Note, Picture, Table
from lib.data import captioned, captions, petals, tokens
from lib.data.captioned import Prompts
from lib.data.paraphrases import PARAPHRASES
from lib.data.scenes import SCENES
from lib.faults import DataError, RunError
from lib.tasks import obedience, paint, painter, reader

KNOWN = captions.vocabulary(
    [text for name, of in petals.NAMES.items() for value in of for text in captions.short(name, value)]
)
SIZE = 4
FLOWERS = SCENES["default"]
ANYTHING = torch.tensor(0.0)


def shade(ids):
    """What is drawn for a sentence: the grey of its last word; nothing asked for is grey of 0."""
    last = ids.gather(1, (ids != captions.PAD).sum(1, keepdim=True) - 1)[:, 0]
    return torch.where(last == captions.START, ANYTHING, 0.1 + last / len(KNOWN) / 2)


def network_of(mean, spread=0.2):
    """The network that makes the ideal denoiser of normal pictures of this mean: `diffusion.denoiser` undone."""

    def network(x, label):
        sigma = (4 * label).exp()
        scales = diffusion.edm(sigma)
        at = lambda s: s.reshape(-1, 1, 1, 1)  # noqa: E731
        noisy, centre = x / at(scales.into), mean.reshape(-1, 1, 1, 1).expand(len(x), 1, 1, 1)
        x0 = (noisy * spread**2 + centre * at(sigma) ** 2) / (spread**2 + at(sigma) ** 2)
        return (x0 - at(scales.skip) * noisy) / at(scales.out)

    return network


def enlarged(small, noise, level):
    large = F.interpolate(small, scale_factor=2)

    def network(x, label):
        scales = diffusion.edm((4 * label).exp())
        at = lambda s: s.reshape(-1, 1, 1, 1)  # noqa: E731
        return (large - at(scales.skip) * x / at(scales.into)) / at(scales.out)

    return network


def heeded(x, label, ids):
    """Each word in a quarter of its own, by its place in the sentence."""
    found = torch.zeros(len(x), ids.shape[1], 2, 2)
    for i in range(ids.shape[1]):
        found[:, i, i % 4 // 2, i % 2] = 1.0
    return found


MODEL = painter.Painter(
    lambda ids: network_of(shade(ids)),
    enlarged,
    heeded,
    reader.own(KNOWN, 12),
    SIZE,
    torch.device("cpu"),
    lambda: None,
    FLOWERS,
)


def test_each_sentence_has_its_picture():
    texts = ["a flower with blue petals", "a flower with red petals"]
    x = MODEL.drawn(texts, [0, 1], 0, guidance=1.0)
    assert x.shape == (2, 3, 8, 8)
    small = MODEL.sketched(MODEL.noise(range(400), 0, SIZE), MODEL.ids(texts[:1]).expand(400, -1), 1.0, 60)
    wanted = float(shade(MODEL.ids(texts))[0])
    assert abs(float(small.mean()) - wanted) < 0.01 and abs(float(small.std()) - 0.2) < 0.01
    torch.testing.assert_close(MODEL.drawn(texts[1:], [1], 0, guidance=1.0), x[1:])  # whatever else is drawn
    assert (MODEL.drawn(texts[1:], [0], 0, guidance=1.0) - x[1:]).abs().max() > 0.01


def test_many_are_drawn_in_parts(monkeypatch):
    texts = ["a flower with blue petals"] * 5
    whole = MODEL.drawn(texts, range(5), 0)
    monkeypatch.setattr(painter, "AT_ONCE", 2)
    torch.testing.assert_close(MODEL.drawn(texts, range(5), 0), whole)


def test_guidance():
    ids, sigma = MODEL.ids(["a flower with blue petals"]), torch.tensor(1.0)
    x = random.normal(random.key(0), (1, 3, SIZE, SIZE)) * 0.1
    told, untold = (MODEL.denoiser(of, 1.0)(x, sigma) for of in (ids, MODEL.ids([""])))
    torch.testing.assert_close(MODEL.denoiser(ids, 2.0)(x, sigma), 2 * told - untold)
    torch.testing.assert_close(MODEL.denoiser(ids, 0.0)(x, sigma), untold)
    for outside in (0.1, 20.0):
        at = torch.tensor(outside)
        assert torch.equal(MODEL.denoiser(ids, 0.0)(x, at), MODEL.denoiser(MODEL.ids([""]), 1.0)(x, at))
        assert torch.equal(MODEL.denoiser(ids, 2.0)(x, at), MODEL.denoiser(ids, 1.0)(x, at))


def test_what_is_edited_under_the_same_words_comes_back_and_under_others_changes():
    x = F.interpolate(0.3 + 0.2 * random.normal(random.key(1), (2, 3, SIZE, SIZE)), scale_factor=2).clamp(-0.9, 0.9)
    red, blue = (["a flower with red petals"] * 2, ["a flower with blue petals"] * 2)
    torch.testing.assert_close(MODEL.edited(x, red, red, 1.0, 40), x, atol=0.02, rtol=0)
    moved = MODEL.edited(x, red, blue, 1.0, 40) - x
    apart = float(shade(MODEL.ids(blue))[0] - shade(MODEL.ids(red))[0])
    torch.testing.assert_close(moved, torch.full_like(moved, apart), atol=0.03, rtol=0)


def test_a_picture_is_described_by_the_words_that_explain_it():
    values = petals.NAMES["petals"]
    told = painter.Painter(lambda ids: network_of(0.05 * ids[:, 4] - 1, 0.03), *MODEL[1:])
    numbers = MODEL.ids([captions.short("petals", value)[0] for value in values])[:, 4]
    x = (0.05 * numbers - 1)[:, None, None, None].expand(-1, 3, 2 * SIZE, 2 * SIZE)
    found = told.described(x, FLOWERS._replace(names={"petals": values}))["petals"]
    assert found.argmax(1).tolist() == list(range(len(values))) and found.max(1).values.min() > 0.4
    torch.testing.assert_close(found.sum(1), torch.ones(len(values)))


def test_what_is_obeyed_is_counted():
    class Seeing:
        def probabilities(self, x):
            return {"petals": torch.eye(8)[[0, 1, 2, 3]], "double": torch.eye(2)[[0, 0, 1, 1]]}

    wanted = {"petals": torch.tensor([0, 1, 2, 7]), "double": torch.tensor([0, 1, 1, 0])}
    told = {"petals": torch.tensor([True] * 4), "double": torch.tensor([True, False, True, True])}
    prompts = Prompts(["a flower with blue petals"] * 4, wanted, told)
    found, x = obedience.obeyed(MODEL, Seeing(), prompts, 1.0)
    assert found == pytest.approx({"petals": 0.75, "double": 2 / 3, "all": 0.75}) and x.shape == (4, 3, 8, 8)


def test_what_is_changed_and_what_is_kept_is_counted():
    class Reading:  # the grey of a picture is what it shows of both
        def probabilities(self, x):
            return {"petals": torch.eye(8)[x[:, 0, 0, 0].long()], "double": torch.eye(2)[x[:, 1, 0, 0].long()]}

    shows = lambda *pairs: torch.tensor(pairs, dtype=torch.float32)[:, :, None, None]  # noqa: E731
    before, after = shows((0, 0), (1, 0), (2, 1), (3, 1)), shows((5, 0), (5, 1), (4, 1), (3, 0))
    wanted = {"petals": torch.tensor([5, 5, 5, 3]), "double": torch.tensor([0, 0, 1, 0])}
    told = {"petals": torch.tensor([True, True, True, False]), "double": torch.tensor([False, False, False, True])}
    found = obedience.moved(Reading(), before, after, Prompts([""] * 4, wanted, told))
    assert found == {"obeyed": 0.75, "kept": 0.75}


def test_a_sentence_is_preferred_that_explains_its_picture():
    texts = ["blue", "red", "white", "yellow"]
    grey = shade(MODEL.ids(texts))[:, None, None, None].expand(-1, 3, 2 * SIZE, 2 * SIZE)
    assert obedience.preferred(MODEL, grey, texts) == 1
    assert obedience.preferred(MODEL, grey.roll(-1, 0), texts) == 0
    assert obedience.preferred(MODEL, grey, texts[:1] * 4) == 0.5  # nothing to prefer


# ---- as a person asks ----


def asked(use):
    return list(paint.answers(use, MODEL))


def test_sheets():
    two = ("a flower with blue petals", "a flower with red petals")
    (sheet,) = asked(paint.Draw(text=two, n=3))
    assert isinstance(sheet, Picture) and sheet.content.shape == (3, 2 * 10 + 2, 3 * 10 + 2)
    (sweep,) = asked(paint.Draw(text=two, sweep=True))
    assert sweep.content.shape == (3, 2 * 10 + 2, len(paint.SWEEP) * 10 + 2)


def test_words_are_shown_where_they_are_heeded():
    said, found = MODEL.words(torch.zeros(1, 3, 8, 8), "a flower with blue petals")
    assert said == ["a", "flower", "with", "blue", "petals"] and found.shape == (5, 8, 8)
    assert found[0, 0, -1] == 1 and found[0, -1, 0] == 0 and found[1, -1, 0] == 1  # the start has no map
    note, sheet = asked(paint.Words(text="a flower with blue petals"))
    assert "the picture, a, flower, with, blue, petals" in note.text and sheet.content.shape == (3, 12, 62)


def test_notes_on_sentences():
    empty, _ = asked(paint.Draw(text=("",), n=1))
    assert isinstance(empty, Note) and "no words" in empty.text
    odd, _ = asked(paint.Draw(text=("a flower with red blue petals",), n=1))
    assert "warning: 'red' and 'blue' cannot both be" in odd.text


def test_descriptions(tmp_path):
    path = tmp_path / "grey.png"
    Image.new("RGB", (8, 8), (90, 90, 90)).save(path)
    (table,) = asked(paint.Describe(pictures=(str(path),)))
    assert isinstance(table, Table) and [row[1] for row in table.rows] == list(petals.NAMES)


def test_bad_questions():
    with pytest.raises(DataError, match="'crimson' was in no caption"):
        asked(paint.Draw(text=("a crimson flower",)))
    with pytest.raises(DataError, match="at most 11"):
        asked(paint.Draw(text=("a " * 12,)))
    with pytest.raises(RunError, match="--after SENTENCE"):
        asked(paint.Edit())
    with pytest.raises(RunError, match="describe needs drawn ones"):
        list(paint.answers(paint.Describe(), MODEL._replace(scene=None)))
    with pytest.raises(ValueError, match="guidance"):
        paint.Draw(guidance=-1.0)


# ---- readers ----


def test_a_reader_of_pieces():
    read = reader.pieces(tokens.wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "##dish"]), 4)
    assert read.encode(["A reddish", "", "red"]).tolist() == [[2, 5, 6, 7], [2, 0, 0, 0], [2, 6, 0, 0]]
    assert read.tokens("a reddish") == ["a", "red", "##dish"] and read.known("anything") == "anything"
    with pytest.raises(DataError, match="at most 3, in 'a reddish red'"):
        read.encode(["a reddish red"])


def test_a_reader_of_words_leaves_out_what_it_does_not_know():
    read = reader.own(KNOWN, 12)
    assert (
        read.known("a crimson flower with blue petals") == "a flower with blue petals" and read.known("crimson") == ""
    )


def test_paraphrases_tell_what_is_there():
    asked, vocabulary = captioned.paraphrases(FLOWERS), captioned.vocabulary(captioned.Captioned(None, {}, FLOWERS))
    assert len(asked.texts) == len(set(asked.texts)) == 50
    for text, values in PARAPHRASES:
        assert all(value in petals.NAMES[name] for name, value in values.items()) and values
        assert set(captions.words(text)) - set(vocabulary), text  # none is a sentence of the grammar
    for name in petals.NAMES:
        assert asked.told[name].any()
