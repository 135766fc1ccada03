"""What torchmetrics users take for granted, tried on our metric and on the official class.

    python benchmarks/metric_contract.py            # prints the table of docs/metric.md

Each check is a function of a `Subject`; it passes if it returns True, and fails on False or an exception.
"""

from __future__ import annotations

import copy
import pickle
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torchmetrics import Metric, MetricCollection
from torchmetrics.wrappers import MinMaxMetric, Running

from cleval_tm import CLEvalMetric

Check = Callable[["Subject"], bool]
CHECKS: list[tuple[str, Check]] = []
WORD = np.array([[10, 10, 90, 10, 90, 30, 10, 30]], dtype=np.float32)


@dataclass
class Subject:
    """A metric class, and how an image is handed to it."""

    name: str
    make: Callable[..., Metric]
    image: Callable[..., tuple[Any, ...]]
    scale_wise: dict[str, Any]
    cased: dict[str, Any]
    uncased: dict[str, Any]
    hmean: str

    def fed(self, metric: Metric | None = None, images: int = 6, **kind: Any) -> Metric:
        """The metric after so many images, each another."""
        metric = self.make() if metric is None else metric
        for number in range(images):
            metric.update(*self.image(number, **kind))
        return metric


def check(text: str) -> Callable[[Check], Check]:
    def add(function: Check) -> Check:
        CHECKS.append((text, function))
        return function

    return add


def shapes(number: int, kind: str) -> Any:
    """A page of three words, the detections a little off; as an array, a tensor or a list."""
    quads = np.concatenate([WORD + 40 * row for row in range(3)]) + number
    return {
        "numpy": lambda: quads,
        "list": lambda: quads.tolist(),
        "bfloat16": lambda: torch.tensor(quads, dtype=torch.bfloat16),
        "requires grad": lambda: torch.tensor(quads, requires_grad=True),
    }[kind]()


def ours(
    number: int,
    kind: str = "numpy",
    texts: bool = True,
    text: str = "word",
    ident: Any = None,
    sized: bool = False,
) -> Any:
    pred = {"polygons": shapes(number, kind)[number % 2 :]}
    target = {"polygons": shapes(number, kind)}
    if texts:
        pred["texts"], target["texts"] = [text] * len(pred["polygons"]), ["word"] * 3
    if ident is not None:
        target["image_id"] = ident
    if sized:
        target["image_size"] = (1000, 800)
    return [pred], [target]


def official(
    number: int,
    kind: str = "numpy",
    texts: bool = True,
    text: str = "word",
    ident: Any = None,
    sized: bool = False,
) -> Any:
    quads = shapes(number, kind)
    letters = ([text] * (3 - number % 2), ["word"] * 3) if texts else (None, None)
    return (quads[number % 2 :], quads, *letters, [False] * 3, *([1000] if sized else []))


def numbers(result: Any) -> list[float]:
    """All figures of a result, nested dicts included."""
    if isinstance(result, dict):
        return [figure for value in result.values() for figure in numbers(value)]
    return [float(result)]


@check("class constants (`is_differentiable`, `higher_is_better`, plot bounds) are set")
def _(s: Subject) -> bool:
    kind = type(s.make())
    return (kind.is_differentiable, kind.higher_is_better, kind.plot_upper_bound) == (False, True, 1.0)


@check("base-class keyword arguments pass through")
def _(s: Subject) -> bool:
    return not s.make(sync_on_compute=False).sync_on_compute


@check("`compute` before `update` gives finite zeros")
def _(s: Subject) -> bool:
    return set(numbers(s.make().compute())) == {0.0}


@check("`compute` gives a flat dict of 0-d float32 tensors, whatever the data")
def _(s: Subject) -> bool:
    results = [s.make().compute(), s.fed().compute()]
    return all(
        isinstance(value, torch.Tensor) and value.dtype == torch.float32 and value.ndim == 0
        for result in results
        for value in result.values()
    )


@check("changing the returned dict does not change the next `compute`")
def _(s: Subject) -> bool:
    metric = s.fed()
    metric.compute().clear()
    return len(metric.compute()) > 0


@check("pickle, deepcopy, `clone` keep the state; hashes differ")
def _(s: Subject) -> bool:
    metric = s.fed()
    copies = [pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric), metric.clone()]
    same = all(numbers(one.compute()) == numbers(metric.compute()) for one in copies)
    return same and len({hash(one) for one in (metric, *copies)}) == 4


@check("`state_dict` is empty by default, and restores exactly with `persistent(True)`")
def _(s: Subject) -> bool:
    metric, other = s.fed(), s.make()
    empty = not metric.state_dict()
    metric.persistent(True)
    other.load_state_dict(metric.state_dict())
    other.load_state_dict(metric.state_dict())
    return empty and numbers(other.compute()) == numbers(metric.compute())


@check("loading a state of another shape or dtype is refused")
def _(s: Subject) -> bool:
    metric = s.fed()
    metric.persistent(True)
    broken = {name: table.half().reshape(-1)[:1] for name, table in metric.state_dict().items()}
    try:
        s.make().load_state_dict(broken)
    except RuntimeError:
        return True
    return False


@check("lists")
def _(s: Subject) -> bool:
    return numbers(s.fed(kind="list").compute()) == numbers(s.fed().compute())


@check("bfloat16 tensors")
def _(s: Subject) -> bool:
    return all(np.isfinite(numbers(s.fed(kind="bfloat16").compute())))


@check("tensors that require grad")
def _(s: Subject) -> bool:
    return numbers(s.fed(kind="requires grad").compute()) == numbers(s.fed().compute())


@check("detection without texts")
def _(s: Subject) -> bool:
    metric = s.make(e2e=False) if s.name == "ours" else s.make()
    return numbers(s.fed(metric, texts=False).compute())[0] > 0


@check("`half`, `bfloat16`, `set_dtype(half)`: figures unchanged to the bit after 300 more images")
def _(s: Subject) -> bool:
    truth = numbers(s.fed(images=306).compute())
    metric = s.fed().half()
    metric = metric.bfloat16().set_dtype(torch.half)
    for number in range(6, 306):
        metric.update(*s.image(number))
    return numbers(metric.compute()) == truth


@check("made and updated in inference mode, used outside")
def _(s: Subject) -> bool:
    with torch.inference_mode():
        metric = s.fed()
    return numbers(s.fed(metric).compute())[0] > 0


@check("a module that holds it exports to TorchScript")
def _(s: Subject) -> bool:
    torch.jit.script(torch.nn.Sequential(torch.nn.Linear(1, 1)))
    module = torch.nn.Linear(1, 1)
    module.metric = s.make()
    return torch.jit.script(module)(torch.zeros(1, 1)).shape == (1, 1)


@check("an `update` that raises changes neither state nor update count")
def _(s: Subject) -> bool:
    metric = s.fed()
    before = metric.update_count, numbers(metric.compute())
    try:
        metric.update(*(None for _ in s.image(0)))
    except Exception:
        return (metric.update_count, numbers(metric.compute())) == before
    return False


@check("a `forward` that raises keeps the epoch so far")
def _(s: Subject) -> bool:
    metric = s.fed()
    before = numbers(metric.compute())
    try:
        metric(*(None for _ in s.image(0)))
    except Exception:
        return numbers(metric.compute()) == before
    return False


@check("`update` while synced raises")
def _(s: Subject) -> bool:
    metric = s.fed()
    metric.sync(dist_sync_fn=lambda value, group: [value], distributed_available=lambda: True)
    try:
        metric.update(*s.image(0))
    except Exception as error:
        return "synced" in str(error)
    return False


@check("`forward` twice and `compute` see every character, scale bins included")
def _(s: Subject) -> bool:
    metric, updated = s.make(**s.scale_wise), s.fed(s.make(**s.scale_wise), sized=True)
    for number in range(6):
        metric(*s.image(number, sized=True))
    counts = [sum(value.sum().item() for value in figures(one)) for one in (metric, updated)]
    return numbers(metric.compute()) == numbers(updated.compute()) and counts[0] == counts[1]


def figures(metric: Metric) -> list[torch.Tensor]:
    """Everything that a metric holds, child metrics in a dict included."""
    held: list[torch.Tensor] = []
    for value in metric.metric_state.values():
        held += value if isinstance(value, list) else [value]
    for child in getattr(metric, "scalewise_metric", {}).values():
        held += figures(child)
    return [value[:, 1:] if value.ndim == 2 else value for value in held]


@check("scale bins are in `state_dict`")
def _(s: Subject) -> bool:
    metric, other = s.fed(s.make(**s.scale_wise), sized=True), s.make(**s.scale_wise)
    metric.persistent(True)
    other.load_state_dict(metric.state_dict())
    return numbers(other.compute()) == numbers(metric.compute())


@check("compute groups never merge other options")
def _(s: Subject) -> bool:
    collection = MetricCollection({"cased": s.make(**s.cased), "uncased": s.make(**s.uncased)})
    collection.update(*s.image(0))
    collection.update(*s.image(0, text="WORD"))
    return collection.compute() is not None and len(collection.compute_groups) == 2


@check("`MetricCollection`, prefix and postfix")
def _(s: Subject) -> bool:
    collection = MetricCollection({"m": s.make()}, prefix="val/")
    collection.update(*s.image(0))
    return f"val/{s.hmean}" in collection.compute()


@check("`Running`")
def _(s: Subject) -> bool:
    running = Running(s.make(), window=2)
    for number in range(4):
        running(*s.image(number))
    last = s.make()
    for number in (2, 3):
        last.update(*s.image(number))
    return numbers(running.compute()) == numbers(last.compute())


@check("one scalar by an option, for `MinMaxMetric` and `self.log`")
def _(s: Subject) -> bool:
    metric = MinMaxMetric(s.make(score=s.hmean))
    metric.update(*s.image(0))
    return metric.compute()["max"] == 1


@check("`merge_state` drops the cached result and refuses other options")
def _(s: Subject) -> bool:
    metric, other = s.fed(), s.fed(images=5)
    before = numbers(metric.compute())
    metric.merge_state(other)
    changed = numbers(metric.compute()) != before
    try:
        metric.merge_state(s.make(**s.uncased))
    except ValueError:
        return changed
    return False


@check("`.plot()`")
def _(s: Subject) -> bool:
    import matplotlib

    matplotlib.use("Agg")
    figure, _ = s.fed().plot()
    return figure is not None


@check("a repeated image (the sampler's padding) counts once")
def _(s: Subject) -> bool:
    metric = s.make()
    for number in (0, 1, 2, 2):
        metric.update(*s.image(number, ident=number))
    whole = s.make()
    for number in (0, 1, 2):
        whole.update(*s.image(number, ident=number))
    return numbers(metric.compute()) == numbers(whole.compute())


@check("sums beyond 2**24 characters are exact")
def _(s: Subject) -> bool:
    metric, long = s.make(), "w" * 4096
    metric.update(*s.image(0, text=long))
    for _ in range(14):
        doubled = {
            name: [*value, *value] if isinstance(value, list) else value * 2
            for name, value in metric.metric_state.items()
        }
        for name, value in doubled.items():
            setattr(metric, name, value)
    return not any(value.is_floating_point() for value in figures(metric))


def collectives(subject: Subject, **options: Any) -> int:
    """Calls of torch.distributed in one synced `compute`."""
    seen: Counter[str] = Counter()
    kept = {name: getattr(dist, name) for name in ("all_gather", "barrier", "all_reduce")}

    def counted(name: str) -> Any:
        return lambda *args, **kwargs: seen.update([name]) or kept[name](*args, **kwargs)

    metric = subject.fed(subject.make(**options), sized=bool(options))
    for name in kept:
        setattr(dist, name, counted(name))
    try:
        metric.compute()
    finally:
        for name, call in kept.items():
            setattr(dist, name, call)
    return sum(seen.values())


def subjects() -> list[Subject]:
    bins = (0.0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.1, 0.5, 1.0)

    from cleval_tm import CLEvalRules

    uncased = {"rules": CLEvalRules.v2023(case_sensitive=False)}
    found = [Subject("ours", CLEvalMetric, ours, {"scale_bins": bins}, {}, uncased, "det_hmean")]
    try:
        from cleval import CLEvalMetric as Official
    except ImportError:
        print("the official package is not installed: pip install 'cleval-tm[oracle]'\n")
    else:
        found.append(
            Subject(
                "official", Official, official, {"scale_wise": True}, {}, {"case_sensitive": False}, "det_h"
            )
        )
    return found


def outcome(function: Check, subject: Subject) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return "passes" if function(subject) else "fails"
        except Exception as error:
            return f"fails ({type(error).__name__})"


def main() -> None:
    tried = subjects()
    print("| what | " + " | ".join(subject.name for subject in tried) + " |")
    print("|---" * (len(tried) + 1) + "|")
    for text, function in CHECKS:
        print(f"| {text} | " + " | ".join(outcome(function, subject) for subject in tried) + " |")
    with tempfile.NamedTemporaryFile() as store:
        dist.init_process_group("gloo", init_method=f"file://{store.name}_", rank=0, world_size=1)
        for text, scale_wise in (
            ("collectives of one sync", False),
            ("the same with eight scale bins", True),
        ):
            counts = [collectives(one, **(one.scale_wise if scale_wise else {})) for one in tried]
            print(f"| {text} | " + " | ".join(map(str, counts)) + " |")
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
