"""A version of a data set that a place keeps."""

from assay.records.record import Record


class DataShard(Record):
    """One of its files."""

    file: str
    """Inside the version's folder."""
    sha256: str
    num_rows: int
    num_bytes: int


class DataSetManifest(Record):
    """What is kept, and where it came from."""

    name: str
    version: str
    """The first 16 digits of `digest`."""
    digest: str
    """SHA-256 of all examples in their order, whatever form their files had."""
    form: str
    """`messages`, `preference`, `kto`, `classification` or `text`."""
    num_rows: int
    shards: tuple[DataShard, ...]
    sources: dict[str, str]
    """SHA-256 of each file that was read, by its path."""
