"""`python -m lib.play [EXPERIMENT] [--port N]`: a page on this machine on which finished runs are used."""

import argparse
import difflib
import errno
import secrets
import signal
import socket
import sys

from werkzeug.serving import WSGIRequestHandler, make_server

from lib import catalogue, runs
from lib.play.server import Page

HOST, PORT, TRIES = "127.0.0.1", 7860, 20


class Quiet(WSGIRequestHandler):
    timeout = 60  # seconds that a page may not read

    def log(self, type: str, message: str, *args: object) -> None:
        pass


def listening(port: int) -> socket.socket:
    """On the first port from `port` on that is free; which one is told if it is another. Exits where there is none."""
    for each in range(port, min(port + TRIES, 65536)):
        try:
            found = socket.create_server((HOST, each))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            continue
        if each != port:
            print(f"port {port} is taken, so {each}", file=sys.stderr)
        return found
    sys.exit(f"error: no port from {port} on is free: give another --port")


def main() -> None:
    parser = argparse.ArgumentParser(prog="just play", description="Use finished runs on a page of this machine.")
    parser.add_argument("experiment", nargs="?", help="which to open first; the first with a finished run if none")
    parser.add_argument("--port", type=int, default=PORT, help=f"where to listen, {PORT} if not given")
    args = parser.parse_args()
    folder = runs.ROOT / "experiments"
    known = catalogue.sentences(folder)
    if args.experiment is not None and args.experiment not in known:
        near = difflib.get_close_matches(args.experiment, known, n=1, cutoff=0.0)
        parser.error(f"no experiment {args.experiment!r}: did you mean {near[0]}? ({', '.join(known)})")
    if not 1 <= args.port <= 65535:
        parser.error(f"--port {args.port}: a port is 1 to 65535")
    with listening(args.port) as taken:
        port, token = taken.getsockname()[1], secrets.token_urlsafe(16)
        page = Page(folder, port, token)
        server = make_server(HOST, port, page, threaded=True, request_handler=Quiet, fd=taken.fileno())
    query = f"?experiment={args.experiment}" if args.experiment else ""
    print(f"http://{HOST}:{port}/{query}#{token}\nopen this address in a browser; Ctrl-C ends it", flush=True)
    for name in ("SIGTERM", "SIGHUP"):  # as Ctrl-C: processes and uploads do not stay behind
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, _: sys.exit(128 + number))
    try:
        server.serve_forever()
    finally:
        page.close()
        server.server_close()


if __name__ == "__main__":
    main()
