"""Ground floor of every stage: parameters, determinism, hashing, atomic outputs, progress, errors.

Importing this package fixes the numeric environment (`repro.numerics`), so it comes before any
import of numpy, polars, torch or onnxruntime.
"""

from repro import numerics as _numerics

_numerics.fix_environment()
