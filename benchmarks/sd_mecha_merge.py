"""Merge four SDXL files with sd-mecha, as its documentation has it: everything by default, so float32 in between,
a float16 file, and as many threads as it chooses.

    PYTHON_WITH_SD_MECHA benchmarks/sd_mecha_merge.py A B C D OUT    # A + 0.8 * (B - C) + 0.5 * (D - A)

Runs inside sd-mecha's environment (see sd_mecha_setup.py). Its numbers cannot stand before a recipe, so the factors
stand behind; the value is the same.
"""

import sys

import sd_mecha


def main(*paths: str) -> None:
    a, b, c, d = (sd_mecha.model(path) for path in paths[:-1])
    sd_mecha.merge(a + (b - c) * 0.8 + (d - a) * 0.5, output=paths[-1])


if __name__ == "__main__":
    main(*sys.argv[1:])
