"""What numba has no name for: two instructions of the processor, indices without a sign, Python's C API."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import config, types
from numba.extending import intrinsic


def python_api(name: str, result: Any, *arguments: Any) -> Any:
    """A function of Python's stable ABI, for kernels; an address is an ``intp``.

    Args:
        name: of the function.
        result, arguments: numba's types: ``intp``, ``intc``, ``void``.
    """
    if not config.DISABLE_JIT:
        return types.ExternalFunction(name, result(*arguments))
    of = {types.intp: ctypes.c_ssize_t, types.intc: ctypes.c_int, types.void: None}
    prototype = ctypes.PYFUNCTYPE(of[result], *(of[argument] for argument in arguments))  # type: ignore[arg-type]
    return prototype((name, ctypes.pythonapi))


if config.DISABLE_JIT:

    def lowest_bit(bits: int) -> int:
        """The number of the lowest bit that is set in an integer other than 0."""
        return (bits & -bits).bit_length() - 1

    def prefetch(address: int) -> None:
        """Let the processor fetch what is at an address meanwhile; nothing need be there."""

else:

    @intrinsic  # type: ignore[untyped-decorator]
    def lowest_bit(typingctx: Any, bits: Any) -> Any:
        """The number of the lowest bit that is set in an int64 other than 0."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

        return types.int64(types.int64), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def prefetch(typingctx: Any, address: Any) -> Any:
        """Let the processor fetch what is at an address (int64) meanwhile; nothing need be there."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
            of = ir.FunctionType(ir.VoidType(), [pointer, flag, flag, flag])
            function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], of)
            to_read, keep, as_data = flag(0), flag(3), flag(1)
            builder.call(function, [builder.inttoptr(arguments[0], pointer), to_read, keep, as_data])
            return context.get_dummy_value()

        return types.void(types.int64), generate


nonneg = np.uint64
"""Makes an index of an integer that is not negative: of others, numba looks at the sign each time, and LLVM then does
not take several elements at once."""
