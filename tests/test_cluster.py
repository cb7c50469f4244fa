"""`cluster.yaml` is a file that `ray up` takes, and its ports are closed to the world."""

from pathlib import Path
from typing import Any

import pytest
import yaml

CLUSTER = Path(__file__).parent.parent / "cluster.yaml"


@pytest.fixture
def config() -> dict[str, Any]:
    loaded = yaml.safe_load(CLUSTER.read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.ray
def test_ray_takes_the_file(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)  # with Ray's defaults, as `ray up` reads it
    validate_config(prepared)
    assert prepared["available_node_types"]["gpu"]["max_workers"] == prepared["max_workers"] == 8
    assert "default" not in " ".join(prepared["available_node_types"])


def test_no_port_is_open_to_the_world(config: dict[str, Any]) -> None:
    # A node type without a group of its own gets Ray's, which opens SSH to everybody.
    for name, node_type in config["available_node_types"].items():
        assert node_type["node_config"].get("SecurityGroupIds"), name
    assert "security_group" not in config["provider"]
    assert "0.0.0.0" not in CLUSTER.read_text()
    assert "::/0" not in CLUSTER.read_text()
    (start,) = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start


def test_every_node_asks_for_the_token_and_knows_the_settings(config: dict[str, Any]) -> None:
    settings = next(
        command for command in config["setup_commands"] if command.endswith("> ~/assay-env")
    )
    for setting in (
        "RAY_AUTH_MODE=token",
        "RAY_AUTH_TOKEN_PATH=/home/ubuntu/.ray/auth_token",
        "RAY_SERVE_ENABLE_HA_PROXY=1",
        "ASSAY_HOME=/mnt/assay",
    ):
        assert setting in settings.split()
    assert "/home/ubuntu/.ray/auth_token" in config["file_mounts"]
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        assert command.startswith(". ~/assay-env && ")


def test_every_node_has_both_environments(config: dict[str, Any]) -> None:
    (install,) = [command for command in config["setup_commands"] if "install.py" in command]
    assert install.endswith("platform/locks/install.py gpu")
    assert (CLUSTER.parent / "platform" / "locks" / "install.py").exists()
