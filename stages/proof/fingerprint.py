"""Fingerprint of this machine's arithmetic: results of the operations that the stages rest on, as digests.

The operations are those whose bits were seen to depend on the CPU's make, its vector width or the number
of threads, at the shapes of the sample model; inputs come from torch's generator. The golden digests
(`fingerprint.json`) belong to the versions in requirements.lock; they are no output and enter none.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from repro.hashing import sha256_file
from repro.numerics import fix_torch
from repro.outputs import write_json
from repro.tensorfile import tensor_bytes

import numpy as np
import polars as pl
import torch
from PIL import Image
from torch.nn import functional as F

from ccip.encoder import open_session

GOLDEN = Path(__file__).with_name("fingerprint.json")
Result = tuple[str, torch.Tensor | np.ndarray | bytes]


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def _with_gradients(name: str, operation: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> Iterator[Result]:
    """The operation's result and the gradient of each input, from a smooth weighting of the result."""
    leaves = [tensor.clone().requires_grad_(True) for tensor in inputs]
    result = operation(*leaves)
    result.backward(_normal(*result.shape))
    yield name, result
    for number, leaf in enumerate(leaves):
        yield f"{name}, gradient {number}", leaf.grad


def torch_results() -> Iterator[Result]:
    """Layers forward and backward, elementary functions, generators, one optimizer step."""
    features, text = _normal(2, 64, 16, 16), _normal(2, 77, 96)
    heads = [_normal(2, 4, 64, 32) * scale for scale in (1.0, 0.7, 0.5)]
    yield from _with_gradients(
        "conv 3x3", lambda x, w, b: F.conv2d(x, w, b, padding=1), features, _normal(96, 64, 3, 3), _normal(96)
    )
    yield from _with_gradients("conv 1x1", F.conv2d, features, _normal(32, 64, 1, 1))
    yield from _with_gradients(
        "conv 3x3 stride 2", lambda x, w: F.conv2d(x, w, stride=2, padding=1), features, _normal(64, 64, 3, 3)
    )
    yield from _with_gradients("linear", F.linear, text, _normal(384, 96), _normal(384))
    yield from _with_gradients("attention", F.scaled_dot_product_attention, *heads)
    yield from _with_gradients("softmax", lambda x: x.softmax(-1), heads[0])
    yield from _with_gradients("group norm", lambda x, w, b: F.group_norm(x, 32, w, b), features, _normal(64), _normal(64))
    yield from _with_gradients("layer norm", lambda x, w, b: F.layer_norm(x, (96,), w, b), text, _normal(96), _normal(96))
    yield from _with_gradients("silu", F.silu, features)
    yield from _with_gradients("gelu", F.gelu, features)
    yield from _with_gradients("quick gelu", lambda x: x * torch.sigmoid(1.702 * x), features)
    yield from _with_gradients("nearest upsampling", lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"), features)
    yield from _with_gradients("embedding", lambda w: F.embedding(torch.arange(300) % 50, w), _normal(60, 64))
    yield from _with_gradients("squared error", lambda x: (x - 0.5).square().mean(dim=(1, 2, 3)), features)
    yield "exp, log, sin, cos", torch.stack([features.exp(), features.abs().log(), features.sin(), features.cos()])
    yield "sum in float64", features.double().square().sum()
    yield "randn, rand, randperm", torch.cat([_normal(1000), torch.rand(999, generator=torch.Generator().manual_seed(1))])
    weights = torch.empty(64, 96)
    torch.nn.init.kaiming_uniform_(weights, a=5**0.5, generator=torch.Generator().manual_seed(2))
    yield "kaiming initialisation", weights
    yield "fused AdamW", _adamw_step(_normal(5000))
    yield "half precision", features.half().float() * 1.5


def _adamw_step(start: torch.Tensor) -> torch.Tensor:
    weights = torch.nn.Parameter(start)
    optimizer = torch.optim.AdamW([weights], lr=1e-3, weight_decay=0.1, fused=True)
    for _ in range(2):
        weights.grad = _normal(5001)[1:] * 0.01
        optimizer.step()
    return weights


def numpy_results() -> Iterator[Result]:
    """Noise schedule tables, similarity matrices, statistics."""
    values = _normal(200, 96).numpy()
    yield "numpy exp, log, power", np.stack([np.exp(values), np.log(np.abs(values)), np.abs(values) ** 0.7])
    yield "numpy float64 sqrt, cumprod", np.sqrt(np.cumprod(1.0 - np.linspace(0.03, 0.11, 1000) ** 2))
    yield "numpy matrix product", values @ values.T
    yield "numpy norm, mean, std", np.concatenate([np.linalg.norm(values, axis=1), values.mean(0), values.std(0)])
    yield "numpy stable order", np.argsort((values[:, 0] * 3).astype(int), kind="stable")


def table_results() -> Iterator[Result]:
    """A sorted table and its parquet file."""
    ids = (np.arange(5000) * 7919) % 5000
    frame = pl.DataFrame({"id": ids, "score": ids % 13, "tags": [[int(i) % 7, 3] for i in ids]})
    frame = frame.with_columns(rank=pl.col("score").rank("ordinal")).sort("id")
    yield "polars sort, rank", frame["rank"].to_numpy()
    buffer = io.BytesIO()
    frame.write_parquet(buffer, row_group_size=65536, compression="zstd", compression_level=3, statistics=True)
    yield "polars parquet", buffer.getvalue()


def picture_results() -> Iterator[Result]:
    """Decoding, resizing, writing."""
    waves = np.fromfunction(lambda y, x, c: 127 + 120 * np.cos((x * (c + 1) + y * y / 40) / 9), (96, 128, 3))
    picture = Image.fromarray(waves.astype(np.uint8))
    for kind in ("PNG", "WEBP", "JPEG"):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        yield f"{kind} write", buffer.getvalue()
        yield f"{kind} read", np.asarray(Image.open(buffer).convert("RGB"))
    yield "Lanczos resize", np.asarray(picture.resize((64, 48), Image.Resampling.LANCZOS))
    yield "bicubic resize", np.asarray(picture.resize((150, 48), Image.Resampling.BICUBIC))


def encoder_results(encoder: Path) -> Iterator[Result]:
    """Features of one picture by the sample's int8 CCIP encoder; nothing where that model is not there."""
    if not encoder.exists():
        return
    pixels = _normal(1, 3, 384, 384).clamp(-1, 1).numpy()
    (features,) = open_session(encoder).run(["output"], {"input": pixels})
    yield f"onnxruntime int8 encoder {sha256_file(encoder)[:8]}", features


def _digest(value: torch.Tensor | np.ndarray | bytes) -> str:
    if isinstance(value, torch.Tensor):
        value = tensor_bytes(value)
    return hashlib.sha256(value if isinstance(value, bytes) else np.ascontiguousarray(value).tobytes()).hexdigest()[:16]


def measure(encoder: Path) -> dict[str, str]:
    """{operation: digest of its result on this machine}; `encoder` is the ONNX file of the sample's CCIP."""
    fix_torch()
    results = chain(torch_results(), numpy_results(), table_results(), picture_results(), encoder_results(encoder))
    return {name: _digest(value) for name, value in results}


def read_golden() -> dict[str, str]:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def write_golden(digests: dict[str, str]) -> None:
    write_json(GOLDEN, digests)
