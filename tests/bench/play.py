"""How fast the page is, in seconds of what a browser asks, after a run of the experiment:

python -m tests.bench.play exp_vae_faces --asked '{"verb": "move"}' --slow '{"verb": "draw", "n": 20000}'
"""

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import tyro
from tyro.conf import Positional


@dataclass(frozen=True)
class Args:
    experiment: Positional[str]
    """An experiment with a finished run, of which the newest is taken."""
    asked: str = "{}"
    """The request that is timed twenty times, as JSON."""
    slow: str = ""
    """A request that takes long, to be stopped."""


def lines(address: str, path: str, body: dict[str, Any] | None = None) -> Iterator[Any]:
    """What the server answers, line by line; `body`: of a POST. `address`: as `just play` prints it."""
    base, token = address.split("#")
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base.split("?")[0] + path, data, {"X-Token": token})
    with urllib.request.urlopen(request) as response:
        for line in response:
            yield json.loads(line)


def measured(address: str, args: Args, times: int = 20) -> dict[str, float]:
    """Raises RuntimeError where an answer is an error."""

    def timed(path: str, body: dict[str, Any] | None = None) -> tuple[float, list[Any]]:
        start = time.perf_counter()
        found = list(lines(address, path, body))
        if found[-1:] and isinstance(found[-1], dict) and found[-1].get("kind") == "error":
            raise RuntimeError(found[-1]["message"])
        return time.perf_counter() - start, found

    found = {}
    found["list of runs"], ((*experiments,),) = timed("api/runs")
    (one,) = (one for one in experiments if one["name"] == args.experiment)
    found["process started, its verbs known"], (about, *_) = timed(f"api/verbs/{args.experiment}")
    ask = {"verb": about["verbs"][0]["verb"], "run": one["runs"][0]["name"]} | json.loads(args.asked)
    found["first answer, the model loaded before"] = timed(f"api/ask/{args.experiment}", ask)[0]
    each = []
    for _ in range(times):
        start = time.perf_counter()
        begun = [time.perf_counter() - start for _ in lines(address, f"api/ask/{args.experiment}", ask)]
        each.append((begun[0], begun[-1]))
    for name, of in zip(("first piece of an answer", "whole answer"), zip(*each, strict=True), strict=True):
        found[f"{name}, median of {times}"] = median(of)
    if args.slow:
        slow = lines(address, f"api/ask/{args.experiment}", ask | json.loads(args.slow))
        heard: list[float] = []
        reader = threading.Thread(target=lambda: heard.extend(time.perf_counter() for _ in slow))
        reader.start()
        time.sleep(1)
        start = time.perf_counter()
        list(lines(address, "api/stop", {}))
        reader.join()
        found["stopped"] = heard[-1] - start
    return found


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    start = time.perf_counter()
    server = subprocess.Popen([sys.executable, "-P", "-m", "lib.play"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        address = server.stdout.readline().strip()
        found = {"server started": time.perf_counter() - start} | measured(address, args)
    finally:
        server.terminate()
        server.wait()
    for name, seconds in found.items():
        print(f"{name:<44}{seconds:8.3f} s")


if __name__ == "__main__":
    main()
