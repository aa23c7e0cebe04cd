"""ONNX models are opened on one thread, or refused in words."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from repro.errors import StageError
from repro.onnx import ON_CPU, open_session, package_versions

import onnxruntime
import pytest
from tiny_taggers import write_wd_tagger


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "wd"
    write_wd_tagger(folder)
    return folder / "model.onnx"


@pytest.mark.parametrize("optimise", [True, False])
def test_a_session_has_one_thread(model: Path, optimise: bool):
    session = open_session(model, optimise)
    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    levels = onnxruntime.GraphOptimizationLevel
    assert options.graph_optimization_level == (levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL)
    assert session.get_providers() == [ON_CPU]


def test_a_missing_model_is_named(tmp_path: Path):
    with pytest.raises(StageError, match=r"none\.onnx: no such file"):
        open_session(tmp_path / "none.onnx")


def test_what_is_no_model_is_refused_in_one_line(tmp_path: Path):
    path = tmp_path / "text.onnx"
    path.write_text("no model")
    with pytest.raises(StageError, match=r"^.*text\.onnx: ONNX Runtime cannot load this model \(.*\); fetch or make it again$"):
        open_session(path)


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA")
def test_a_gpu_needs_the_build_for_it(model: Path):
    with pytest.raises(StageError, match=r"device: cuda:1, but this ONNX Runtime.*install onnxruntime-gpu"):
        open_session(model, device="cuda:1")


def test_the_runtime_tells_its_version_where_another_package_brings_it(monkeypatch: pytest.MonkeyPatch):
    names = ("numpy", "onnxruntime", "pillow")
    expected = {name: version(name) for name in names}
    assert package_versions(names) == expected

    def installed(name: str) -> str:
        if name == "onnxruntime":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("repro.onnx.version", installed)
    assert package_versions(names) == expected
