"""What is asked of a finished run: the flags that `just sample` has in every experiment."""

import dataclasses
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from tyro.conf import Positional, arg

from lib import runs
from lib.run import settings
from lib.run.fields import Carried, check


@dataclass(frozen=True, kw_only=True)
class Use:
    """Flags that mean the same wherever a finished run is used. Raises ValueError for a number out of its bounds
    and for a file that cannot be written."""

    run: Path | None = None
    """Run directory; the latest finished one if not given."""
    data_dir: Path | None = None
    """Where to look for data files before downloading them; the run's own --data-dir if not given."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Typed(Use):
    """What works on a text. Where that is not given, it is typed at the terminal line by line."""

    text: Positional[Annotated[str | None, arg(metavar="[TEXT]")]] = None
    """The text. If it is not given, texts are read from the terminal, one a line; an empty line ends."""

    hint: ClassVar[str] = "One text a line; an empty line ends."

    def open(self) -> bool:
        """Whether there is nothing to work on yet."""
        return self.text is None

    def line(self, text: str) -> Self:
        """The same of a line that is typed."""
        return dataclasses.replace(self, text=text)

    def after(self, said: str) -> Self:
        """What the next line that is typed is asked of, when this one was answered with `said`."""
        return self


@dataclass(frozen=True)
class Conversation(Typed):
    """What is answered with what was said before in mind."""

    earlier: Carried[tuple[str, ...]] = ()
    """What was said before: a question, its answer, and so on in turn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.earlier) % 2:
            raise ValueError("--earlier: the last question has no answer")

    def after(self, said: str) -> Self:
        return dataclasses.replace(self, earlier=(*self.earlier, self.text or "", said.removesuffix("\n")))


def chosen(
    use: Use, experiment: str, kind: type[settings.Args], otherwise: settings.Args | None = None
) -> tuple[Path | None, Any]:
    """(run directory, its configuration of the dataclass `kind`, with the use's --data-dir if there is one).
    `otherwise`: the configuration where there is no run yet, of what needs none. Raises RunError."""
    if otherwise is not None and use.run is None and not runs.of(experiment, finished=True):
        path, args = None, otherwise
    else:
        path = use.run or runs.latest(experiment, finished=True)
        args = settings.load_config(path, kind)
    return path, dataclasses.replace(args, data_dir=use.data_dir or args.data_dir)


def verbs(use: Any) -> dict[str, type[Use]]:
    """The dataclasses of a union by their names on the command line; the first one is meant where none is named."""
    return {kind.__name__.lower(): kind for kind in typing.get_args(use) or (use,)}
