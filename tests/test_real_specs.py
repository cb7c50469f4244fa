"""The specs for real work fit the clusters that they are written for."""

import re
from pathlib import Path

import pytest

from assay.engines.models.shape import known
from assay.flow.planning.plan import described, plan
from assay.loader.cluster import ClusterSpec
from assay.loader.load import load_spec, load_suites
from assay.loader.parse import parse
from assay.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
SPECS = [
    path for path in sorted((ROOT / "specs").glob("*.yaml")) if "--cluster" in path.read_text()
]


def cluster_of(path: Path) -> Path:
    """The cluster that a spec's own comment names."""
    (named,) = re.findall(rf"assay plan specs/{path.name} --cluster (\S+)", path.read_text())
    return ROOT / named


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_spec_for_real_work_fits_its_cluster(path: Path, tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path, ledger_url=f"sqlite:///{tmp_path}/ledger.db", engine_python=""
    )
    spec = load_spec(path, ROOT)
    block, _, problems = parse(cluster_of(path), ClusterSpec)
    assert block is not None
    assert problems == []
    suite = load_suites(spec.gate.suite, ROOT)
    it = plan(spec, suite, root=ROOT, settings=settings, cluster=described(block, "its cluster"))
    assert it.model == known(spec.model.name)
    assert {stage.action for stage in it.stages} == {"run"}
    for need in it.needs:
        assert need.fits is True, f"{need.stage}: {need.advice}"
        assert (
            need.at_longest is None or need.available is None or need.at_longest <= need.available
        )


def test_there_is_a_spec_for_each_cluster() -> None:
    assert {cluster_of(path) for path in SPECS} == set((ROOT / "specs/clusters").glob("*.yaml"))
