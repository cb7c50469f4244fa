from pathlib import Path

import pytest

from assay.engines.models.weight_noise import add_noise
from assay.errors import UsageError


def test_noise_is_of_the_size_that_was_asked_for_and_always_the_same(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    source = tmp_path / "model"
    source.mkdir()
    (source / "config.json").write_text("{}")
    torch.manual_seed(0)
    weights = {
        "matrix": torch.randn(64, 64) * 0.02,
        "quantized": torch.randint(-100, 100, (64, 64), dtype=torch.int8),
        "norm": torch.ones(64),
    }
    save_file(weights, str(source / "model.safetensors"), metadata={"format": "pt"})
    for name in ("one", "two"):
        add_noise(source, tmp_path / name, 0.1, seed=3)
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    noised = load_file(str(one))
    assert torch.equal(noised["norm"], weights["norm"])
    spread = (noised["matrix"] - weights["matrix"]).std() / weights["matrix"].std()
    assert abs(float(spread) - 0.1) < 0.005
    assert noised["quantized"].dtype == torch.int8
    steps = (noised["quantized"].float() - weights["quantized"].float()).std()
    assert abs(float(steps / weights["quantized"].float().std()) - 0.1) < 0.01
    assert (tmp_path / "one" / "config.json").exists()


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no weights"):
        add_noise(tmp_path, tmp_path / "out", 0.1, seed=1)
