"""A CCIP encoder behind the published interface: a folder as `deepghs/ccip_onnx` has one a model.

    model_feat.onnx     input float32 [batch, 3, 384, 384] -> output float32 [batch, 768], not normalised
    model_metrics.onnx  input float32 [batch, 768] -> output float32 [batch, batch], differences in [0, 1]
    metrics.json        threshold: two pictures with a smaller difference show one character

The sample's small encoder and the published ones are told apart by nothing but their folder.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from repro.errors import StageError
from repro.hashing import sha256_file
from repro.onnx import open_session

import numpy as np
import onnxruntime
from PIL import Image

from booru.images.on_white import on_white

FEATURE_MODEL, METRICS_MODEL, METRICS = "model_feat.onnx", "model_metrics.onnx", "metrics.json"
FILES = (FEATURE_MODEL, METRICS_MODEL, METRICS)
SIDE = 384
WIDTH = 768
# CLIP's channel statistics with the one digit more that imgutils' CCIP uses.
CHANNEL_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float64).reshape(3, 1, 1)
CHANNEL_STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float64).reshape(3, 1, 1)
# The metrics model computes in float32; its distance from the formula was 5e-7 for dghs-imgutils' files.
METRICS_TOLERANCE = 1e-5
# Of a picture with itself, and of a pair in both orders.
IDENTITY_TOLERANCE = 1e-6


class CcipEncoder:
    """Features of one picture at a time, on one thread of the CPU.

    A batch of one and one thread, because ONNX Runtime's float kernels add in another order for
    other batch sizes and thread counts.

    Attributes:
        threshold: pictures with a smaller difference count as one character; digests: {file: sha256} of the folder's files.
    """

    def __init__(self, folder: Path, sha256: Mapping[str, str] | None = None):
        """Open the folder and check its interface.

        Args:
            sha256: what files of the folder must have, by name; files that are not named may have any.

        Raises:
            StageError: a file is missing, has another sha256, cannot be read, or has not the interface above.
        """
        folder = Path(folder)
        self.digests = encoder_digests(folder)
        _check_digests(folder, self.digests, sha256 or {})
        feature_path, metrics_path = folder / FEATURE_MODEL, folder / METRICS_MODEL
        self.threshold = read_threshold(folder / METRICS)
        self._session = open_session(feature_path)
        _check_signature(self._session, feature_path, [3, SIDE, SIDE], [WIDTH])
        metrics = open_session(metrics_path)
        _check_signature(metrics, metrics_path, [WIDTH], None)
        _check_metrics(metrics, metrics_path)

    def features(self, image: Image.Image) -> np.ndarray:
        """The picture's features, float32 [768], as the model gives them (not normalised)."""
        (output,) = self._session.run(["output"], {"input": model_input(image)})
        return output[0]


def encoder_digests(folder: Path) -> dict[str, str]:
    """{file: sha256} of the files that every CCIP folder has.

    Raises:
        StageError: one is missing.
    """
    for name in FILES:
        _require_file(Path(folder) / name)
    return {name: sha256_file(Path(folder) / name) for name in FILES}


def _check_digests(folder: Path, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    for name, digest in sorted(expected.items()):
        path = folder / name
        if name not in found:
            _require_file(path)
        actual = found[name] if name in found else sha256_file(path)
        if actual != digest:
            raise StageError(
                f"{path}: has sha256 {actual}, but evaluate.ccip.sha256 names {digest}; fetch it again with `make ccip`,"
                " or change the parameter if another encoder is meant"
            )


def read_threshold(path: Path) -> float:
    """`threshold` of a metrics.json.

    Raises:
        StageError: no such file, not JSON, or no threshold between 0 and 1 in it.
    """
    _require_file(path)
    try:
        threshold = json.loads(path.read_text(encoding="utf-8"))["threshold"]
    except (ValueError, KeyError, TypeError):
        threshold = None
    if not isinstance(threshold, float) or not 0 < threshold < 1:
        raise StageError(f'{path}: expected a JSON object with "threshold", a number between 0 and 1')
    return threshold


def model_input(image: Image.Image) -> np.ndarray:
    """A picture as the feature model takes it: float32 [1, 3, 384, 384].

    The aspect ratio is squashed and EXIF rotation ignored, as in dghs-imgutils 0.19.0
    (`imgutils.metrics.ccip`, `imgutils.data.load_image`), whose bits these are.
    """
    image = on_white(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    channels = np.asarray(image, dtype=np.uint8).transpose(2, 0, 1).astype(np.float32) / 255.0
    return ((channels - CHANNEL_MEAN) / CHANNEL_STD).astype(np.float32)[np.newaxis]


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise StageError(
            f"{path}: no such file; a CCIP folder holds {FEATURE_MODEL}, {METRICS_MODEL} and {METRICS}: `make ccip` fetches"
            " one of the repository deepghs/ccip_onnx, stages/make_sample_ccip.py makes the sample's"
        )


def _check_signature(
    session: onnxruntime.InferenceSession, path: Path, input_shape: list[int], output_shape: list[int] | None
) -> None:
    """One float32 `input` and one float32 `output` of these shapes behind a batch axis; None leaves the output's open."""
    for kind, values, shape in (("input", session.get_inputs(), input_shape), ("output", session.get_outputs(), output_shape)):
        found = [(value.name, value.type, value.shape) for value in values]
        right = len(values) == 1 and values[0].name == kind and values[0].type == "tensor(float)"
        if not right or (shape is not None and values[0].shape[1:] != shape):
            expected = f"'{kind}', float32 [batch, {', '.join(map(str, shape or ['batch']))}]"
            raise StageError(f"{path}: the {kind} must be {expected}; this model has {found}")


def _check_metrics(session: onnxruntime.InferenceSession, path: Path) -> None:
    """The metrics model must be the formula that the score computes in float64, clip((1 - cos) / 2, 0, 1), symmetric and
    nothing between a picture and itself."""
    features = np.sin(np.arange(4 * WIDTH, dtype=np.float64) ** 2).reshape(4, WIDTH)
    features[3] = -features[0]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = np.clip((1 - unit @ unit.T) / 2, 0, 1)
    (found,) = session.run(["output"], {"input": features.astype(np.float32)})
    if found.shape != expected.shape or not np.abs(found - expected).max() <= METRICS_TOLERANCE:
        raise StageError(f"{path}: its differences are not (1 - cosine) / 2; this is not a CCIP metrics model")
    if np.diagonal(found).max() >= IDENTITY_TOLERANCE or np.abs(found - found.T).max() > IDENTITY_TOLERANCE:
        raise StageError(f"{path}: a picture differs from itself, or a pair in its two orders; this is not a CCIP metrics model")
