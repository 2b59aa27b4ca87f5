"""The life of a run: its flags, its directory, its log, its replicas, and how it is started and used."""

from lib.place import Place
from lib.run.cli import main
from lib.run.directory import load, read_json, write_json
from lib.run.fields import (
    Amount,
    Carried,
    Count,
    Example,
    Fraction,
    Free,
    Given,
    Named,
    Natural,
    NewFile,
    NewFolder,
    OnPage,
    OnTerminal,
    Plane,
    Range,
    Seed,
    Share,
    Vocabulary,
)
from lib.run.replicas import View
from lib.run.run import Run
from lib.run.settings import Args, device, dtype, load_config
from lib.run.use import Conversation, Typed, Use, chosen

__all__ = [
    "Amount", "Args", "Carried", "Conversation", "Count", "Example", "Fraction", "Free", "Given", "Named", "Natural",
    "NewFile", "NewFolder", "OnPage", "OnTerminal", "Place", "Plane", "Range", "Run", "Seed", "Share", "Typed", "Use",
    "View", "Vocabulary", "chosen", "device", "dtype", "load", "load_config", "main", "read_json", "write_json",
]  # fmt: skip
