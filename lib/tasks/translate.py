"""Translation: texts of any length in and out, where the model looks, and what a person asks for."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from jaxtyping import Float
from tokenizers import Tokenizer
from torch import Tensor
from tyro.conf import Suppress

from lib import decode, plot, random, run
from lib.answers import Answer, Note, Picture, Table, Text
from lib.data import files, pairs, sentences
from lib.data.tokens import END, START, pieces
from lib.data.tokens import decode as to_text
from lib.data.tokens import encode as to_ids
from lib.faults import RunError
from lib.models import seq2seq
from lib.random import Key
from lib.tree import Tree


class Translator(NamedTuple):
    """Parameters with their tokenizers: text in, text out. `longest`: tokens of a sentence the model has seen."""

    params: Tree
    source: Tokenizer
    target: Tokenizer
    cfg: seq2seq.Config
    longest: int

    @torch.no_grad()
    def translate(
        self, texts: list[str], beams: int = 1, alpha: float = 0.6, key: Key | None = None, **sampling: float
    ) -> list[list[tuple[str, float]]]:
        """For each sentence its translations with scores, best first: `beams` of them from beam search, or a single
        one, greedy or with a key sampled (`sampling` as in `decode.generate`), whose score is 0. Sentences are
        batched with others of like length; tokens past `longest` are cut off."""
        ids = [[*row[: self.longest - 1], END] for row in to_ids(self.source, texts)]
        out: list[list[tuple[str, float]]] = [[] for _ in texts]
        order = sorted(range(len(texts)), key=lambda i: len(ids[i]))
        for i in range(0, len(order), 128):
            chunk = order[i : i + 128]
            batch_key = random.fold_in(key, i)
            found = self._batch([ids[j] for j in chunk], beams, alpha, batch_key, **sampling)
            for j, hypotheses in zip(chunk, found, strict=True):
                out[j] = hypotheses
        return out

    def _batch(
        self, rows: list[list[int]], beams: int, alpha: float, key: Key | None, **sampling: float
    ) -> list[list[tuple[str, float]]]:
        source = seq2seq.one_a_row(rows, self.device)
        length = min(self.longest, 2 * source.ids.shape[1] + 8)  # no sensible translation is longer
        step, cache = seq2seq.start(self.params, source, beams, length, cfg=self.cfg)
        first = torch.full((len(rows),), START, device=self.device)
        if beams == 1:
            ids = decode.generate(step, cache, first, length, END, key, **sampling)  # type: ignore[arg-type]
            return [[(text, 0.0)] for text in to_text(self.target, ids.tolist())]
        found, scores = decode.beam_search(step, cache, first, length, END, beams, alpha)
        ranked = zip(found.tolist(), scores.tolist(), strict=True)
        return [list(zip(to_text(self.target, ids), values, strict=True)) for ids, values in ranked]

    @property
    def device(self) -> torch.device:
        return self.params["embed"]["source"].device

    @torch.no_grad()
    def attention_map(self, text: str, translation: str) -> tuple[Float[Tensor, "t s"], list[str], list[str]]:
        """Cross-attention of the last decoder layer, averaged over heads, with the target and source tokens: row t is
        where the model looks as it predicts target token t."""
        ids = [*to_ids(self.source, [text])[0][: self.longest - 1], END]
        target = to_ids(self.target, [translation])[0][: self.longest - 1]
        source, shifted = seq2seq.one_a_row([ids], self.device), seq2seq.one_a_row([[START, *target]], self.device)
        _, layers = seq2seq.apply(self.params, source, shifted, cfg=self.cfg, weights=True)
        w = layers[-1]["weights"][0].float().mean(dim=0).cpu()
        return w, pieces(self.target, [*target, END]), pieces(self.source, ids)

    def translate_texts(self, texts: list[str], *args: Any, **options: Any) -> list[list[tuple[str, float]]]:
        """`translate` for texts of any length: cut into sentences the model can hold, put together again. An empty
        text stays empty. The score of a text is the sum of its sentences'."""
        cut = [self.sentences(text) for text in texts]
        found = iter(self.translate([s for parts in cut for s in parts], *args, **options))
        out = []
        for parts in cut:
            hypotheses = list(zip(*(next(found) for _ in parts), strict=True))
            joined = [(sentences.joined(t for t, _ in ranks), sum(score for _, score in ranks)) for ranks in hypotheses]
            out.append(joined or [("", 0.0)])
        return out

    def strange(self, text: str) -> bool:
        """Whether most words have letters that the tokenizer does not know and spells in bytes."""
        words = [[c for c in word if c.isalpha()] for word in text.split()]
        words = [letters for letters in words if letters]
        spelled = sum(max(map(len, to_ids(self.source, letters))) > 2 for letters in words)  # space and letter: two
        return 2 * spelled > len(words)

    def sentences(self, text: str) -> list[str]:
        """A text in pieces that the model can hold: its sentences, and parts of one that is too long."""
        return [piece for sentence in sentences.sentences(text) for piece in sentences.pieces(sentence, self._fits)]

    def _fits(self, text: str) -> bool:
        return len(to_ids(self.source, [text])[0]) < self.longest


# ---- using it ----


@dataclass(frozen=True)
class Use(run.Typed):
    """Translate a text, a file line by line, or what is typed, with the latest finished run."""

    file: Path | None = None
    """A file to translate, line by line."""
    beam: run.Count = 1
    """Beams of the search; 1 is greedy. With more, all hypotheses of a text are shown with their scores."""
    temperature: run.Amount = 0.0
    """With more than 0 the model samples instead of searching."""
    top_k: run.Natural = 0
    """Sample among the k likeliest tokens; 0: among all."""
    top_p: run.Share = 1.0
    """Sample among the likeliest tokens that together have this probability."""
    seed: run.Seed = 0
    """Decides what is generated."""
    attention: run.NewFile | None = None
    """Where to draw the cross-attention of the text."""
    best: Suppress[bool] = False
    """Whether only the best translation is shown, whatever the number of beams: of lines that are typed."""

    hint: ClassVar[str] = "One sentence a line; an empty line ends."

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature > 0 and self.beam > 1:
            raise ValueError("--beam searches and --temperature samples: give one of them")
        if self.text is not None and self.file:
            raise ValueError("a text and --file: give one of them")

    def open(self) -> bool:
        return super().open() and self.file is None

    def line(self, text: str) -> Self:
        return replace(self, text=text, best=True, attention=None)


def answers(use: Use, translator: Translator) -> Iterator[Answer]:
    """The translation of the text, or of each line of the file: line n of the answer is that of line n. Raises
    DataError and RunError."""
    if use.file:
        given = files.lines(files.decoded(files.content(use.file), str(use.file)))
    else:
        given = [files.encodable(use.text or "")]
    lines = [pairs.clean(line) for line in given]
    if not any(lines):
        raise RunError(f"nothing to translate: {use.file or 'the text'} is empty")
    if any(translator.strange(line) for line in lines):
        yield Note("warning: the model has hardly seen this script; expect nonsense")
    options: dict[str, Any] = {}
    if use.temperature > 0:
        key = random.key(use.seed, translator.device)
        options = {"key": key, "temperature": use.temperature, "top_k": use.top_k, "top_p": use.top_p}
    found = translator.translate_texts(lines, use.beam, **options)
    if use.text is not None and use.beam > 1 and not use.best:
        yield Table(("score", "translation"), [(score, text) for text, score in found[0]], "{:8.3f}  {}")
    else:
        yield Text("".join(f"{hypotheses[0][0]}\n" for hypotheses in found))
    if use.text is not None and use.attention:
        weights = translator.attention_map(lines[0], found[0][0][0])
        yield Picture(plot.heatmap(*weights), use.attention, caption=None)
