"""Proof that runs are equal: the lock file's graph, first differences, fingerprint of the arithmetic.

No stage of the pipeline imports this package and none lists it among its dependencies: a change here
must not touch dvc.lock.
"""
