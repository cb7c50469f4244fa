"""The dashboard's answer as a Ray 2.60 head gives it (recorded), with a GPU node beside it."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from assay.engines.cluster.nodes import running_cluster
from assay.errors import PlaceError
from assay.records.plan import Node

HEAD = {
    "cpus": [2, 2],
    "mem": [25276514304, 22917173248, 9.3, 2359341056],
    "gpus": [],
    "raylet": {
        "state": "ALIVE",
        "resourcesTotal": {"CPU": 8.0, "memory": 23679160320.0, "node:InternalHead": 1.0},
    },
}
WORKER = {
    "mem": [2**38, 2**37, 50.0, 2**37],
    "gpus": [{"memoryTotal": 81559, "memoryUsed": 4}, {"memoryTotal": 81559, "memoryUsed": 4}],
    "raylet": {"state": "ALIVE", "resourcesTotal": {"CPU": 32.0, "GPU": 2.0}},
}
DEAD = {"raylet": {"state": "DEAD"}}


class Dashboard(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = (
            self.headers.get("Authorization") == "Bearer right"
            and self.path == "/nodes?view=summary"
        )
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(
            json.dumps({"data": {"summary": [HEAD, WORKER, WORKER, DEAD]}}).encode()
            if known
            else b"no"
        )

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the tests' output clean."""


@pytest.fixture
def dashboard() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Dashboard)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_equal_nodes_are_counted_together_and_dead_ones_are_not(dashboard: str) -> None:
    found = running_cluster(dashboard, "right")
    assert found is not None
    assert found.nodes == (
        Node(count=1, cpus=8, gpus=0, gpu_memory=None, memory=25276514304),
        Node(count=2, cpus=32, gpus=2, gpu_memory=81559 * 2**20, memory=2**38),
    )
    assert (found.cpus, found.gpus) == (72, 4)


def test_where_nobody_is_there_is_no_cluster_and_a_refused_token_is_told(dashboard: str) -> None:
    assert running_cluster("http://127.0.0.1:1", "right") is None
    with pytest.raises(PlaceError, match="refuses the token"):
        running_cluster(dashboard, "wrong")
