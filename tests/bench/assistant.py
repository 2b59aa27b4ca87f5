"""Other ways to send a request to a tool, on the 323 requests that were written by hand; and how the assistant does on
questions of facts, on documents, on requests of its own, and in seconds: after a run of the experiment,

python -m tests.bench.assistant [--data-dir FOLDER] [--smollm]
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
import tyro
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from experiments import exp_assistant as exp
from lib import run, runs
from lib.answers import Answer, Call, Document, Note, Picture, Sound, Table, Text
from lib.data import requests, templates
from lib.data.requests import NONE, TOOLS
from lib.faults import Fault
from lib.models import gpt, smollm
from lib.tools import documents
from lib.tools.assistant import Assistant, answers
from lib.tools.desk import ABOUT
from tests.bench import tuned

HERE = Path(__file__).parents[1] / "assistant"
MADE, PER_TOOL = 1700, 6


@dataclass(frozen=True)
class Args:
    run: Path | None = None
    """A run of exp_assistant; the latest finished one if not given."""
    data_dir: Path | None = None
    """Where to look for data files before downloading them."""
    answers: bool = False
    """Also print what is answered to the further requests and to the book's, by whatever runs are finished."""
    smollm: bool = False
    """Also let SmolLM2 choose by likelihood, which takes minutes."""


def table(name: str) -> list[list[str]]:
    return [
        line.split("\t") for line in (HERE / f"{name}.tsv").read_text(encoding="utf-8").splitlines() if line.strip()
    ]


def routing(encode: documents.Encode, assistant: Assistant, args: Args) -> Iterator[tuple[str, float]]:
    """(way, share of the right tools)."""
    held, names = requests.held(), list(TOOLS)
    texts, right = [x.text for x in held], np.array([names.index(x.tool) for x in held])
    made = templates.made(templates.load()[0], MADE, 0)
    labels = np.array([names.index(x.tool) for x in made])
    asked = encode(texts)
    about = encode([ABOUT.get(name, "something else, which cannot be done") for name in names])
    yield "nearest description, MiniLM", float(((asked @ about.T).argmax(1).numpy() == right).mean())
    features = encode([x.text for x in made])
    few = np.concatenate([np.flatnonzero(labels == i)[:PER_TOOL] for i in range(len(names))])
    nearest = labels[few][(asked @ features[few].T).argmax(1).numpy()]
    yield f"nearest of {PER_TOOL} examples of each tool, MiniLM", float((nearest == right).mean())
    linear = LogisticRegression(max_iter=2000, C=10).fit(features.numpy(), labels)
    yield f"frozen features and regression on {MADE:,} made ones, MiniLM", float(linear.score(asked.numpy(), right))
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    counted = LogisticRegression(max_iter=2000, C=10).fit(words.fit_transform(x.text for x in made), labels)
    yield f"tf-idf and regression on {MADE:,} made ones", float(counted.score(words.transform(texts), right))
    if args.smollm:
        yield "SmolLM2-135M, the likeliest name behind a list of tools", likeliest(texts, right, args)
    found = [assistant.routed(text)[0] for text in texts]
    hits = np.array([names.index(one.tool) for one, _ in found]) == right
    yield "exp_assistant", float(hits.mean())
    sure = np.array([p for _, p in found]) >= exp.Use.sure
    yield f"of these answered, not asked back about (--sure {exp.Use.sure})", float(sure.mean())
    yield "right of those", float(hits[sure].mean())


@torch.no_grad()
def likeliest(texts: Sequence[str], right: np.ndarray, args: Args) -> float:
    """By the first token of each tool's name, which differ."""
    model = smollm.load("default", args.data_dir)
    names = list(TOOLS)
    first = tuned.names(model)
    listed = ", ".join(names)
    hits = 0
    for text, wanted in zip(texts, right, strict=True):
        prompt = f"Tools: {listed}.\nRequest: {text}\nThe right tool is:"
        ids = torch.tensor([model.tokenizer.encode(prompt, add_special_tokens=False).ids])
        logits = gpt.apply(model.params, ids, cfg=model.cfg)[0, -1]
        hits += int(logits[first].argmax()) == int(wanted)
    return hits / len(texts)


def said(use: exp.Use, assistant: Assistant) -> tuple[str, list[Answer]]:
    """(the tool, or "asks" or "none"; what was answered): a fault is an answer too."""
    found = list[Answer]()
    try:
        found += answers(use, assistant)
    except Fault as error:
        found.append(Text(f"refused: {error}\n"))
    call = next((answer for answer in found if isinstance(answer, Call)), None)
    text = "".join(answer.text for answer in found if isinstance(answer, Text))
    return (call.tool if call else "asks" if text.startswith("I am not sure") else NONE), found


def words(found: Sequence[Answer]) -> str:
    return "".join(answer.text for answer in found if isinstance(answer, Text)).strip()


def facts(assistant: Assistant, show: Callable[[str], None]) -> Iterator[tuple[str, float]]:
    right, known = 0, table("known")
    for question, wanted in known:
        tool, found = said(exp.Use(question), assistant)
        ok = tool in ("lookup", "clock") and wanted in words(found).lower()
        right += ok
        if not ok:
            show(f"  {question} -> {tool}: {words(found)[:120]} (wanted: {wanted})")
    yield f"{len(known)} questions of a dictionary, an atlas and the elements: answered right", right / len(known)
    for name in ("unknown", "unknown2"):
        made_up, asked = 0, table(name)
        for (question,) in asked:
            tool, found = said(exp.Use(question), assistant)
            honest = tool in ("asks", NONE) or words(found).startswith(("Not in what I have", "refused"))
            made_up += not honest
            if not honest:
                show(f"  {question} -> {tool}: {words(found)[:120]}")
        yield f"{len(asked)} questions whose answers it does not have ({name}): made up", made_up / len(asked)


def several(assistant: Assistant, show: Callable[[str], None]) -> Iterator[tuple[str, float]]:
    asked = table("two")
    found = ["several requests" in words(said(exp.Use(text), assistant)[1]) for text, _ in asked]
    for (text, n), seen in zip(asked, found, strict=True):
        if seen != (n == "2"):
            show(f"  {text} -> {1 + seen}, wanted {n}")
    yield (
        f"{len(asked)} texts of one or two requests: told apart",
        sum(seen == (n == "2") for (_, n), seen in zip(asked, found, strict=True)) / len(asked),
    )


def recall(encode: documents.Encode, show: Callable[[str], None]) -> Iterator[tuple[str, float]]:
    library, asked = documents.Library(HERE / "notes", encode), table("questions")
    texts = [p.text for p in library.passages]
    counts = TfidfVectorizer(sublinear_tf=True)
    matrix = counts.fit_transform(texts)
    hits, hits_words = 0, 0
    for question, file, phrase in asked:
        ok = any(p.file == file and phrase in p.text for p, _ in library.search(question))
        hits += ok
        if not ok:
            show(f"  not found: {question} ({file})")
        best = np.argsort(-(matrix @ counts.transform([question]).T).toarray()[:, 0])[: documents.SHOWN]
        hits_words += any(library.passages[i].file == file and phrase in texts[i] for i in best)
    yield f"{len(asked)} questions, {len(texts)} passages: the right one among three, MiniLM", hits / len(asked)
    yield "the same by tf-idf", hits_words / len(asked)


def own(assistant: Assistant, show: Callable[[str], None]) -> Iterator[tuple[str, float]]:
    asked = table("book") + table("own")
    found = [assistant.routed(text)[0] for text, _ in asked]
    for (text, tool), (request, p) in zip(asked, found, strict=True):
        if request.tool != tool:
            show(f"  {text} -> {request.tool} ({p:.2f}), wanted {tool}")
    right = [request.tool == tool for (request, _), (_, tool) in zip(found, asked, strict=True)]
    yield f"{len(asked)} further requests, the book's and our own: right tool", sum(right) / len(right)


def told(assistant: Assistant) -> Iterator[str]:
    for name in ("book", "own"):
        for text, _ in table(name):
            _, found = said(exp.Use(text, documents=HERE / "notes"), assistant)
            shown = (answer.line() if isinstance(answer, Call) else f"({answer.text})" if isinstance(answer, Note)
                     else f"<{answer.file.name}>" if isinstance(answer, Picture | Sound | Document)
                     else answer.lines() if isinstance(answer, Table) else "" for answer in found)  # fmt: skip
            yield f"> {text}\n" + "\n".join(filter(None, [*shown, words(found)])) + "\n"


def seconds(assistant: Assistant) -> Iterator[tuple[str, float]]:
    """Medians of twenty."""

    def timed(work: Callable[[], object]) -> float:
        each = []
        for _ in range(20):
            started = time.perf_counter()
            work()
            each.append(time.perf_counter() - started)
        return median(each)

    yield "to route a request, s", timed(lambda: assistant.routed("how many miles are 5 kilometres"))
    for text in ("what is 23*55+123", "how many miles are 5 kilometres", "what does serendipity mean"):
        said(exp.Use(text), assistant)
        yield f"to answer “{text}”, s", timed(lambda text=text: said(exp.Use(text), assistant))


def main(args: Args) -> None:
    path = args.run or runs.latest(exp.NAME, finished=True)
    stored = exp.replace(run.load_config(path, exp.Args), **({"data_dir": args.data_dir} if args.data_dir else {}))
    assistant = exp.load(path, stored)
    encode = documents.encoder(args.data_dir)
    for title, rows in (
        ("right tools of 323 requests", routing(encode, assistant, args)), ("facts", facts(assistant, print)),
        ("several requests", several(assistant, print)),
        ("documents", recall(encode, print)), ("further requests", own(assistant, print)),
    ):  # fmt: skip
        print(title)
        for name, value in rows:
            print(f"  {100 * value:5.1f} %  {name}")
    if args.answers:
        print(*told(assistant), sep="\n")
    print("seconds")
    for name, value in seconds(assistant):
        print(f"  {value:7.3f}  {name}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
