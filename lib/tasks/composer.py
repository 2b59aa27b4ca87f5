"""A model that writes chorales: what it is shown, how likely it finds Bach's, and how far its own are from them.

Axes: n pieces, t sixteenths, v voices.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from lib import plot, random, run, sound, tree
from lib.data import excerpts, sheet, synthesis, voices
from lib.data.chorales import Chorales
from lib.data.pieces import Piece
from lib.models import chorale
from lib.models.chorale import Config, Music
from lib.random import Key
from lib.tasks import music
from lib.tree import Tree

BARS = 8  # of what is written to be measured, at most
ROWS = 32  # excerpts at a time
TEMPO = 80.0
TEMPERATURE, TOP_P = 0.95, 0.95  # of what is written: chosen beside validation chorales (LOG.md)


class Composer(NamedTuple):
    """`length`: sixteenths of the longest piece. `data`: what it learnt from, which is not always at hand."""

    params: Tree
    cfg: Config
    length: int
    device: torch.device
    data: Callable[[], Chorales]

    def write(
        self, given: Music, known: Bool[Tensor, "n t v"], key: Key | None, temperature: float = 1.0, top_p: float = 1.0
    ) -> Int[Tensor, "n t v"]:
        """All cells that are not known."""
        given, known = tree.to((given, known), self.device)
        return chorale.generate(
            self.params, given, known, key, cfg=self.cfg, temperature=temperature, top_p=top_p
        ).cpu()

    def chorales(self, n: int, bars: int, key: Key) -> Int[Tensor, "n t v"]:
        """From nothing, each of so many bars of four quarters, with its end at the last one's."""
        given = blank(n, voices.BAR * bars)
        return self.write(given, torch.zeros_like(given.cells, dtype=torch.bool), key, TEMPERATURE, TOP_P)

    def bars(self) -> int:
        """Of what is written to be measured."""
        return min(BARS, self.length // voices.BAR)

    def attention(self, cells: Int[Tensor, "t v"]) -> UInt8[Tensor, "1 h w"]:
        """A sheet with a row for each block and a column for each head: where each sixteenth, from the top down, looks
        back to, from left to right; the brighter the more."""
        piece = tree.to(blank(1, len(cells))._replace(cells=cells[None]), self.device)
        found = looked(self.params, piece, cfg=self.cfg)[:, 0].float()
        most = found.amax((-1, -2), keepdim=True)
        return plot.tile((found / most).sqrt().flatten(0, 1)[:, None], found.shape[1])

    def nats(self, pieces: Sequence[Piece], shown: Sequence[int] = ()) -> dict[str, float]:
        """Negative log-likelihood of all cells but those of the voices `shown`, which are given from end to end: per
        cell, per sixteenth of all these voices, and per note that begins."""
        found = excerpts.scored_once(pieces, self.length)
        total = cells = notes = 0.0
        for i in range(0, len(found), ROWS):
            batch = tree.to(tree.stack(found[i : i + ROWS]), self.device)
            given = torch.zeros_like(batch.cells, dtype=torch.bool)
            for voice in shown:
                given[..., voice] = batch.left > 0
            counts = batch.counts[..., None] & ~given
            each = nats(self.params, Music(batch.cells, batch.place, torch.zeros_like(batch.left)), given, cfg=self.cfg)
            total += float((each * counts).sum(dtype=torch.float64))
            cells += int(counts.sum())
            notes += int((counts & (batch.cells >= 2)).sum())
        voiced = chorale.VOICES - len(shown)
        return {"cell": total / cells, "sixteenth": total * voiced / cells, "note": total / max(1, notes)}


@torch.no_grad()
def nats(p: Tree, music: Music, given: Bool[Tensor, "b t v"], *, cfg: Config) -> Float[Tensor, "b t v"]:
    """-log p of every cell."""
    found = chorale.apply(p, music, given, cfg=cfg).float()
    return F.cross_entropy(rearrange(found, "b t v k -> b k t v"), music.cells, reduction="none")


@torch.no_grad()
def looked(p: Tree, music: Music, *, cfg: Config) -> Float[Tensor, "layers b h t t"]:
    """How much each sixteenth's attention, a row, goes to each one before, in every block and head. Nothing is
    given."""
    known = chorale.read_given(p, music, torch.zeros_like(music.cells, dtype=torch.bool), cfg=cfg)
    _, layers = chorale.features(
        p,
        chorale.earlier(music.cells, chorale.pitches(music.cells)),
        music.place,
        music.left,
        known,
        cfg=cfg,
        weights=True,
    )
    return torch.stack([layer["weights"] for layer in layers])


def blank(n: int, t: int) -> Music:
    place = torch.arange(t).expand(n, t)
    return Music(torch.zeros(n, t, chorale.VOICES, dtype=torch.int64), place % voices.BAR, t - place)


def windows(cells: Int[Tensor, "n t v"]) -> Int[Tensor, "m t2 v"]:
    """Two bars each, of pieces that begin with a bar of four quarters, for lib/tasks/music.py."""
    return music.windows([Piece("", x, torch.arange(len(x)) % voices.BAR, voices.BAR, 0) for x in cells])


def watch(here: run.Place, step: int, model: Composer, corpus: Chorales, key: Key) -> None:
    """Figures on validation pieces and on what is written, beside those of Bach, with its sound and its notes."""
    value, given = model.nats(corpus.val)["cell"], model.nats(corpus.val, [0])["cell"]
    written = model.chorales(8, model.bars(), key)
    found = music.harmony(windows(written))
    bach = music.harmony(music.windows(corpus.val))
    here.log(step, {"val/loss": value, "val/loss_given_soprano": given})
    here.log(step, {f"written/{name}": x for name, x in found.items()})
    here.log(step, {f"bach/{name}": x for name, x in bach.items()})
    show(here, step, written[0])
    here.writer.add_image("attention/heads", model.attention(written[0]), step)
    here.write(
        f"step {step}: held out {value:.3f} nats a cell, {given:.3f} given the soprano; chords on the beat "
        f"{found['chord']:.2f} (Bach {bach['chord']:.2f}), parallels {found['parallels']:.1f} ({bach['parallels']:.1f})"
    )


def show(here: run.Place, step: int, cells: Int[Tensor, "t v"]) -> None:
    notes = voices.notes(cells, TEMPO)
    here.writer.add_figure("samples/notes", sheet.pianoroll(notes, voices.NAMES), step)
    sound.add_sound(here.writer, "samples/sound", synthesis.synthesise(notes), synthesis.RATE, step)


def evaluate(
    here: run.Place, step: int, model: Composer, corpus: Chorales, n: int
) -> tuple[dict[str, float], list[str]]:
    """Figures on test pieces, and of n chorales beside what test pieces have, with the lines to print."""
    free, given = model.nats(corpus.test), model.nats(corpus.test, [0])
    lines = [
        f"{'nats on test chorales':<46}{'a cell':>10}{'a sixteenth':>13}{'a note':>10}",
        *(
            f"{name:<46}{x['cell']:10.4f}{x['sixteenth']:13.3f}{x['note']:10.3f}"
            for name, x in (("all voices", free), ("alto, tenor and bass, the soprano given", given))
        ),
    ]
    key = random.key(3, model.device)
    written = torch.cat(
        [model.chorales(min(ROWS, n - i), model.bars(), random.fold_in(key, i)) for i in range(0, n, ROWS)]
    )
    training = music.windows(corpus.train)
    own = music.scores(windows(written), training)
    bach = music.scores(music.windows(corpus.test), training)
    lines += ["", *music.table(own, bach, f"{n} chorales of {model.bars()} bars")]
    show(here, step, written[0])
    results = {"test/loss": free["cell"], "test/loss_given_soprano": given["cell"]}
    results |= {f"test/{name}": x for name, x in own.items()}
    return results | {f"bach/{name}": x for name, x in bach.items()}, lines
