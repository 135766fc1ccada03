"""The hot loop: numba kernels over flat arrays. Nothing here knows a rule set's name, and no Python object but one:
:mod:`~cleval_tm.kernels.letters` reads texts where they lie, with the interpreter lock held; there they become arrays.

With ``NUMBA_DISABLE_JIT=1`` every kernel is plain Python.
"""
