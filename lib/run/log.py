"""What a run writes down as it goes: TensorBoard events and metrics.jsonl, of one model or of several replicas."""

import json
import os
import statistics
import time
from pathlib import Path
from typing import Any, TextIO

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams


class Log:
    """`writer` takes pictures and text. What was logged after `step`, where a resumed run goes on, is forgotten."""

    def __init__(self, path: Path, step: int, resume: bool) -> None:
        self.file, self.started = path / "metrics.jsonl", time.time()
        # What was logged after the checkpoint is done again: it leaves TensorBoard and metrics.jsonl.
        kept = self.file.with_suffix(".part")
        kept.write_text("".join(f"{line}\n" for line in lines_up_to(self.file, step)), encoding="utf-8")
        os.replace(kept, self.file)
        self.writer = SummaryWriter(str(path), purge_step=step + 1 if resume else None)
        self._lines = open(self.file, "a", buffering=1)  # noqa: SIM115 (open as long as the run)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)
        self._line(step, values)

    def spread(self, logged: list[dict[int, dict[str, float]]]) -> None:
        """Mean and standard deviation of what several replicas logged: for each of them {step: {tag: value}}, empty for
        one that is lost."""
        for step, tags in next(filter(None, logged), {}).items():
            columns = {tag: [values.get(step, {}).get(tag) for values in logged] for tag in tags}
            found = {tag: [x for x in column if x is not None] for tag, column in columns.items()}
            means = {tag: statistics.fmean(column) for tag, column in found.items()}
            for tag, column in found.items():
                self.writer.add_scalar(tag, means[tag], step)
                self.writer.add_scalar(f"{tag}_sd", statistics.stdev(column) if len(column) > 1 else 0.0, step)
            self._line(step, {**means, "replicas": columns})

    def last(self, tag: str) -> dict[int, float]:
        """{replica: value} as last logged under a tag."""
        for line in reversed(self.file.read_text(encoding="utf-8").splitlines()):
            if column := json.loads(line).get("replicas", {}).get(tag):
                return {i: value for i, value in enumerate(column) if value is not None}
        return {}

    def result(self, step: int, config: dict[str, Any], result: dict[str, float], lines: list[str]) -> None:
        """Hyper-parameters and final metrics in the HParams tab of this run, and the final lines as text."""
        flat = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in config.items()}
        # SummaryWriter.add_hparams would start a second run (pytorch #37738): write its summaries into this one.
        for summary in hparams(flat, {f"final/{k}": v for k, v in result.items()}):
            self.writer._get_file_writer().add_summary(summary)
        self.scalars(step, {f"final/{k}": v for k, v in result.items()})
        self.writer.add_text("samples/final", "    " + "\n    ".join(lines), step)

    def close(self) -> None:
        self.writer.close()
        self._lines.close()

    def _line(self, step: int, values: dict[str, Any]) -> None:
        self._lines.write(json.dumps({"step": step, "seconds": round(time.time() - self.started, 2), **values}) + "\n")


def lines_up_to(log: Path, step: int) -> list[str]:
    """The whole lines of a metrics.jsonl up to a step, final results left out: a killed run may have left half a line,
    and finishes again."""
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
    found = [(line.rstrip(), json.loads(line)) for line in lines if line.endswith("\n")]
    return [line for line, values in found if values["step"] <= step and not any("final/" in tag for tag in values)]


class Lines:
    """Where the progress bar is not on a terminal: each time it is a line of its own, instead of one over the other."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            self.file.write(line + "\n")

    def flush(self) -> None:
        self.file.flush()
