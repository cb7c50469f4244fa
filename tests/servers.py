"""Small real HTTP servers, each on a free port of the loopback."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar


class Server(ThreadingHTTPServer):
    """Answers from a thread for each connection; the threads end with the test process."""

    daemon_threads = True
    request_queue_size = 64

    @property
    def port(self) -> int:
        return int(self.server_address[1])


S = TypeVar("S", bound=Server)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], kind: type[S] = Server) -> Iterator[S]:  # type: ignore[assignment]
    """A server that answers with `handler` for as long as it is needed."""
    server = kind(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def free_port() -> int:
    """A port that nobody listens on."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in probes]
