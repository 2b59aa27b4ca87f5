"""Classification of texts: what a model reads, what it is measured against, and how its guesses are shown.

Axes: n texts, t tokens, k labels.
"""

import math
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer
from torch import Tensor

from lib import metrics, plot
from lib.answers import Table
from lib.data import files, tokens
from lib.data.labelled import Example, Labelled
from lib.faults import DataError
from lib.place import Place

SHOWN = 16  # mistakes


class Encoded(NamedTuple):
    ids: Int[Tensor, "n t"]  # padded on the right
    last: Int[Tensor, "n"]  # place of the last token that is no padding
    labels: Int[Tensor, "n"]


def encoded(tokenizer: Tokenizer, examples: list[Example], length: int) -> tuple[Encoded, int]:
    """The first `length` tokens of each text, and how many texts have more."""
    rows = tokens.encode(tokenizer, [example.text for example in examples])
    ids = torch.tensor([row[:length] + [0] * (length - len(row)) for row in rows])
    last = torch.tensor([min(len(row), length) - 1 for row in rows])
    labels = torch.tensor([example.label for example in examples])
    return Encoded(ids, last, labels), sum(len(row) > length for row in rows)


def baselines(corpus: Labelled, write: Callable[[str], None]) -> dict[str, float]:
    """Test accuracy of what needs no neural network, on the whole texts: always the most common label ("majority");
    logistic regression on tf-idf of words and pairs of words, with scikit-learn's strength of regularisation ("tfidf").
    What cannot be had from these texts is left out, which `write` is told. To be asked for before anything is trained.
    """
    (train, labels), (test, right) = (zip(*part, strict=True) for part in (corpus.train, corpus.test))
    common = max(range(len(corpus.names)), key=labels.count)
    found = {"majority": right.count(common) / len(right)}
    marks = "".join(c for c in set("".join(train)) if unicodedata.category(c)[0] == "M")  # no word ends with one
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=rf"\b\w[\w{marks}]+")
    try:
        linear = LogisticRegression(max_iter=1000).fit(words.fit_transform(train), labels)
        found["tfidf"] = float(linear.score(words.transform(test), right))
    except (ValueError, MemoryError) as error:
        write(f"no baseline by tf-idf: {error}")
    else:
        if metrics.unspaced(train):
            write("the baseline by tf-idf takes whole sentences for words, as this script has no spaces between words")
    return found


def report(
    name: str, logp: Float[Tensor, "n k"], corpus: Labelled, others: dict[str, float]
) -> tuple[dict[str, float], list[str]]:
    """Accuracy on the test texts, of all and of each label, under the baselines' (`others`), and the lines to print."""
    labels = torch.tensor([example.label for example in corpus.test])
    right = (logp.argmax(-1).cpu() == labels).float()
    names = {"majority": "always the most common label", "tfidf": "tf-idf, logistic regression"}
    rows = {names[other]: share for other, share in others.items()}
    rows[name] = float(right.mean())
    for k, label in enumerate(corpus.names):
        if len(of_label := right[labels == k]):
            rows[f"  {label}"] = float(of_label.mean())
    width, error = max(map(len, rows)), math.sqrt(rows[name] * (1 - rows[name]) / len(labels))
    lines = [f"accuracy on the {len(labels):,} test texts of {corpus.name}, standard error {100 * error:.1f} %"]
    lines += [f"{label:<{width}}  {100 * share:5.1f} %" for label, share in rows.items()]
    return {"test/accuracy": rows[name]} | {f"test/{other}": share for other, share in others.items()}, lines


def show(here: Place, n: int, logp: Float[Tensor, "n k"], corpus: Labelled) -> None:
    """On the validation texts, to TensorBoard after update number n: loss and accuracy, which label is taken for which,
    and the mistakes the model is surest of."""
    names, labels = corpus.names, torch.tensor([example.label for example in corpus.val])
    p, guess = (logp := logp.cpu()).max(-1)
    accuracy = float((guess == labels).float().mean())
    here.log(n, {"val/loss": float(F.nll_loss(logp, labels)), "val/accuracy": accuracy})
    table = torch.bincount(labels * len(names) + guess, minlength=len(names) ** 2).unflatten(0, (len(names), -1))
    figure = plot.heatmap(table.float(), names, names, numbers=True, title="label (row) taken for (column)")
    here.writer.add_figure("samples/confusion", figure, n)
    rows = ["| label | taken for | text |", "|---|---|---|"]
    for i in [i for i in p.argsort(descending=True).tolist() if guess[i] != labels[i]][:SHOWN]:
        text = " ".join(corpus.val[i].text.split())[:200].replace("|", "/")
        rows.append(f"| {names[labels[i]]} | {names[guess[i]]} ({100 * float(p[i].exp()):.0f} %) | {text} |")
    here.writer.add_text("samples/mistakes", "\n".join(rows), n)
    here.write(f"step {n}: held-out accuracy {100 * accuracy:.2f} %")


def readable(text: str) -> str:
    """The text without space around it. Raises DataError where there is none, or what no UTF-8 text can hold."""
    if not files.encodable(text).strip():
        raise DataError("no text")
    return text.strip()


def likeliest(p: Float[Tensor, "k"], names: list[str], n: int | None = None) -> Table:
    """The labels with their probabilities, the likeliest (n of them) first."""
    order = p.argsort(descending=True)[:n].tolist()
    return Table(("percent", "label"), [(100 * float(p[k]), names[k]) for k in order], "{:6.2f} %  {}")
