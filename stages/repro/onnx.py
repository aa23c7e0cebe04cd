"""ONNX models opened so that their answers are the same bytes each time: one thread, the same kernels."""

from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from repro.errors import StageError

import onnxruntime

ON_CPU, ON_CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# No search for the fastest kernel, which may find another one each time, and sums in full float32.
CUDA_OPTIONS = {"cudnn_conv_algo_search": "DEFAULT", "use_tf32": "0"}


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """{package: version}. ONNX Runtime's is its own word: onnxruntime-gpu stands in its place under another name."""
    return {name: onnxruntime.__version__ if name == "onnxruntime" else version(name) for name in names}


def open_session(path: Path, optimise: bool = True, device: str = "cpu") -> onnxruntime.InferenceSession:
    """An ONNX model on one CPU thread, or on a GPU, with all of ONNX Runtime's graph optimisations or with none.

    Args:
        device: as torch writes it: "cpu", "cuda" for the first GPU, or "cuda:1".

    Raises:
        StageError: no such file, ONNX Runtime cannot load it, or it cannot use the GPU.
    """
    path = Path(path)
    if not path.is_file():
        raise StageError(f"{path}: no such file; fetch or make the model first")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    options.use_deterministic_compute = device != "cpu"
    providers = _providers(device)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's own classes share no base but Exception
        reason = str(error).strip().splitlines()[0]
        raise StageError(f"{path}: ONNX Runtime cannot load this model ({reason}); fetch or make it again") from None
    if len(providers) > 1 and ON_CUDA not in session.get_providers():
        raise StageError(
            f"device: {device}, but ONNX Runtime cannot use a GPU here: it did not find CUDA's or cuDNN's libraries, or no"
            " driver; set device: cpu, or install them"
        )
    return session


def _providers(device: str) -> list:
    """ONNX Runtime's execution providers for a device: on a GPU the CPU's too, which does what has no CUDA kernel.

    Raises:
        StageError: this build of ONNX Runtime has no CUDA.
    """
    if device == "cpu":
        return [ON_CPU]
    if ON_CUDA not in onnxruntime.get_available_providers():
        raise StageError(
            f"device: {device}, but this ONNX Runtime computes on the CPU only; install onnxruntime-gpu"
            f" {onnxruntime.__version__} in place of onnxruntime, or set device: cpu"
        )
    onnxruntime.preload_dlls()  # CUDA's libraries as torch's packages bring them
    number = device.partition(":")[2]
    return [(ON_CUDA, CUDA_OPTIONS | {"device_id": number or "0"}), ON_CPU]
