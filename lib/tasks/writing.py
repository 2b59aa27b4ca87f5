"""Text that a language model writes: streamed, measured in bits per byte, checked for copies.

A `Writer` knows of its model only how it goes on and how likely it finds a text.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor
from tyro.conf import Positional, arg

from lib import random, run
from lib.answers import Answer, Note, Steps, Text
from lib.data import files, texts
from lib.faults import DataError
from lib.random import Key
from lib.tasks import likely

BREAK = "\n\n"  # a paragraph begins: what stands before any text, and the neutral prompt, where no token is for that
SHOWN = 200  # tokens of a sample
TOLD = 2000  # tokens of which it is told how probable each was
WAYS: dict[str, dict[str, float]] = {
    "temperature 0.5": {"temperature": 0.5},
    "temperature 1": {},
    "temperature 1.5": {"temperature": 1.5},
    "temperature 1, top-k 20": {"top_k": 20},
}


class GoOn(Protocol):
    def __call__(
        self, prompt: Int[Tensor, "1 t"], key: Key | None, *, room: int, **sampling: float
    ) -> Iterator[Int[Tensor, "1"]]:
        """Token after token behind the prompt, for ever; `sampling` as in `decode.pick`. `room`: how many are usually
        asked for."""


@dataclass(frozen=True)
class Writer:
    """A trained language model with a tokenizer that has a spelling for every text."""

    tokenizer: Tokenizer
    go_on: GoOn
    nats: Callable[[Int[Tensor, "n"]], float]
    """Summed negative log-likelihood of all tokens but the first."""
    logits: Callable[[Int[Tensor, "n"], int], Iterable[Float[Tensor, "t v"]]]
    """Of the tokens behind the first so many, of which there is one at least, in parts."""
    device: torch.device
    training: Callable[[], str]
    """The text that it learned from, which is not always at hand."""
    context: int | None = None
    """Tokens of the longest prompt, where there is one."""
    end: int | None = None
    """The token between two texts, where there is one: the neutral prompt, and where writing stops."""

    def neutral(self) -> Int[Tensor, "n"]:
        return texts.encode(self.tokenizer, BREAK) if self.end is None else torch.tensor([self.end])

    def ids(self, prompt: str) -> Int[Tensor, "n"]:
        """Raises DataError where the prompt is longer than the context."""
        ids = (texts.encode(self.tokenizer, prompt) if prompt else self.neutral()).to(self.device)
        if self.context is not None and len(ids) > self.context:
            raise DataError(f"the prompt has {len(ids)} tokens, the model's context {self.context}: shorten it")
        return ids

    def tokens(self, prompt: str, n: int, key: Key | None, **sampling: float) -> Iterator[int]:
        """n tokens behind the prompt, or fewer where the text ends, the likeliest or with a key sampled."""
        go_on = itertools.islice(self.go_on(self.ids(prompt)[None], key, room=n, **sampling), n)
        return itertools.takewhile(lambda token: token != self.end, map(int, go_on))

    def stream(self, prompt: str, n: int, key: Key | None, **sampling: float) -> Iterator[str]:
        """The text of `tokens`: each piece as soon as its characters are whole."""
        return texts.pieces(self.tokenizer, self.tokens(prompt, n, key, **sampling))

    def steps(self, prompt: str, made: Sequence[int]) -> Steps:
        """How probable each token of a text was of which the model made these, of the last TOLD at most; of the prompt
        all but its first."""
        begin, own = self.ids(prompt), torch.tensor(made, dtype=torch.int64, device=self.device)
        ids = torch.cat([begin, own])
        first = max(1 if prompt else len(begin), len(ids) - TOLD)
        named = lambda i: texts.decode(self.tokenizer, torch.tensor([i]))  # noqa: E731
        begins = self.begins((ids if prompt else own).tolist())
        return likely.steps(ids[first:], self.logits(ids, first), named, begins[-len(ids[first:]) :])

    def begins(self, ids: Sequence[int]) -> list[int]:
        """The number of the character with which each token begins, or of which it is a part."""
        found, at = list[int](), 0
        for piece, n in texts.parts(self.tokenizer, ids):
            found += [at] * n
            at += len(piece)
        return found

    def write(self, prompt: str, key: Key | None, **sampling: float) -> str:
        return "".join(self.stream(prompt, SHOWN, key, **sampling))

    def score(self, text: str) -> dict[str, float]:
        """Figures of a text behind the neutral prompt's last token. Only bits per byte can be compared between
        tokenizers."""
        ids = torch.cat([self.neutral()[-1:], texts.encode(self.tokenizer, text)])
        nats = self.nats(ids)
        loss = nats / (len(ids) - 1)
        return {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": bits_per_byte(nats, text)}

    def opening(self, text: str) -> str:
        """Its first words, as many as fit in half a context, eight at most."""
        words = text[:100].split(" ")[:8]
        while self.context and words and len(texts.encode(self.tokenizer, " ".join(words))) > self.context // 2:
            words.pop()
        return " ".join(words)

    def unknown(self, prompt: str) -> list[str]:
        """Words of a prompt (characters, where these are the tokens) that are spelled in bytes."""
        units = list(prompt)
        if self.tokenizer.pre_tokenizer is not None:
            units = [prompt[a:b] for _, (a, b) in self.tokenizer.pre_tokenizer.pre_tokenize_str(prompt)]
        bytewise = [u for u in units if len(u.encode()) == len(texts.encode(self.tokenizer, u)) > 1]
        return [u.strip() or repr(u) for u in bytewise]


def kept(tokens: Iterable[int], made: list[int]) -> Iterator[int]:
    """The tokens, which are added to those that were made."""
    for token in tokens:
        made.append(token)
        yield token


def bits_per_byte(nats: float, text: str) -> float:
    """`nats`: the summed negative log-likelihood of all tokens of the text. Per byte of UTF-8 it can be compared
    across tokenizers, which cross-entropy per token cannot."""
    return nats / (math.log(2) * len(text.encode()))


def longest_overlap(sample: str, training: str) -> str:
    """The longest part of the sample that stands in the training text word for word; the first of equals."""
    best = ""
    for i in range(len(sample)):
        while i + len(best) < len(sample) and sample[i : i + len(best) + 1] in training:
            best = sample[i : i + len(best) + 1]
    return best


def copied(sample: str, training: str) -> str:
    found = longest_overlap(sample, training)
    return f"longest run copied word for word: {len(found)} of {len(sample)} characters, {found!r}"


# ---- while and after training ----


def watch(here: run.Place, step: int, writer: Writer, corpus: texts.Texts, key: Key) -> None:
    """Figures on the validation text and samples, to TensorBoard and in a line on the terminal."""
    found = writer.score(corpus.val)
    here.log(step, {f"val/{name}": x for name, x in found.items()})
    for name, prompt in {"unprompted": "", "prompted": writer.opening(corpus.val)}.items():
        text = prompt + writer.write(prompt, key)
        here.writer.add_text(f"samples/{name}", text, step)
    here.write(
        f"step {step}: held out {found['loss']:.3f} nats per token, perplexity {found['perplexity']:.1f}, "
        f"{found['bits_per_byte']:.3f} bits per byte   {' '.join(text.split())[:60]}"
    )


def report(
    here: run.Place, step: int, writer: Writer, corpus: texts.Texts, key: Key, prompts: Sequence[str] = ()
) -> tuple[dict[str, float], list[str]]:
    """Figures on the test text; samples from nothing and one behind the test text's beginning and behind each prompt,
    and what of them is copied; beside it what as long a piece of the test text has in common with the training text."""
    found = writer.score(corpus.test)
    lines = [f"{'test text':<12}{'nats per token':>16}{'perplexity':>12}{'bits per byte':>15}"]
    lines.append(f"{corpus.name:<12}{found['loss']:16.3f}{found['perplexity']:12.1f}{found['bits_per_byte']:15.3f}")
    behind = [writer.opening(corpus.test), *prompts]
    samples = [*(("", name) for name in WAYS), *((prompt, "temperature 1") for prompt in behind)]
    for i, (prompt, name) in enumerate(samples):
        text = writer.write(prompt, random.fold_in(key, i), **WAYS[name])
        name += f", behind {prompt!r}" if prompt else ""
        here.writer.add_text(f"samples/{name}", prompt + text, step)
        lines += ["", f"---- {name}; {copied(text, corpus.train)}", (prompt + text).strip()]
    return found, [*lines, "", f"---- the test text itself: {copied(corpus.test[: len(text)], corpus.train)}"]


# ---- using a run ----


@dataclass(frozen=True)
class Use(run.Typed):
    """Continue a text, or what is typed, with the latest finished run."""

    text: Positional[Annotated[str | None, arg(metavar="[TEXT]")]] = None
    """What to continue; if it is empty, the model begins by itself. If it is not given, beginnings are read from the
    terminal, one a line."""
    n: run.Count = SHOWN
    """Tokens to write."""
    temperature: run.Amount = 0.8
    """Above 1 the writing is bolder, below 1 safer; 0: the likeliest token each time."""
    top_k: run.Natural = 0
    """Sample among the k likeliest tokens; 0: among all."""
    top_p: run.Share = 0.95
    """Sample among the likeliest tokens that together have this probability."""
    seed: run.Seed = 0
    """Decides what is generated."""
    likely: run.OnPage[bool] = False
    """Also tell how probable each token was, and the ten likeliest in its place."""
    copy_check: bool = False
    """Also tell the longest piece that stands in the training text word for word."""

    hint: ClassVar[str] = "One beginning a line; an empty line ends."


def answers(use: Use, writer: Writer) -> Iterator[Answer]:
    """What the model writes behind the text, piece by piece, and with `copy_check` what of it is copied."""
    prompt = files.encodable(use.text or "")
    training = writer.training() if use.copy_check else None
    key = random.key(use.seed, writer.device) if use.temperature > 0 else None
    if words := writer.unknown(prompt):
        yield Note(f"warning: not in the vocabulary, so spelled in bytes: {', '.join(words)}")
    tokens = writer.tokens(prompt, use.n, key, temperature=use.temperature, top_k=use.top_k, top_p=use.top_p)
    made: list[int] = []
    written = ""
    for part in texts.pieces(writer.tokenizer, kept(tokens, made)):
        yield Text(part if written else prompt + part)
        written += part
    yield Text("\n")
    if use.likely and made:
        found = writer.steps(prompt, made)
        if len(found.tokens) == TOLD:
            yield Note(f"how probable each token was is told of the last {TOLD:,}")
        yield found
    if training is not None:
        yield Note(copied(written, training))
