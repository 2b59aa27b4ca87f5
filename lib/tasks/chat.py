"""A conversation with a released model: what is said, what is remembered of it, and what is answered."""

import itertools
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from lib.answers import Steps
from lib.data import texts
from lib.faults import RunError
from lib.models import gpt
from lib.models.smollm import Released
from lib.random import Key
from lib.tasks import likely, writing

Turn = tuple[str, str]  # who speaks ("user" or "assistant"; first perhaps "system"), and what


def speak(
    model: Released,
    prompt: Int[Tensor, "t"],
    n: int,
    key: Key | None = None,
    made: list[int] | None = None,
    **sampling: float,
) -> Iterator[str]:
    """Up to n tokens behind the prompt, until the model ends its turn or text: each piece as soon as it is whole.
    `made`: a list to which the tokens are added."""
    ends = {model.special("<|im_end|>"), model.special("<|endoftext|>")}
    prompt = prompt.to(model.params["embed"]["tokens"].device)
    found = map(int, gpt.generate(model.params, prompt[None], key, cfg=model.cfg, room=n, **sampling))  # type: ignore[arg-type]
    tokens = itertools.takewhile(lambda t: t not in ends, itertools.islice(found, n))
    return texts.pieces(model.tokenizer, writing.kept(tokens, [] if made is None else made))


def steps(model: Released, prompt: Int[Tensor, "t"], made: Sequence[int]) -> Steps:
    """How probable each token that was made behind the prompt is."""
    ids = torch.cat([prompt.cpu(), torch.tensor(made)])
    named = lambda i: texts.decode(model.tokenizer, torch.tensor([i]))  # noqa: E731
    return likely.steps(ids[len(prompt) :], gpt.forced(model.params, ids, len(prompt), cfg=model.cfg), named)


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
