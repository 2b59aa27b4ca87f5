"""The command line of an experiment: `[preset] [flags]` trains, `sample [flags]` uses a finished run, `serve` answers
requests to it."""

import argparse
import contextlib
import dataclasses
import difflib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tyro

from lib import catalogue, parallel, plot, runs, sound
from lib.answers import Answer, Call, Document, Note, Picture, Sound, Steps, Table, Text
from lib.faults import Fault, RunError
from lib.run import directory, replicas, settings, worker
from lib.run.use import Typed, Use, chosen, verbs

# What stands in the way is outside of the program: no room, no permission, too many open files.
REFUSED = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE,
}  # fmt: skip


def main(
    experiment: str,
    presets: dict[str, settings.Args],
    train: Callable[[Any], None],
    load: Callable[[Any, Any], Any],
    answers: Callable[[Any, Any], Iterator[Answer]],
    kind: Any,
    otherwise: settings.Args | None = None,
) -> None:
    """Parse `sys.argv` and do what it says: `train(args)`; `sample`: print what `answers(use, load(path, args))` gives
    for a use of the dataclass `kind` (or a union of several, its verbs); `serve`: answer requests as lib/run/worker.py
    says. `otherwise`: the configuration of what can be used without a run.

    What a person can mend (bad data, a bad configuration, a run that cannot go on, a full disk) ends with one line and
    exit status 1, a wrong command line with 2, Ctrl-C with 130; anything else is a fault of ours and keeps its
    traceback.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # what ended the imports without a word (experiments)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    words, rank = sys.argv[1:], int(os.environ.get("RANK", 0))
    if rank:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (one process of several prints)

    held: dict[str, Any] = {}  # the model that was asked last, and of which run it is

    def model(use: Use) -> Any:
        of = chosen(use, experiment, type(presets["small"]), otherwise)
        if held.get("of") != of:
            held.clear()  # two may not fit
            held.update(model=load(*of), of=of)
        return held["model"]

    def answered(use: Use) -> Iterator[Answer]:
        return answers(use, model(use))

    try:
        if words[:1] == ["sample"]:
            use = asked(experiment, kind, words[1:])
            model(use)  # what is wrong with a run is told before anybody types a line
            sample(use, answered)
        elif words[:1] == ["serve"]:
            if words[1:]:
                fail(f"{experiment} serve {words[1]}: what is wanted stands in the requests (lib/run/worker.py)")
            with contextlib.redirect_stdout(sys.stderr):  # what anybody prints is no answer
                worker.serve(kind, answered, sys.stdin.buffer, sys.__stdout__ or sys.stdout)
        else:
            args = parse(experiment, presets, words)
            parallel.join(settings.device(args).type == "cuda")
            replicas.replicas(args)  # what is wrong with a sweep or a directory is told before data is loaded
            if not args.resume and not rank:
                directory.check_new(args.run, runs.folder() / experiment)
            train(args)
    except Fault as error:
        if parallel.told(str(error)):
            sys.exit(1)
        sys.exit(f"error: rank {rank}: {error}" if rank else f"error: {error}")
    except OSError as error:
        try:
            if error.errno == errno.EPIPE:
                print(flush=True)
        except BrokenPipeError:  # nobody reads what is printed (`| head`), nor what is left when the interpreter ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(1)
        if error.errno not in REFUSED:
            raise
        sys.exit(f"error: the system refuses it: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def asked(experiment: str, kind: Any, words: list[str]) -> Use:
    """The use that a command line means. A verb is its first word; `--text X` and `--prompt X` are X itself, whatever
    it begins with."""
    known = verbs(kind)
    if len(known) > 1 and (not words or words[0] not in (*known, "-h", "--help")):
        name = words[0] if words and words[0].isalpha() else ""  # and not a file's
        if near := difflib.get_close_matches(name, known, n=1):
            fail(f"{experiment} has no verb {words[0]!r}: did you mean {near[0]}? ({', '.join(known)})")
        if late := [word for word in words if word in known]:
            fail(f"the verb comes first: {experiment} sample {late[0]} ...")
        words = [next(iter(known)), *words]
    if any(issubclass(of, Typed) for of in known.values()):
        words = _with_text_last(words)
    names = ", ".join(known)
    about = f"verbs: {names} (first word; {next(iter(known))} if none); VERB --help lists a verb's flags."
    more: dict[str, Any] = {"description": about, "default": next(iter(known.values()))()} if len(known) > 1 else {}
    return tyro.cli(kind, prog=f"{experiment} sample", args=words, **more)


def _with_text_last(words: list[str]) -> list[str]:
    """The words with the text of --text or --prompt (the last one) behind them, where the argument parser looks at
    nothing but that it is there."""
    rest, text, left = list[str](), list[str](), iter(words)
    for word in left:
        flag, is_, after = word.partition("=")
        if flag not in ("--text", "--prompt"):
            rest.append(word)
        elif (value := after if is_ else next(left, None)) is None:
            fail(f"{flag}: a text is missing")
        else:
            text = ["--", value]
    return rest + text


def sample(use: Use, answers: Callable[[Use], Iterator[Answer]]) -> None:
    """Shows the answers, to the use as it is or to one line after the other that is typed."""
    if not (isinstance(use, Typed) and use.open()):
        for answer in answers(use):
            show(answer)
        return
    print(use.hint, file=sys.stderr)
    for line in _typed():
        use, said = use.line(line), ""
        try:
            for answer in answers(use):
                show(answer)
                said += answer.text if isinstance(answer, Text) else ""
        except Fault as error:  # of this line: the next one may be answered
            print(f"error: {error}", file=sys.stderr)
        use = use.after(said)


def _typed() -> Iterator[str]:
    """Lines of the terminal up to an empty one. Raises RunError."""
    try:
        for line in sys.stdin or ():
            if not line.strip():
                return
            yield line.rstrip("\n").removeprefix("\ufeff")  # of a file that is piped in
    except UnicodeDecodeError as error:
        raise RunError(f"what is typed is not {error.encoding}: {error.reason}") from error


def show(answer: Answer) -> None:
    """Prints or saves it. Raises RunError where that cannot be done."""
    match answer:
        case Text(text):
            print(text, end="", flush=True)
        case Note(text):
            print(text, file=sys.stderr)
        case Call():
            print(answer.line(), file=sys.stderr)
        case Table(file=None):
            print(answer.lines(), end="", flush=True)
        case Steps():
            show(answer.table())
        case Table(file=Path() as file):
            _write(file, answer.lines().encode())
        case Picture(content, file, caption, scale):
            plot.save(content, file, scale)
            _told(file, caption)
        case Sound(samples, rate, file, caption):
            _write(file, sound.wav(samples, rate))
            _told(file, caption)
        case Document(content, file, caption):
            _write(file, content)
            _told(file, caption)


def _write(file: Path, content: bytes) -> None:
    try:
        file.parent.mkdir(exist_ok=True)  # where an answer has several files
        file.write_bytes(content)
    except OSError as error:
        raise RunError(f"cannot write {file}: {error}") from error


def _told(file: Path, caption: str | None) -> None:
    if caption is not None:
        print(f"{caption}: {file}" if caption else file)


def parse(experiment: str, presets: dict[str, settings.Args], words: list[str]) -> settings.Args:
    """The configuration: a preset (the first word; "small" if none), changed by flags, or that of a resumed run."""
    preset = words.pop(0) if words and not words[0].startswith("-") else None
    if preset is not None and preset not in presets:
        near = difflib.get_close_matches(preset, [*presets, "sample", "serve"], n=1, cutoff=0.0)
        fail(f"{experiment} has no preset {preset!r}: did you mean {near[0]}? ({', '.join(presets)}, sample or serve)")
    base = presets[preset or "small"]
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--resume", action="store_true")
    finder.add_argument("--run", type=Path)
    found, _ = finder.parse_known_args(words)
    if not found.resume:
        return _cli(experiment, base, presets, words)
    path = found.run or runs.latest(experiment)
    stored = settings.located(settings.load_config(path, type(base)))
    wanted = _cli(experiment, presets[preset] if preset else stored, presets, words)
    changed = settings.changed_fields(stored, wanted)
    if changed:
        raise RunError(f"{path} was started with another configuration:\n  " + "\n  ".join(changed))
    return dataclasses.replace(wanted, run=path)


def _cli(experiment: str, base: settings.Args, presets: dict[str, settings.Args], words: list[str]) -> Any:
    names = ", ".join(presets)
    about = f"presets: {names} (first word; small if none).  sample: use a finished run; serve: answer requests to it."
    return settings.located(tyro.cli(type(base), prog=experiment, default=base, args=words, description=about))


def fail(message: str) -> Any:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def overview(folder: Path) -> str:
    """The experiments of a folder, each with the first sentence that its file says of itself; none is imported."""
    lines = ["experiments (just run NAME [preset] [flags]; just run NAME --help; just sample NAME --help):", ""]
    lines += [f"  {name:<24}{sentence}" for name, sentence in catalogue.sentences(folder).items()]
    return "\n".join(lines)


def nearest(name: str, folder: Path) -> str:
    """The name of an experiment in `folder`, or exit status 2 with the nearest one."""
    known = sorted(path.stem for path in folder.glob("exp_*.py"))
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return fail(f"no experiment {name!r}: did you mean {near[0]}? ({', '.join(known)})")
