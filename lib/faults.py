"""What a person can mend: each fault says in one sentence what is wrong and what to do about it."""


class Fault(Exception):  # noqa: N818 (what its kinds have in common is no error's name)
    """Told as one line, without a traceback."""


class DataError(Fault):
    """Data that cannot be had or read."""


class RunError(Fault):
    """A run that cannot start, go on or be used."""


class CheckpointError(Fault):
    """A file that is not a checkpoint, or not one of this tree."""


class ParallelError(Fault):
    """Processes that cannot go on together."""
