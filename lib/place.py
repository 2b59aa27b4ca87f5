"""Where a model shows itself while it trains: a run, or one of its replicas."""

from pathlib import Path
from typing import Protocol

import torch
from torch.utils.tensorboard import SummaryWriter


class Place(Protocol):
    path: Path
    """Of its files."""
    device: torch.device
    dtype: torch.dtype
    writer: SummaryWriter
    """Takes pictures and text."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Scalars to TensorBoard and metrics.jsonl."""

    def write(self, line: str) -> None:
        """A line to the terminal."""
