"""A thousand of the inputs of `make fuzz-spec`."""

from fuzz_spec import MAX_BYTES, fuzz


def test_whatever_is_written_ends_as_a_spec_or_as_errors_with_places() -> None:
    found = fuzz(range(1000))
    assert found.faults == []
    assert found.largest[0] < MAX_BYTES
    assert min(found.outcomes["valid"], found.outcomes["refused"]) > 20
    assert found.outcomes.total() == 1000
    assert len(found.codes) > 10
