"""The portable numeric environment (DESIGN section 5, D1 and D4).

CPU kernels choose their instructions, blocking and summation order from the CPU's make, its vector
width and the number of threads. Capping all of them at AVX2 and at one thread a process gives the
same bits on every x86-64 CPU with AVX2 and FMA. More cores are used by more processes.
"""

import logging
import os
import sys
from pathlib import Path

from repro.errors import StageError

PORTABLE_ENVIRONMENT = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "POLARS_ENGINE_AFFINITY": "in-memory",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
}
# What the user asked for, for the one script that does fetch from the hub.
HUB_OFFLINE_AT_START = os.environ.get("HF_HUB_OFFLINE", "")
READ_AT_IMPORT = ("torch", "numpy", "polars", "onnxruntime")


def fix_environment() -> None:
    """Put the portable settings in place; called when `repro` is imported.

    Raises:
        StageError: a numeric library was imported first (it has read other settings already), or
            the CPU lacks AVX2 or FMA.
    """
    already_right = all(os.environ.get(k) == v for k, v in PORTABLE_ENVIRONMENT.items())
    early = [name for name in READ_AT_IMPORT if name in sys.modules]
    if early and not already_right:
        raise StageError(f"import repro before {', '.join(early)}: the numeric settings are read on import")
    refuse_old_cpu()
    os.environ.update(PORTABLE_ENVIRONMENT)
    # It offers a 4-bit kernel from the hub at every import; none is used here, and the hub is off.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def refuse_old_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Stop in words on a CPU where AVX2 code would die with an illegal instruction.

    Raises:
        StageError: the CPU's flags lack avx2 or fma.
    """
    if not cpuinfo.exists():
        return
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), None)
    if flags is None:
        raise StageError("this CPU is not x86-64: the same bytes are promised on x86-64 with AVX2 and FMA only")
    missing = {"avx2", "fma"} - set(flags.split())
    if missing:
        raise StageError(f"this CPU lacks {' and '.join(sorted(missing))}: AVX2 and FMA (2013 or newer) are needed")


def fix_torch() -> None:
    """Torch settings that no environment variable reaches: one thread, strict deterministic mode.

    Gradient-free defaults are left alone. Call once in every process that uses torch.
    """
    import torch

    torch.set_num_threads(1)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    # Partial sums of half-precision products stay in float32.
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cudnn.allow_tf32 = False
