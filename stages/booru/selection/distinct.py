"""Distinct integers by sorting in place."""

import numpy as np


def sorted_distinct(values: np.ndarray) -> np.ndarray:
    """The distinct values, ascending; sorts `values` itself.

    Several times faster, and in less memory, than numpy.unique, which hashes integers since numpy 2.3.
    """
    values.sort()
    return values[np.append(True, values[1:] != values[:-1])] if len(values) else values
