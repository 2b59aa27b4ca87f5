"""Batches on the way to the GPU before the step that needs them."""

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress

import torch
import torch.distributed as dist
from torch import Tensor

from lib import tree
from lib.tree import Tree

AHEAD = 32  # batches: enough for the second in which an epoch of sentences is packed


def to_device(batches: Iterator[Tree], device: torch.device) -> Iterator[Tree]:
    """The batches, on `device`. A GPU's are made by a thread, up to AHEAD of them in advance and in pinned memory, so
    that a step waits neither for its batch to be made nor for the copy. On a CPU a batch is made when it is asked for:
    a thread would take the cores from the step. So it is with several processes: inside a step of theirs every draw is
    of the step's rank (`random.on_rank`), in whatever thread."""
    if device.type != "cuda":
        return batches
    if dist.is_initialized():
        return (tree.to(batch, device) for batch in batches)
    return _made_ahead(batches, device)


def _made_ahead(batches: Iterator[Tree], device: torch.device) -> Iterator[Tree]:
    made: queue.Queue = queue.Queue(AHEAD)  # batches; at the end None or what was raised
    over = threading.Event()

    def put(item: Tree) -> None:
        while not over.is_set():
            with suppress(queue.Full):
                made.put(item, timeout=0.1)
                break

    def make() -> None:
        try:
            torch.cuda.set_device(device)  # of this thread: pinned memory belongs to a device
            for batch in batches:
                put(tree.map(Tensor.pin_memory, batch))
                if over.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=make, daemon=True, name="batches")
    thread.start()
    try:
        while (batch := made.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            yield tree.map(lambda x: x.to(device, non_blocking=True), batch)
    finally:
        over.set()
        thread.join(5)  # a thread that is still at work when Python ends can abort it
