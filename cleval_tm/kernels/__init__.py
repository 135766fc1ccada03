"""The hot loop: numba kernels over flat arrays. Nothing here knows a Python object or a rule set's name.

With ``NUMBA_DISABLE_JIT=1`` every kernel is plain Python.
"""
