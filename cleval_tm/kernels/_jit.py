"""numba's options and its cache, in one place.

numba's own cache watches the file of the function it compiled, not the files of the functions that this
one calls: after an edit in a called kernel's file, callers would run the old machine code. Here one stamp
over all kernel files guards every cached kernel.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numba
import numpy as np
import numpy.typing as npt
from numba.core import config, types
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.runtime import rtsys

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Letters: TypeAlias = npt.NDArray[np.int32]
Bytes: TypeAlias = npt.NDArray[np.uint8]
Bools: TypeAlias = npt.NDArray[np.bool_]

_F = TypeVar("_F", bound=Callable[..., Any])
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
_HERE = Path(__file__).parent


def inner(function: _F) -> _F:
    """Compile a function that only kernels call: it lives in its callers' cache entries."""
    compiled = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)(function)
    if not config.DISABLE_JIT:
        # An argument that may be the constant 0 would otherwise be compiled for twice: as 0, and as any integer.
        template_of, any_value = compiled.get_call_template, types.unliteral  # type: ignore[attr-defined]
        compiled.get_call_template = lambda args, kws: template_of(tuple(map(any_value, args)), kws)
    return compiled  # type: ignore[no-any-return]


def kernel(function: _F, *, nogil: bool = True) -> _F:
    """Compile a function that Python calls, and keep its machine code on disk where that is possible."""
    compiled = numba.njit(no_cfunc_wrapper=True, **{**_OPTIONS, "nogil": nogil})(function)
    if not config.DISABLE_JIT and cache_folder() is not None:
        compiled._cache = _KernelCache(compiled.py_func)
    return compiled  # type: ignore[no-any-return]


def kernel_on_objects(function: _F) -> _F:
    """Compile a kernel that asks Python's C API: it keeps the interpreter lock."""
    return kernel(function, nogil=False)


def is_missing(compiled: Any) -> bool:
    """Whether a kernel's machine code could be on the disk, from these sources, but is not."""
    file = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    return file is not None and not file._load_index()


@cache
def source_stamp() -> str:
    """A digest of every kernel file: machine code of other sources than these is never run."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(_HERE.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def cache_folder() -> Path | None:
    """The first writable place for machine code: ``NUMBA_CACHE_DIR``, the package, the user's cache."""
    tried = (
        [Path(config.CACHE_DIR) / "cleval_tm"] if config.CACHE_DIR else [_HERE / "__pycache__", _user_cache()]
    )
    for folder in tried:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    warnings.warn(
        f"cleval_tm compiles its kernels anew in every process: none of {', '.join(map(str, tried))} can be "
        "written. Set NUMBA_CACHE_DIR to a writable folder.",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


def _user_cache() -> Path:
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(base)) / "cleval_tm"


class _Locator(_CacheLocator):  # type: ignore[misc]
    """Tells numba where a kernel's machine code lies and which sources it belongs to."""

    def __init__(self, folder: Path, py_file: str) -> None:
        self._folder = folder
        self._py_file = py_file  # numba names it where it cannot cache

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return source_stamp()

    def get_disambiguator(self) -> str:
        return source_stamp()[:12]

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _Locator | None:
        folder = cache_folder()
        return None if folder is None else cls(folder, py_file)


class _KernelCacheImpl(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


class _KernelCache(FunctionCache):  # type: ignore[misc]
    _impl_class = _KernelCacheImpl

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        # As the base class does, but machine code asks for the runtime alone: what else a compilation asks for takes
        # half a second to import.
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:  # a full disk must not cost a result
            warnings.warn(
                f"cleval_tm could not keep a compiled kernel: {error}", RuntimeWarning, stacklevel=2
            )
