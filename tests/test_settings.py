"""Where the parts of a place are, as its settings tell."""

import pytest

from assay.settings import Settings, is_this_machine

ELSEWHERE = "192.0.2.7"  # of the documentation's network (RFC 5737): no machine has it


@pytest.mark.parametrize(
    ("ray_address", "url"),
    [
        ("", "http://127.0.0.1:8265"),
        ("auto", "http://127.0.0.1:8265"),
        ("127.0.0.1:6379", "http://127.0.0.1:8265"),
        ("localhost:6379", "http://127.0.0.1:8265"),
        (f"{ELSEWHERE}:6379", f"http://{ELSEWHERE}:8265"),
        (f"ray://{ELSEWHERE}:10001", f"http://{ELSEWHERE}:8265"),
    ],
)
def test_the_dashboard_is_where_the_head_is(ray_address: str, url: str) -> None:
    assert Settings(ray_address=ray_address, dashboard="", dashboard_port=8265).dashboard_url == url


def test_a_dashboard_that_is_named_is_taken() -> None:
    said = Settings(ray_address=f"{ELSEWHERE}:6379", dashboard="https://ray.example/head/")
    assert said.dashboard_url == "https://ray.example/head"


def test_a_machine_knows_its_own_addresses() -> None:
    assert is_this_machine("127.0.0.1")
    assert is_this_machine("localhost")
    assert not is_this_machine(ELSEWHERE)
    assert not is_this_machine("no-such-machine.invalid")
