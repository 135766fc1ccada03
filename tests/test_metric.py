"""CLEvalMetric as torchmetrics users take a metric for granted."""

from __future__ import annotations

import copy
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from strategies import random_images
from torchmetrics import MetricCollection, MetricTracker
from torchmetrics.utilities.exceptions import TorchMetricsUserError
from torchmetrics.wrappers import BootStrapper, MinMaxMetric, Running

from cleval_tm import COUNTS, CLEvalMetric, CLEvalRules, evaluate
from cleval_tm.table import NO_ID, distinct_rows, image_key

BINS = (0, 0.05, 0.3, 1)
WORD = [[10, 10, 90, 10, 90, 30, 10, 30]]
LOW = [[10, 50, 90, 50, 90, 70, 10, 70]]


def images(count: int, first_seed: int = 0, ids: bool = True):
    preds, target = random_images(count, first_seed)
    if ids:
        for number, image in enumerate(target):
            image["image_id"] = f"img_{first_seed + number}"
    return preds, target


def batches(preds, target, size):
    return [(preds[i : i + size], target[i : i + size]) for i in range(0, len(preds), size)]


def updated(metric: CLEvalMetric, preds, target, size: int = 4) -> CLEvalMetric:
    for batch in batches(preds, target, size):
        metric.update(*batch)
    return metric


def bits(result) -> dict[str, float]:
    return {name: value.item() for name, value in result.items()}


@pytest.fixture(scope="module")
def corpus():
    return images(24)


@pytest.mark.parametrize("rules", ["v2023", "v2020", "upstage"])
@pytest.mark.parametrize("scale_bins", [None, BINS])
def test_scores_are_those_of_evaluate(corpus, rules, scale_bins):
    e2e = rules != "upstage"
    truth = evaluate(*corpus, rules, e2e=e2e, scale_bins=scale_bins)
    metric = updated(CLEvalMetric(rules, e2e=e2e, scale_bins=scale_bins), *corpus)
    result = metric.compute()
    assert list(result) == list(truth.scores())
    assert bits(result) == {name: float(np.float32(value)) for name, value in truth.scores().items()}
    assert metric.compute_counts() == truth.totals()


def test_class_constants_can_not_be_changed():
    metric = CLEvalMetric()
    assert (metric.is_differentiable, metric.higher_is_better, metric.full_state_update) == (
        False,
        True,
        False,
    )
    assert (metric.plot_lower_bound, metric.plot_upper_bound) == (0.0, 1.0)
    for name in ("is_differentiable", "higher_is_better", "full_state_update", "plot_lower_bound"):
        with pytest.raises(RuntimeError, match="const"):
            setattr(metric, name, None)


def test_keyword_arguments_of_the_base_class_pass_through():
    metric = CLEvalMetric(
        dist_sync_on_step=True, sync_on_compute=False, compute_with_cache=False, compute_on_cpu=True
    )
    assert metric.dist_sync_on_step
    assert not metric.sync_on_compute
    assert not metric.compute_with_cache
    assert metric.compute_on_cpu
    metric.update(*images(2))
    assert metric.compute_counts()["images"] == 2
    with pytest.raises(ValueError, match="unknown_option"):
        CLEvalMetric(unknown_option=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rules": "v1999"}, "`rules`"),
        ({"score": "f1"}, "`score` to be None or one of det_recall.*but got 'f1'"),
        ({"score": "mean_det_hmean", "per_image": False}, "`score`"),
        ({"scale_bins": [0.5]}, "`scale_bins`"),
        ({"rules": "v2020", "per_image": False}, "`per_image` to be True"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        CLEvalMetric(**arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_result_is_a_flat_dict_of_float32_scalars(corpus, dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        metric = CLEvalMetric(scale_bins=BINS)
        with pytest.warns(UserWarning, match="before the ``update``"):
            empty = metric.compute()
        result = updated(metric, *corpus).compute()
    finally:
        torch.set_default_dtype(before)
    assert list(empty) == list(result) == list(metric.score_names)
    assert all(value.dtype == torch.float32 and value.shape == () for value in result.values())
    assert all(value.item() == 0 for value in empty.values())


@pytest.mark.parametrize("score", [None, "e2e_hmean"])
def test_the_returned_result_is_the_users(corpus, score):
    metric = updated(CLEvalMetric(score=score), *corpus)
    first = metric.compute()
    for value in [first] if score else first.values():
        value.fill_(7)
    if not score:
        first.clear()
    second = metric.compute()
    assert (second if score else second["e2e_hmean"]).item() == pytest.approx(
        evaluate(*corpus).scores()["e2e_hmean"], abs=1e-7
    )


def test_score_asks_for_one_scalar(corpus):
    metric = updated(CLEvalMetric(score="mean_det_recall"), *corpus)
    assert metric.compute().shape == ()
    assert metric.compute().item() == np.float32(evaluate(*corpus).scores()["mean_det_recall"])


def _as_tensors(image, dtype):
    return {
        key: torch.tensor(np.asarray(value, dtype=np.float64), dtype=dtype, requires_grad=True)
        if key == "polygons"
        else torch.tensor(value)
        if key == "ignore"
        else value
        for key, value in image.items()
    }


@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16", "list"])
def test_tensors_arrays_and_lists_give_the_same(kind):
    quads = np.array([[10, 10, 90, 12, 88, 30, 8, 30], [0, 50, 64, 50, 64, 60, 0, 60]])
    pred = {"polygons": quads + 2, "texts": ["word", "worse"]}
    target = {"polygons": quads, "texts": ["word", "words"], "ignore": np.array([False, True])}
    truth = evaluate([pred], [target]).scores()
    if kind == "list":
        sides = (
            {**pred, "polygons": (quads + 2).tolist()},
            {**target, "polygons": quads.tolist(), "ignore": [False, True]},
        )
    else:
        sides = tuple(_as_tensors(image, getattr(torch, kind)) for image in (pred, target))
    metric = CLEvalMetric()
    metric.update(*([side] for side in sides))
    assert bits(metric.compute()) == {name: float(np.float32(value)) for name, value in truth.items()}
    assert not any(value.requires_grad for value in metric.compute().values())


class Away(torch.Tensor):
    """A tensor that says it is on an accelerator, and counts how often something is copied to the host."""

    copies = 0

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function == torch.Tensor.device.__get__:
            return torch.device("meta")
        result = super().__torch_function__(function, types, args, kwargs or {})
        if function is torch.Tensor.cpu:
            Away.copies += 1
            return result.as_subclass(torch.Tensor)
        return result


@pytest.mark.parametrize("ragged", [False, True])
def test_a_batch_on_an_accelerator_is_copied_once(ragged, monkeypatch):
    preds, target = images(12)

    def away(image):
        moved = dict(image)
        quads = torch.tensor(np.asarray(image["polygons"]), dtype=torch.float64).as_subclass(Away)
        moved["polygons"] = list(quads) if ragged else quads
        if "ignore" in image:
            moved["ignore"] = torch.tensor(image["ignore"]).as_subclass(Away)
        return moved

    monkeypatch.setattr(Away, "copies", 0)
    truth = evaluate(*([dict(image, box_type="quad") for image in side] for side in (preds, target)))
    metric = CLEvalMetric()
    metric.update(*([{**away(image), "box_type": "quad"} for image in side] for side in (preds, target)))
    assert Away.copies == 1
    assert metric.compute_counts() == truth.totals()


@pytest.mark.parametrize("copied", ["pickle", "deepcopy", "clone"])
def test_copies_hold_the_state_and_go_their_own_way(corpus, copied):
    preds, target = corpus
    metric = updated(CLEvalMetric(scale_bins=BINS), preds[:12], target[:12])
    first = bits(metric.compute())
    twin = {
        "pickle": lambda m: pickle.loads(pickle.dumps(m)),
        "deepcopy": copy.deepcopy,
        "clone": lambda m: m.clone(),
    }[copied](metric)
    assert type(twin) is CLEvalMetric
    assert hash(twin) != hash(metric)
    assert bits(twin.compute()) == first
    updated(twin, preds[12:], target[12:])
    assert bits(metric.compute()) == first
    assert bits(twin.compute()) == bits(updated(metric, preds[12:], target[12:]).compute())


@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("ids", [True, False])
def test_order_and_batch_size_do_not_show(per_image, ids):
    preds, target = images(24, ids=ids)
    truth = bits(updated(CLEvalMetric(per_image=per_image), preds, target, 24).compute())
    for seed, size in enumerate((1, 5, 7)):
        order = np.random.default_rng(seed).permutation(24)
        metric = updated(
            CLEvalMetric(per_image=per_image), [preds[i] for i in order], [target[i] for i in order], size
        )
        assert bits(metric.compute()) == truth
        assert metric.compute_counts()["images"] == 24
        assert metric.update_count == math.ceil(24 / size)


def test_sums_give_the_corpus_scores_of_rows(corpus):
    rows = updated(CLEvalMetric(scale_bins=BINS), *corpus)
    sums = updated(CLEvalMetric(scale_bins=BINS, per_image=False), *corpus)
    assert sums.compute_counts() == rows.compute_counts()
    kept = bits(sums.compute())
    assert not any(name.startswith("mean_") for name in kept)
    assert kept == {name: value for name, value in bits(rows.compute()).items() if name in kept}
    assert len(sums.compute_table()) == 1


def test_forward_gives_the_batch_and_keeps_the_epoch(corpus):
    metric = CLEvalMetric(scale_bins=BINS)
    for number, (preds, target) in enumerate(batches(*corpus, 5), start=1):
        scores = evaluate(preds, target, scale_bins=BINS).scores()
        assert bits(metric(preds, target)) == {
            name: float(np.float32(value)) for name, value in scores.items()
        }
        assert metric.update_count == number
    assert bits(metric.compute()) == bits(updated(CLEvalMetric(scale_bins=BINS), *corpus).compute())
    assert metric.compute_counts() == evaluate(*corpus).totals()


def test_forward_costs_by_the_batch():
    """What `forward` touches does not grow with the epoch: few tables, joined two at a time."""
    preds, target = images(1, ids=False)
    metric = CLEvalMetric(e2e=False)
    for _ in range(300):
        metric(preds, target)
    state = metric.metric_state[metric._state]
    assert sum(map(len, state)) == 300
    assert len(state) <= 9
    sizes = [len(part) for part in state]
    assert sizes == sorted(sizes, reverse=True)


def test_an_update_that_raises_changes_nothing(corpus):
    preds, target = corpus
    metric = updated(CLEvalMetric(), preds[:8], target[:8])
    state, count, scores = metric.metric_state[metric._state], metric.update_count, bits(metric.compute())
    broken = [*preds[8:11], {"polygons": [[0, 0, float("nan"), 0, 5, 5, 0, 5]], "texts": ["x"]}]
    for call in (metric.update, metric):
        with pytest.raises(ValueError, match=r"preds\[3\]"):
            call(broken, target[8:12])
        assert metric.metric_state[metric._state] is state
        assert metric.update_count == count
        assert not metric._is_synced
        assert bits(metric.compute()) == scores
    assert bits(updated(metric, preds[8:], target[8:]).compute()) == bits(
        updated(CLEvalMetric(), *corpus).compute()
    )


def test_without_texts_the_error_says_what_to_do():
    metric = CLEvalMetric()
    with pytest.raises((ValueError, TypeError), match="e2e=False"):
        metric.update([{"polygons": WORD}], [{"polygons": WORD}])
    assert metric.update_count == 0


def test_repeated_ids_count_once(corpus):
    preds, target = corpus
    truth = bits(updated(CLEvalMetric(), *corpus).compute())
    metric = updated(CLEvalMetric(), preds + preds[:7] + preds[:2], target + target[:7] + target[:2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bits(metric.compute()) == truth
    assert metric.compute_counts()["images"] == 24


def test_of_differing_rows_with_one_id_the_smallest_counts():
    seen = {"polygons": WORD, "texts": ["word"]}
    missed = {"polygons": LOW, "texts": ["word"]}
    target = {**seen, "image_id": 7}
    results = []
    for order in ([seen, missed, seen], [missed, seen, seen]):
        metric = CLEvalMetric()
        metric.update(order, [target] * 3)
        with pytest.warns(UserWarning, match="1 `image_id`s came more than once"):
            results.append(metric.compute_counts())
    assert results[0] == results[1]
    assert results[0]["images"] == 1


def test_images_without_an_id_all_count():
    image = {"polygons": WORD, "texts": ["word"]}
    metric = CLEvalMetric()
    metric.update([image] * 3, [image, image, {**image, "image_id": "a"}])
    assert metric.compute_counts()["images"] == 3


def test_keys_are_stable_and_tell_str_from_int():
    assert (image_key("img_1"), image_key(7)) == (1786358544233893020, 2898747209538923093)
    assert len({image_key(value) for value in ("7", 7, "i7", "s7", None, 8)}) == 6
    assert image_key(None) == NO_ID
    table = np.array([[NO_ID, 1], [NO_ID, 1], [3, 2], [3, 1], [NO_ID + 1, 5]])
    with pytest.warns(UserWarning, match="more than once"):
        assert sorted(distinct_rows(table).tolist()) == sorted(
            [[NO_ID, 1], [NO_ID, 1], [3, 1], [NO_ID + 1, 5]]
        )


def test_inference_mode(corpus):
    preds, target = corpus
    truth = bits(updated(CLEvalMetric(), *corpus).compute())
    with torch.inference_mode():
        metric = updated(CLEvalMetric(), preds[:10], target[:10])
        copied = metric.clone()
    for one in (metric, copied):
        updated(one, preds[10:], target[10:])
        one.to("cpu")
        assert bits(one.compute()) == truth
        one.reset()
        assert bits(updated(one, *corpus).compute()) == truth


def test_a_scripted_module_may_hold_it():
    class Detector(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)
            self.metric = CLEvalMetric(scale_bins=BINS)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(Detector())
        torch.jit.script(CLEvalMetric())
    assert scripted(torch.zeros(1, 2)).shape == (1, 2)


def test_plot(corpus):
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is not installed")
    pyplot.switch_backend("Agg")
    metric = CLEvalMetric()
    steps = [metric(*batch) for batch in batches(*corpus, 8)]
    for figure, axes in (metric.plot(), metric.plot(steps)):
        assert figure is not None
        assert axes.get_ylim()[0] <= 0
        assert axes.get_ylim()[1] >= 1
    scalar = CLEvalMetric(score="det_hmean")
    values = [scalar(*batch) for batch in batches(*corpus, 8)]
    _, own = pyplot.subplots()
    assert scalar.plot(values, ax=own)[1] is own
    pyplot.close("all")


def test_collection_prefix_and_postfix(corpus):
    collection = MetricCollection({"cleval": CLEvalMetric()}, prefix="val/", postfix="_x")
    collection.update(*corpus)
    result = collection.compute()
    assert result["val/det_hmean_x"].item() == np.float32(evaluate(*corpus).scores()["det_hmean"])
    other = collection.clone(prefix="test/")
    assert "test/det_hmean_x" in other.compute()


def test_metrics_with_other_options_never_share_a_compute_group():
    same = {"polygons": WORD, "texts": ["word"]}
    upper = {"polygons": WORD, "texts": ["WORD"]}
    collection = MetricCollection(
        {
            "cased": CLEvalMetric(score="e2e_hmean"),
            "twin": CLEvalMetric(score="det_hmean"),
            "uncased": CLEvalMetric(CLEvalRules.v2023(case_sensitive=False), score="e2e_hmean"),
            "sums": CLEvalMetric(per_image=False, score="e2e_hmean"),
        }
    )
    collection.update([same], [same])
    groups = sorted(sorted(group) for group in collection.compute_groups.values())
    assert groups == [["cased", "twin"], ["sums"], ["uncased"]]
    collection.update([upper], [same])
    assert bits(collection.compute()) == {"cased": 0.5, "twin": 1.0, "uncased": 1.0, "sums": 0.5}
    collection.reset()
    collection.update([upper], [same])
    assert bits(collection.compute()) == {"cased": 0.0, "twin": 1.0, "uncased": 1.0, "sums": 0.0}


def test_equal_options_share_one_update(corpus, monkeypatch):
    import cleval_tm.metric as room

    counted = []
    real = room.count_images
    monkeypatch.setattr(
        room, "count_images", lambda *args, **options: counted.append(1) or real(*args, **options)
    )
    collection = MetricCollection(
        {"recall": CLEvalMetric(score="det_recall"), "precision": CLEvalMetric(score="det_precision")}
    )
    first, second, third, fourth = batches(*corpus, 6)
    collection.update(*first)
    assert len(counted) == 2
    collection.update(*second)
    assert len(counted) == 3
    collection(*third)  # each member counts a batch for itself in `forward`; none may count it for another
    collection.update(*fourth)
    truth = evaluate(*corpus).scores()
    assert bits(collection.compute()) == {
        "recall": float(np.float32(truth["det_recall"])),
        "precision": float(np.float32(truth["det_precision"])),
    }


@pytest.mark.parametrize("per_image", [True, False])
def test_running_window(per_image):
    preds, target = images(20, ids=False)
    metric = Running(CLEvalMetric(scale_bins=BINS, per_image=per_image), window=3)
    for number, batch in enumerate(batches(preds, target, 4)):
        metric.update(*batch) if number % 2 else metric(*batch)
        start = max(0, 4 * (number - 2))
        window = CLEvalMetric(scale_bins=BINS, per_image=per_image)
        updated(window, preds[start : 4 * number + 4], target[start : 4 * number + 4])
        assert bits(metric.compute()) == bits(window.compute())


def test_tracker_over_a_collection(corpus):
    tracker = MetricTracker(
        MetricCollection({"det": CLEvalMetric(score="det_hmean"), "e2e": CLEvalMetric(score="e2e_hmean")}),
        maximize=[True, True],
    )
    for preds, target in batches(*corpus, 8):
        tracker.increment()
        tracker.update(preds, target)
    steps = [evaluate(*batch).scores()["det_hmean"] for batch in batches(*corpus, 8)]
    best, step = tracker.best_metric(return_step=True)
    assert step["det"] == int(np.argmax(steps))
    assert best["det"] == pytest.approx(max(steps), abs=1e-6)


def test_min_max_and_bootstrap():
    quads = torch.tensor(WORD, dtype=torch.float32).repeat(6, 1).reshape(6, 1, 8)
    away = quads.clone()
    away[::2] += 500
    bounds = MinMaxMetric(CLEvalMetric(e2e=False, score="det_hmean"))
    bounds.update(quads, quads)
    assert bounds.compute()["raw"] == 1
    bounds.update(away, quads)
    result = bounds.compute()
    assert result["min"] < result["max"] == 1
    bootstrap = BootStrapper(CLEvalMetric(e2e=False, score="det_recall"), num_bootstraps=20, raw=True)
    torch.manual_seed(0)
    bootstrap.update(away, quads)
    raw = bootstrap.compute()["raw"]
    assert raw.shape == (20,)
    assert 0 <= raw.min() < raw.max() <= 1


def test_metrics_can_be_composed(corpus):
    total = CLEvalMetric(score="det_recall") + CLEvalMetric(score="det_precision")
    total.update(*corpus)
    truth = evaluate(*corpus).scores()
    assert total.compute().item() == pytest.approx(truth["det_recall"] + truth["det_precision"], abs=1e-6)


def test_reset_forgets_everything(corpus):
    metric = updated(CLEvalMetric(), *corpus)
    metric.compute()
    metric.reset()
    assert metric.update_count == 0
    assert metric.compute_counts() == dict.fromkeys([*COUNTS, "images"], 0)


def test_empty_batches_count_nothing():
    for per_image in (True, False):
        metric = CLEvalMetric(per_image=per_image)
        metric.update([], [])
        assert metric.compute_counts()["images"] == 0
        assert all(value == 0 for value in metric.compute().values())
        assert all(math.isfinite(value) for value in metric([], []).values())


def test_update_while_synced_raises(corpus):
    metric = updated(CLEvalMetric(), *corpus)
    metric.sync(dist_sync_fn=lambda rows, group: [rows, rows], distributed_available=lambda: True)
    for call in (metric.update, metric):
        with pytest.raises(TorchMetricsUserError, match="synced"):
            call(*images(1))
    with pytest.raises(TorchMetricsUserError, match="synced"):
        metric.merge_state(CLEvalMetric())
    assert metric.compute_counts()["images"] == 24  # both ranks hold the same ids
    metric.unsync()
    assert metric.update_count == 6
    assert metric.compute_counts()["images"] == 24
