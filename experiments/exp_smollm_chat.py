"""A conversation with SmolLM2-135M-Instruct (Allal et al. 2025), released weights in our own blocks, on a CPU.

What it shows: the blocks that serve translation and GPT run a model of Llama's shape (Touvron et al. 2023): rotary
positions, swiglu, RMS norm, nine heads of queries that share three of keys. `just run exp_smollm_chat` measures what it
knows (greedily, the capitals of forty countries), how well it predicts a novel and how fast it speaks; nothing is
trained. `just sample exp_smollm_chat` talks, answers one `--prompt "..."`,
or goes on with it as a text (`--plain --prompt "The capital of France is"`).
"""

import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from lib import random, run, tree
from lib.data import texts
from lib.faults import RunError
from lib.models import gpt, smollm
from lib.models.smollm import Released
from lib.random import Key
from lib.run import cli
from lib.tasks import writing

NAME = Path(__file__).stem
Turn = tuple[str, str]  # who speaks ("user" or "assistant"; first perhaps "system"), and what


@dataclass(frozen=True)
class Args(run.Args):
    """Measure a released model; nothing is trained."""

    steps: int = 0
    """0: there is nothing to train here."""
    weights: str = "default"
    """default (SmolLM2-135M-Instruct from its package), a GGUF file, or a folder with config.json, tokenizer.json and
    model.safetensors, such as another SmolLM2."""
    data: str = "default"
    """A text to predict: default (Moby Dick), anna, hemingway, or a text file or folder of .txt files."""
    scored: int = 10_000
    """Bytes of its test part to predict."""

    def __post_init__(self) -> None:
        if self.steps or self.replicas > 1 or self.sweep or self.resume:
            raise ValueError("nothing is trained here: --steps stays 0, and there is nothing to resume or to repeat")
        if self.scored < 1:
            raise ValueError("--scored must be at least 1")


PRESETS: dict[str, run.Args] = {
    "small": Args(),
    "best": Args(scored=1_000_000),
}

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


# ---- the model at work: edit here ----


def speak(
    model: Released, prompt: Int[Tensor, "t"], n: int, key: Key | None = None, **sampling: float
) -> Iterator[str]:
    """Up to n tokens behind the prompt, until the model ends its turn or text: each piece as soon as it is whole."""
    ends = {model.special("<|im_end|>"), model.special("<|endoftext|>")}
    prompt = prompt.to(model.params["embed"]["tokens"].device)
    made = map(int, gpt.generate(model.params, prompt[None], key, cfg=model.cfg, room=n, **sampling))  # type: ignore[arg-type]
    return writing.pieces(model.tokenizer, itertools.takewhile(lambda t: t not in ends, itertools.islice(made, n)))


def remembered(model: Released, turns: Sequence[Turn], n: int) -> Int[Tensor, "t"]:
    """The conversation's tokens with room for n more: the oldest exchanges are forgotten where it gets too long.
    Raises RunError where the last question alone is."""
    said = [turn for turn in turns if turn[0] != "system"]
    system = list(turns[: len(turns) - len(said)])
    while len(ids := model.chat([*system, *said])) + n > model.cfg.context:
        if len(said) < 3:
            raise RunError(f"{len(ids)} tokens and {n} of an answer do not fit in {model.cfg.context}: ask shorter")
        said = said[2:]
    return ids


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
    started, tokens, answers = time.perf_counter(), 0, []
    for question in QUESTIONS:
        answer = "".join(speak(model, remembered(model, [("user", question)], ANSWER), ANSWER))
        tokens += len(texts.encode(model.tokenizer, answer)) + 1
        answers.append((question, answer))
    values["perf/tokens_per_second"] = tokens / (time.perf_counter() - started)

    here.log(0, values)
    wrong = [f"{country}: {said[country].strip()!r}" for country, known in right.items() if not known]
    lines = [f"{name:<24}{value:10.3f}" for name, value in values.items()]
    lines += [f"capitals not known: {'; '.join(wrong) or 'none'}"]
    for question, answer in answers:
        here.writer.add_text(f"samples/{question}", answer, 0)
        lines += ["", f"> {question}", answer]
    here.finish([(values, lines)], '--plain --prompt "The capital of France is"')


# ---- using it ----


@dataclass(frozen=True)
class Use:
    """Talk with the model of the latest run, or with the default one where there was no run."""

    prompt: str | None = None
    """A question to answer. Not given: a conversation, line by line; an empty line ends it."""
    plain: bool = False
    """Go on with the prompt as a text instead of answering it."""
    system: str = ""
    """What the model is told before anything else; empty: nothing."""
    n: int = 300
    """Tokens of an answer, at most."""
    temperature: float = 0.2
    """Above it bolder; 0: the likeliest token each time."""
    top_k: int = 0
    """Draw among the k likeliest tokens; 0: among all."""
    top_p: float = 0.9
    """Draw among the likeliest tokens that together have this probability."""
    seed: int = 0
    run: Path | None = None
    """Run directory, which says which weights; the latest one if not given."""
    data_dir: Path | None = None
    """Where to look for the package before downloading it."""

    def __post_init__(self) -> None:
        if self.n < 1 or self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError("--n must be at least 1, --temperature and --top-k at least 0 and --top-p in (0, 1]")


def chosen(use: Use) -> Args:
    try:
        return run.load_config(use.run or run.latest_run(NAME, finished=True), Args)
    except RunError:
        if use.run:
            raise
        return Args()  # released weights need no run


def sample(use: Use) -> None:
    args = chosen(use)
    model = released(args.weights, Args(data_dir=use.data_dir, precision=args.precision))
    key = random.key(use.seed, model.params["embed"]["tokens"].device) if use.temperature > 0 else None
    sampling = {"temperature": use.temperature, "top_k": use.top_k, "top_p": use.top_p}
    turns: list[Turn] = [("system", use.system)] if use.system else []
    if use.prompt is None:
        print("One question a line; an empty line ends.", file=sys.stderr)
    for i, question in enumerate(writing.typed() if use.prompt is None else [use.prompt]):
        turns.append(("user", question))
        ids = texts.encode(model.tokenizer, question) if use.plain else remembered(model, turns, use.n)
        answer = ""
        print(question if use.plain else "", end="", flush=True)
        for piece in speak(model, ids, use.n, random.fold_in(key, i), **sampling):
            print(piece, end="", flush=True)
            answer += piece
        print()
        turns.append(("assistant", answer))


if __name__ == "__main__":
    cli.main(NAME, PRESETS, train, sample, Use)
