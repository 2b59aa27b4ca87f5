"""A conversation with SmolLM2-135M-Instruct (Allal et al. 2025), released weights in our own blocks, on a CPU.

What it shows: the blocks that serve translation and GPT run a model of Llama's shape (Touvron et al. 2023): rotary
positions, swiglu, RMS norm, nine heads of queries that share three of keys. `just run exp_smollm_chat` measures what it
knows (greedily, the capitals of forty countries), how well it predicts a novel and how fast it speaks; nothing is
trained. `just sample exp_smollm_chat` talks, `just sample exp_smollm_chat "Why is the sky blue?"` answers one question,
and `just sample exp_smollm_chat --plain "The capital of France is"` goes on with a text.
"""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from tyro.conf import Positional, arg

from lib import random, run, tree
from lib.answers import Answer, Text
from lib.data import texts
from lib.models import gpt, smollm
from lib.models.smollm import Released
from lib.tasks import writing
from lib.tasks.chat import Turn, remembered, speak, steps

NAME = Path(__file__).stem


@dataclass(frozen=True)
class Args(run.Args):
    """Measure a released model; nothing is trained."""

    steps: run.Free[run.Natural] = 0
    """Stays 0: there is nothing to train here."""
    weights: str = "default"
    """default (SmolLM2-135M-Instruct from its package), a GGUF file, or a folder with config.json, tokenizer.json and
    model.safetensors, such as another SmolLM2."""
    data: str = "default"
    """A text to predict: default (Moby Dick), anna, hemingway, or a text file or folder of .txt files."""
    scored: run.Count = 10_000
    """Bytes of the text's test part to predict."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps or self.replicas > 1 or self.sweep or self.resume:
            raise ValueError("nothing is trained here: --steps stays 0, and there is nothing to resume or to repeat")


PRESETS: dict[str, run.Args] = {
    "small": Args(),
    "best": Args(scored=1_000_000),
}
OTHERWISE = Args()  # where there is no run: released weights need none

CAPITALS = {
    "Argentina": "Buenos Aires", "Australia": "Canberra", "Austria": "Vienna", "Belgium": "Brussels",
    "Brazil": "Brasília", "Canada": "Ottawa", "Chile": "Santiago", "China": "Beijing", "Colombia": "Bogotá",
    "Cuba": "Havana", "Denmark": "Copenhagen", "Egypt": "Cairo", "Finland": "Helsinki", "France": "Paris",
    "Germany": "Berlin", "Greece": "Athens", "Hungary": "Budapest", "India": "New Delhi", "Indonesia": "Jakarta",
    "Iran": "Tehran", "Iraq": "Baghdad", "Ireland": "Dublin", "Italy": "Rome", "Japan": "Tokyo", "Kenya": "Nairobi",
    "Mexico": "Mexico City", "Morocco": "Rabat", "Nepal": "Kathmandu", "Norway": "Oslo", "Peru": "Lima",
    "Poland": "Warsaw", "Portugal": "Lisbon", "Russia": "Moscow", "South Korea": "Seoul", "Spain": "Madrid",
    "Sweden": "Stockholm", "Switzerland": "Bern", "Thailand": "Bangkok", "Turkey": "Ankara", "Vietnam": "Hanoi",
}  # fmt: skip
QUESTIONS = (
    "What is the capital of France?",
    "Why is the sky blue?",
    "Write two sentences in the style of Jane Austen.",
    "What is 23 * 55 + 123?",
)
ANSWER = 120  # tokens


# ---- what is measured: edit here ----


def capitals(model: Released) -> dict[str, str]:
    """{country: how the model goes on, greedily, behind "The capital of ... is"}."""
    return {
        country: "".join(speak(model, texts.encode(model.tokenizer, f"The capital of {country} is"), 6))
        for country in CAPITALS
    }


# ---- a run ----


def released(weights: str, args: run.Args) -> Released:
    device = run.device(args)
    found = smollm.load(weights, args.data_dir, device)
    found.chat([])  # raises DataError for a model that was not made for this, before anything is done with it
    found.special("<|endoftext|>")
    return Released(tree.cast(found.params, run.dtype(args, device)), found.cfg, found.tokenizer)


def train(args: Args) -> None:
    model, corpus = released(args.weights, args), texts.load(args.data, args.data_dir)
    here = run.Run(args, NAME, Path(__file__), unit="tokens")
    print(tree.table(model.params, depth=1))
    print(f"{tree.size(model.params):,} parameters; {here.device}, {here.dtype}")

    said = capitals(model)
    right = {country: text.startswith(f" {CAPITALS[country]}") for country, text in said.items()}
    text = corpus.test.encode()[: args.scored].decode(errors="ignore")
    ids = torch.cat([torch.tensor([model.special("<|endoftext|>")]), texts.encode(model.tokenizer, text)])
    nats = gpt.nats(model.params, ids, cfg=model.cfg)
    values = {
        "test/capitals": sum(right.values()) / len(right),
        "test/bits_per_byte": writing.bits_per_byte(nats, text),
        "test/perplexity": float(torch.tensor(nats / (len(ids) - 1)).exp()),
    }
    started, tokens, found = time.perf_counter(), 0, []
    for question in QUESTIONS:
        answer = "".join(speak(model, remembered(model, [("user", question)], ANSWER), ANSWER))
        tokens += len(texts.encode(model.tokenizer, answer)) + 1
        found.append((question, answer))
    values["perf/tokens_per_second"] = tokens / (time.perf_counter() - started)

    here.log(0, values)
    wrong = [f"{country}: {said[country].strip()!r}" for country, known in right.items() if not known]
    lines = [f"{name:<24}{value:10.3f}" for name, value in values.items()]
    lines += [f"capitals not known: {'; '.join(wrong) or 'none'}"]
    for question, answer in found:
        here.writer.add_text(f"samples/{question}", answer, 0)
        lines += ["", f"> {question}", answer]
    here.finish([(values, lines)], '--plain "The capital of France is"')


# ---- using it ----


@dataclass(frozen=True)
class Use(run.Conversation):
    """Talk with the model of the latest run, or with the default one where there was no run."""

    text: Positional[Annotated[str | None, arg(metavar="[TEXT]")]] = None
    """A question to answer. If it is not given, there is a conversation, line by line; an empty line ends it."""
    plain: bool = False
    """Go on with the text instead of answering it."""
    system: str = ""
    """What the model is told before anything else; empty: nothing."""
    n: run.Count = 300
    """Tokens of an answer, at most."""
    temperature: run.Amount = 0.2
    """The higher, the bolder the answer; 0: the likeliest token each time."""
    top_k: run.Natural = 0
    """Sample among the k likeliest tokens; 0: among all."""
    top_p: run.Share = 0.9
    """Sample among the likeliest tokens that together have this probability."""
    seed: run.Seed = 0
    """Decides what is generated."""
    likely: run.OnPage[bool] = False
    """Also tell how probable each token was, and the ten likeliest in its place."""

    hint: ClassVar[str] = "One question a line; an empty line ends."


def load(path: Path | None, args: Args) -> Released:
    """The weights that the run was of, or the default ones where there is no run."""
    return released(args.weights, run.Args(data_dir=args.data_dir, precision=args.precision))


def answers(use: Use, model: Released) -> Iterator[Answer]:
    """The answer to the text, piece by piece, or with `plain` the text and how it goes on. Each question of a
    conversation has a key of its own."""
    text = use.text or ""
    said: list[Turn] = [*zip(itertools.cycle(("user", "assistant")), use.earlier, strict=False), ("user", text)]
    turns = [("system", use.system), *said] if use.system else said
    ids = texts.encode(model.tokenizer, text) if use.plain else remembered(model, turns, use.n)
    key = random.key(use.seed, model.params["embed"]["tokens"].device) if use.temperature > 0 else None
    sampling = {"temperature": use.temperature, "top_k": use.top_k, "top_p": use.top_p}
    if use.plain:
        yield Text(text)
    made: list[int] = []
    for piece in speak(model, ids, use.n, random.fold_in(key, len(use.earlier) // 2), made, **sampling):
        yield Text(piece)
    yield Text("\n")
    if use.likely and made:
        yield steps(model, ids, made)


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use, OTHERWISE)
