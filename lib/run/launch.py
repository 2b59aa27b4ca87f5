"""Run an experiment on several processes of this machine: `python -m lib.run.launch 2 exp_transformer_fr ...`.

torchrun's agent as a library: it starts the ranks, watches them, and ends all of them when one dies.
"""

import logging
import os
import signal
import sys

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the agent listens: imports take seconds

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from lib.run.cli import fail
from lib.runs import ROOT


def main() -> None:
    if len(sys.argv) < 3 or not sys.argv[1].isdecimal() or not int(sys.argv[1]):
        fail("how many processes of which experiment? just run-multi 2 exp_transformer_fr")
    n = int(sys.argv[1])
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])  # the ranks run this code
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")  # after Ctrl-C the ranks save; older torch: 30 s
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=n, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        local_addr="localhost", max_restarts=0, run_id="puregen",
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-P", "-u", "-m", "experiments", *sys.argv[2:])
    except SignalException as stop:  # the ranks have had it too, and said where they stopped
        sys.exit(0 if stop.sigval == signal.SIGINT else 1)
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        killed = {rank: -code for rank, code in codes.items() if code < 0 and -code != signal.SIGTERM}
        for rank, number in killed.items():
            print(f"error: rank {rank} was killed by {signal.Signals(number).name}", file=sys.stderr)
        if killed:
            print("the others were stopped; go on from the last checkpoint with --resume", file=sys.stderr)
        sys.exit(max(1, *codes.values()))


if __name__ == "__main__":
    main()
