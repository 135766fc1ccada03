"""Leaves things as they were: weights, optimizers, random numbers, threads, environment.

A training step that is measured trains. What it can reach (through closures, bound methods, partials, globals
it names, attributes) is found by walking, so that a user need not list it.
"""

from __future__ import annotations

import copy
import functools
import os
import random
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

Restore = Callable[[], object]

_MOST_OBJECTS = 20_000
_LONGEST_CONTAINER = 256
_LEAVES = (str, bytes, int, float, complex, bool, type(None), type, types.ModuleType, torch.Tensor)
_LIBRARIES = frozenset({"torch", "numpy", "lightning", "pytorch_lightning", "torchmetrics", "torchvision"})


@contextmanager
def left_as_it_was(*roots: Any) -> Iterator[None]:
    """Restore, at the end of the ``with`` block, what ``roots`` can reach and the process's own state.

    Args:
        roots: Objects to walk from: a step function, loaders, modules, optimizers.

    Restored are: parameters, buffers, gradients, training mode and plain attributes of every module; whatever
    has ``state_dict`` and ``load_state_dict`` (optimizers, schedulers, scalers); random number generators,
    global and reachable; torch's and OpenCV's thread counts; gradient mode; ``os.environ``.
    """
    restores = [*_process_state(), *_reachable_state(roots)]
    try:
        yield
    finally:
        for restore in reversed(restores):
            restore()


def _process_state() -> list[Restore]:
    restores: list[Restore] = [
        functools.partial(random.setstate, random.getstate()),
        functools.partial(torch.set_rng_state, torch.get_rng_state()),
        functools.partial(_set_threads, torch.get_num_threads()),
        functools.partial(torch.set_grad_enabled, torch.is_grad_enabled()),
        functools.partial(_set_environment, dict(os.environ)),
    ]
    if "numpy" in sys.modules:
        import numpy as np

        restores.append(functools.partial(np.random.set_state, np.random.get_state()))  # noqa: NPY002
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        restores.append(functools.partial(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    if torch.backends.mps.is_available():
        restores.append(functools.partial(torch.mps.set_rng_state, torch.mps.get_rng_state()))
    if "cv2" in sys.modules:
        cv2 = sys.modules["cv2"]
        restores.append(functools.partial(cv2.setNumThreads, cv2.getNumThreads()))
    return restores


def _set_threads(number: int) -> None:
    if torch.get_num_threads() != number:
        torch.set_num_threads(number)


def _set_environment(saved: dict[str, str]) -> None:
    for name in os.environ.keys() - saved.keys():
        del os.environ[name]
    for name, value in saved.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _reachable_state(roots: Iterable[Any]) -> list[Restore]:
    restores: list[Restore] = []
    seen_modules: set[int] = set()
    for found in reachable(roots):
        if isinstance(found, torch.nn.Module):
            for module in found.modules():
                if id(module) not in seen_modules:
                    seen_modules.add(id(module))
                    restores.append(_module_state(module))
        elif (restore := _generator_state(found)) is not None:
            restores.append(restore)
        elif _has_state_dict(found):
            restores.append(functools.partial(found.load_state_dict, copy.deepcopy(found.state_dict())))
    return restores


def _has_state_dict(found: Any) -> bool:
    # A loader's state_dict (torchdata's) would start its workers, for the sake of an iterator not kept here.
    if hasattr(found, "num_workers") or isinstance(found, torch.utils.data.Dataset):
        return False
    return callable(getattr(found, "state_dict", None)) and callable(getattr(found, "load_state_dict", None))


def _generator_state(found: Any) -> Restore | None:
    if isinstance(found, torch.Generator):
        return functools.partial(found.set_state, found.get_state())
    if isinstance(found, random.Random):
        return functools.partial(found.setstate, found.getstate())
    if "numpy" in sys.modules:
        import numpy as np

        if isinstance(found, np.random.RandomState):
            return functools.partial(found.set_state, found.get_state())
        if isinstance(found, np.random.Generator):
            return functools.partial(setattr, found.bit_generator, "state", found.bit_generator.state)
    return None


def _module_state(module: torch.nn.Module) -> Restore:
    """One module without its children: tensors by value into the same objects, plain attributes by value."""
    own: dict[str, Any] = {name: value for name, value in vars(module).items() if name != "_modules"}
    tables = {name: dict(value) for name, value in own.items() if name in ("_parameters", "_buffers")}
    tensors = [t for table in tables.values() for t in table.values() if t is not None]
    tensors += [value for value in own.values() if isinstance(value, torch.Tensor)]
    values = [(tensor, tensor.device, _kept(tensor)) for tensor in tensors]
    gradients = [(p, None if p.grad is None else (p.grad, _kept(p.grad))) for p in tensors if p.is_leaf]
    plain = {
        name: value
        for name, value in own.items()
        if isinstance(value, (bool, int, float, str, type(None), torch.Tensor)) and name not in tables
    }
    lists = [(value, list(value)) for value in own.values() if isinstance(value, list)]

    def restore() -> None:
        with torch.no_grad():
            for name, table in tables.items():
                current = vars(module)[name]
                current.clear()
                current.update(table)
            vars(module).update(plain)
            for held, before in lists:
                held[:] = before
            for tensor, device, value in values:
                if tensor.device != device:  # a Trainer leaves the model on the host
                    tensor.data = tensor.data.to(device)
                tensor.data.copy_(value)
            for parameter, gradient in gradients:
                parameter.grad = gradient and gradient[0]
                if gradient:
                    gradient[0].copy_(gradient[1])

    return restore


def _kept(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the host: a second copy of a large model might not fit on the device."""
    return tensor.detach().to("cpu", copy=True)


def reachable(roots: Iterable[Any]) -> Iterator[Any]:
    """Objects reachable from ``roots``: modules, optimizers, generators and what lies between. Breadth first.

    Modules, tensors and arrays are not entered; long containers neither (they hold data, not state).
    """
    seen: set[int] = set()
    queue = list(roots)
    for found in queue:
        if id(found) in seen or isinstance(found, _LEAVES) or len(seen) > _MOST_OBJECTS:
            continue
        seen.add(id(found))
        yield found
        if not isinstance(found, torch.nn.Module):
            queue.extend(_parts(found))


def _parts(found: Any) -> list[Any]:
    if isinstance(found, (list, tuple, set, frozenset)):
        return list(found) if len(found) <= _LONGEST_CONTAINER else []
    if isinstance(found, Mapping):
        return list(found.values()) if len(found) <= _LONGEST_CONTAINER else []
    if isinstance(found, types.MethodType):
        return [found.__self__, found.__func__]
    if isinstance(found, functools.partial):
        return [found.func, *found.args, *found.keywords.values()]
    if isinstance(found, types.FunctionType):
        return _named_by(found)
    if type(found).__module__.split(".")[0] in sys.stdlib_module_names:
        return []
    parts = list(vars(found).values()) if hasattr(found, "__dict__") else []
    call = next((vars(kind)["__call__"] for kind in type(found).__mro__ if "__call__" in vars(kind)), None)
    return [*parts, call] if isinstance(call, types.FunctionType) else parts


def _named_by(function: types.FunctionType) -> list[Any]:
    """What a function holds on to: closure, defaults, and the globals that its code names."""
    if function.__module__ and function.__module__.split(".")[0] in _LIBRARIES | sys.stdlib_module_names:
        return []
    parts = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    parts.extend(function.__defaults__ or ())
    parts.extend((function.__kwdefaults__ or {}).values())
    codes = [function.__code__]
    for code in codes:
        parts.extend(function.__globals__[name] for name in code.co_names if name in function.__globals__)
        codes.extend(const for const in code.co_consts if isinstance(const, types.CodeType))
    return parts


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
