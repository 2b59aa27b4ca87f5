"""A step that begins at once: it runs eagerly while a child process compiles it, then changes over.

The child is a fork, so that nothing need be pickled for it. It leaves torch's ahead-of-time artefact behind: this
process loads it in a second, where tracing the step once more would take ten.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from lib import tree
from lib.transform import INDUCTOR, donating, jit
from lib.tree import Tree

# At its first use autograd settles whether devices have threads of its own, which no fork may follow. Whoever traces a
# graph on a machine without a GPU makes torch believe that there is one: the first use is to come before.
if not torch.cuda.device_count():
    torch.autograd.backward(torch.ones((), requires_grad=True) * 1)


def possible(device: torch.device) -> bool:
    """Whether a step can be compiled beside a run: CUDA and macOS do not stand a fork, and it takes two cores."""
    able = hasattr(torch.compiler, "load_compiled_function")  # not in every torch that we work with
    return device.type == "cpu" and sys.platform == "linux" and torch.get_num_threads() > 1 and able


class Compiling:
    """`update(state, *args)` of `jit(step)`, eager until a child process has compiled it. `tell` is given a line at the
    start and one at the change. Results of eager and compiled steps differ by rounding."""

    def __init__(
        self, step: Callable, tell: Callable[[str], None], changed: Callable[[], None], backend: str = "inductor"
    ) -> None:
        """`changed` is called when the compiled step is loaded and not yet run."""
        self._step, self._tell, self._changed, self._backend = step, tell, changed, backend
        self._update: Callable = step
        self._child: BaseProcess | None = None
        self._calls = 0
        self._threads = torch.get_num_threads()

    def __call__(self, state: Tree, *args: Any) -> tuple[Tree, Any]:
        if not self._calls:
            self._start(state, *args)
        elif self._child and not self._child.is_alive():
            state = self._change(state)
        self._calls += 1
        return self._update(state, *args)

    def _start(self, state: Tree, *args: Any) -> None:
        import torch._inductor.compile_fx  # takes two seconds, which parent and child then share

        self._since = time.monotonic()
        self._folder = tempfile.TemporaryDirectory(prefix="puregen-")
        self._path = Path(self._folder.name) / "step"
        fork = multiprocessing.get_context("fork")
        work = partial(_compile, self._step, self._backend, self._path, self._threads, os.getpid())
        self._child = fork.Process(target=work, args=(state, *args), daemon=True)
        with warnings.catch_warnings():  # Python warns of threads: of ours none holds a lock that the child takes
            warnings.simplefilter("ignore", DeprecationWarning)
            self._child.start()
        self._stop = weakref.finalize(self, _kill, self._child)  # at exit too
        torch.set_num_threads(self._threads - self._threads // 2)  # threads of two would wait for each other
        self._tell("compiling in the background; steps are slower until it is done")

    def stop(self) -> None:
        """Compile no longer: ends the child, if there is one. What runs eagerly goes on eagerly."""
        if self._child:
            self._stop()
            self._child.join()
            self._child = None
            self._folder.cleanup()
            torch.set_num_threads(self._threads)

    def _change(self, state: Tree) -> Tree:
        """The compiled step from here on, or what can be had instead."""
        assert self._child
        status, fault = self._child.exitcode, ""
        if status and status < 0:
            self._tell(f"the compiling process was killed by {signal.Signals(-status).name}: going on uncompiled")
            self.stop()
            return state
        self._update = jit(self._step, backend=self._backend)
        try:
            if status:
                fault = self._path.read_text(encoding="utf-8")
            else:
                self._update = _load(self._path, self._update)
        except Exception as error:  # artefacts are new in torch: whatever is wrong with one, the step can be compiled
            fault = repr(error)
        self.stop()
        if fault:
            self._tell(f"compiling in the background failed ({fault.splitlines()[0]}): the next step compiles")
        else:
            seconds = time.monotonic() - self._since
            self._tell(f"compiled in {seconds:.0f} s, in which {self._calls} steps were done")
        self._changed()
        return tree.map(torch.clone, state)  # from here on donated, and an eager step's `out` may share its leaves


def _compile(step: Callable, backend: str, path: Path, threads: int, parent: int, *args: Any) -> None:
    """What the child does: leaves the compiled step at `path`, or what went wrong. A group of its own keeps Ctrl-C from
    it and ends its compilers with it."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: whatever kills the parent ends the child
    if os.getppid() != parent:
        os._exit(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    torch.set_num_threads(1)  # OpenMP's other threads did not come along: it would wait for them forever
    from torch._dynamo import bytecode_transformation

    options: dict[str, Any] = {}
    if backend == "inductor":
        options = INDUCTOR | {"cpp.threads": threads, "compile_threads": threads // 2}
    # What else guards look at is the same in every step of a run, but for the number of threads, which is not as here.
    kinds = ("TENSOR_MATCH", "CONSTANT_MATCH", "EQUALS_MATCH")
    options["guard_filter_fn"] = lambda guards: [g.guard_type in kinds and not g.is_global for g in guards]
    # Dynamo gives a graph a random name, which enters the key of torch's cache: no second run would ever find it there.
    bytecode_transformation.uuid = SimpleNamespace(uuid4=lambda: "name")  # type: ignore[assignment]
    try:
        compiled: Any = torch.compile(donating(step), fullgraph=True, dynamic=False, backend=backend, options=options)
        compiled.aot_compile((args, {})).save_compiled_function(str(path))
    except Exception as error:
        path.write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        raise


def _load(path: Path, otherwise: Callable) -> Callable:
    """The update that the child compiled, and another one for arguments of other shapes."""
    with path.open("rb") as file:
        compiled: Any = torch.compiler.load_compiled_function(file)
    compiled.disable_guard_check()  # done here, to have a way out

    def update(state: Tree, *args: Any) -> tuple[Tree, Any]:
        if not compiled.guard_check(state, *args):
            return otherwise(state, *args)
        return state, compiled(state, *args)

    return update


def _kill(child: BaseProcess) -> None:
    if child.is_alive():
        with suppress(ProcessLookupError):  # its group is not there yet
            os.killpg(child.pid or 0, signal.SIGKILL)
        child.kill()
