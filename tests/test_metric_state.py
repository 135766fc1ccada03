"""The state of CLEvalMetric: precision, merging, checkpoints."""

from __future__ import annotations

import copy

import pytest
import torch
from test_metric import BINS, bits, images, updated
from torchmetrics import MetricCollection
from torchmetrics.utilities.exceptions import TorchMetricsUserError

from cleval_tm import CLEvalMetric, CLEvalRules, evaluate
from cleval_tm.encode import GroundTruth


@pytest.fixture(scope="module")
def corpus():
    return images(20)


@pytest.fixture(scope="module")
def truth(corpus):
    return bits(updated(CLEvalMetric(scale_bins=BINS), *corpus).compute())


CASTS = {
    "half": lambda metric: metric.half(),
    "bfloat16": lambda metric: metric.bfloat16(),
    "double": lambda metric: metric.double(),
    "set_dtype half": lambda metric: metric.set_dtype(torch.half),
    "set_dtype bfloat16": lambda metric: metric.set_dtype(torch.bfloat16),
    "set_dtype int8": lambda metric: metric.set_dtype(torch.int8),
    "type": lambda metric: metric.type(torch.half),
    "to": lambda metric: metric.to(torch.bfloat16),
    "in a module": lambda metric: torch.nn.ModuleList([metric]).to(torch.bfloat16).half(),
}


@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS.keys())
def test_no_cast_touches_a_figure(corpus, truth, cast, per_image):
    preds, target = corpus
    metric = updated(CLEvalMetric(scale_bins=BINS, per_image=per_image), preds[:10], target[:10])
    metric.compute()
    cast(metric)
    assert all(value.dtype == torch.float32 for value in metric.compute().values())
    metric(preds[10:], target[10:])
    result = metric.compute()
    assert all(value.dtype == torch.float32 for value in result.values())
    assert bits(result) == {name: value for name, value in truth.items() if name in result}
    assert all(part.dtype == torch.int64 for part in metric.metric_state[metric._state])


def test_counts_far_beyond_float_precision_are_exact():
    word = {"polygons": [[10, 10, 90, 10, 90, 30, 10, 30]], "texts": ["w" * 9]}
    metric = CLEvalMetric(per_image=False)
    metric.update([word], [word])
    for _ in range(30):
        metric.merge_state(metric.metric_state)
    metric.set_dtype(torch.half)
    metric.update([word], [word])
    assert metric.compute_counts()["chars_gt"] == 9 * (2**30 + 1)
    assert metric.compute_counts()["images"] == 2**30 + 1


def test_device_moves_are_followed(corpus):
    metric = updated(CLEvalMetric(), *corpus)
    moved = copy.deepcopy(metric).to("meta")
    assert {part.device.type for part in moved.metric_state[moved._state]} == {"meta"}
    assert moved.device.type == "meta"
    assert metric.device.type == "cpu"


@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("by", ["metric", "state"])
def test_merging_gives_the_bits_of_one_metric(corpus, truth, by, per_image):
    preds, target = corpus
    options = {"scale_bins": BINS, "per_image": per_image}
    whole, part = (
        updated(CLEvalMetric(**options), preds[start:end], target[start:end])
        for start, end in ((0, 7), (7, 20))
    )
    whole.compute()  # a cache that the merge must drop
    whole.merge_state(part if by == "metric" else part.metric_state)
    result = bits(whole.compute())
    assert result == {name: value for name, value in truth.items() if name in result}
    assert whole.compute_counts()["images"] == 20
    part.reset()
    assert whole.compute_counts()["images"] == 20


@pytest.mark.parametrize(
    "other",
    [
        CLEvalMetric("v2020"),
        CLEvalMetric(CLEvalRules.v2023(ap_constraint=0.4)),
        CLEvalMetric(e2e=False),
        CLEvalMetric(per_image=False),
        CLEvalMetric(scale_bins=(0, 1)),
    ],
    ids=["rules", "rule", "e2e", "sums", "bins"],
)
def test_merging_other_options_is_refused(corpus, other):
    metric = updated(CLEvalMetric(), *corpus)
    before, count = bits(metric.compute()), metric.update_count
    for incoming in (other, other.metric_state):
        with pytest.raises(ValueError, match="with the same options"):
            metric.merge_state(incoming)
    assert bits(metric.compute()) == before
    assert metric.update_count == count


def test_images_counted_elsewhere_can_be_added(corpus, truth):
    preds, target = corpus
    metric = CLEvalMetric(scale_bins=BINS)
    for part in (slice(0, 6), slice(6, 20), slice(0, 2)):
        counted = evaluate(preds[part], target[part], scale_bins=BINS)
        metric.add_counts(counted.counts, counted.image_ids, counted.scale_counts)
        metric.compute()  # a cache that the next part must drop
    assert bits(metric.compute()) == truth
    assert metric.update_count == 3
    for wrong in (
        (counted.counts, ["a"], counted.scale_counts),
        (counted.counts[:, :5], counted.image_ids, counted.scale_counts),
        (counted.counts, counted.image_ids),
        (counted.counts, counted.image_ids, counted.scale_counts[:, :1]),
    ):
        with pytest.raises(ValueError, match="to be of shape"):
            metric.add_counts(*wrong)
    with pytest.raises(ValueError, match="`scale_counts` to be of shape None"):
        CLEvalMetric().add_counts(counted.counts, counted.image_ids, counted.scale_counts)
    assert bits(metric.compute()) == truth


def test_encoded_ground_truth(corpus, truth):
    preds, target = corpus
    encoded = GroundTruth(target, "v2023", scale_bins=BINS)
    metric = CLEvalMetric(scale_bins=BINS)
    for some in ([3, 1], [*range(4, 20)], [0, 2]):
        metric([preds[i] for i in some], encoded.select(some))
    assert bits(metric.compute()) == truth
    with pytest.raises(ValueError, match="scale_bins"):
        CLEvalMetric().update(preds, encoded)


def test_merging_what_is_no_state_is_refused(corpus):
    metric = updated(CLEvalMetric(), *corpus)
    with pytest.raises(ValueError, match="`incoming_state`"):
        metric.merge_state([1])
    for wrong in (torch.zeros(2, 3), torch.zeros((2, 22)), [torch.zeros((2, 9), dtype=torch.int64)], ["x"]):
        with pytest.raises(ValueError, match=r"int64 of shape \(n, 22\) but got"):
            metric.merge_state({metric._state: wrong})
    assert metric.compute_counts()["images"] == 20


def test_nothing_is_saved_unless_asked(corpus):
    assert updated(CLEvalMetric(), *corpus).state_dict() == {}


@pytest.mark.parametrize("per_image", [True, False])
def test_a_checkpoint_mid_epoch_restores_exactly(corpus, tmp_path, per_image):
    preds, target = corpus
    options = {"scale_bins": BINS, "per_image": per_image}
    metric = updated(CLEvalMetric(**options), preds[:9], target[:9])
    metric.persistent(True)
    torch.save(metric.state_dict(), tmp_path / "metric.pt")
    truth = bits(updated(metric, preds[9:], target[9:]).compute())

    again = CLEvalMetric(**options)
    again.persistent(True)
    again.load_state_dict(torch.load(tmp_path / "metric.pt", weights_only=True))
    assert again.update_called
    assert bits(updated(again, preds[9:], target[9:]).compute()) == truth


def test_a_checkpoint_of_an_empty_metric_loads(corpus):
    metric = CLEvalMetric()
    metric.persistent(True)
    other = updated(CLEvalMetric(), *corpus)
    other.load_state_dict(metric.state_dict())
    assert other.compute_counts()["images"] == 0


def test_loading_copies(corpus):
    metric = updated(CLEvalMetric(), *corpus)
    metric.persistent(True)
    saved = metric.state_dict()
    other = CLEvalMetric()
    other.load_state_dict(saved)
    for table in saved.values():
        table.zero_()
    assert bits(other.compute()) == bits(metric.compute())


def test_loading_checks_options_shape_and_dtype(corpus):
    metric = updated(CLEvalMetric(), *corpus)
    metric.persistent(True)
    saved = metric.state_dict()
    other = CLEvalMetric(e2e=False)
    other.persistent(True)
    with pytest.raises(RuntimeError, match=r"(?s)Missing key.*table_.*Unexpected key.*table_"):
        other.load_state_dict(saved)
    other.load_state_dict(saved, strict=False)
    assert not other.update_called
    [(name, table)] = saved.items()
    for wrong in (table.half(), table[:, :9], table[0], "table"):
        with pytest.raises(RuntimeError, match=r"int64 of shape \(n, 22\) but got"):
            metric.load_state_dict({name: wrong})
    assert metric.compute_counts()["images"] == 20


def test_loading_into_a_synced_metric_ends_the_sync(corpus):
    metric = updated(CLEvalMetric(), *corpus)
    metric.persistent(True)
    saved = metric.state_dict()
    metric.sync(dist_sync_fn=lambda rows, group: [rows, rows], distributed_available=lambda: True)
    metric.load_state_dict(saved)
    metric.update(*images(1, first_seed=100))
    assert metric.compute_counts()["images"] == 21


def test_a_collection_saves_and_loads(corpus):
    collection = MetricCollection({"a": CLEvalMetric(score="det_hmean"), "b": CLEvalMetric(e2e=False)})
    collection.persistent(True)
    collection.update(*corpus)
    other = MetricCollection({"a": CLEvalMetric(score="det_hmean"), "b": CLEvalMetric(e2e=False)})
    other.persistent(True)
    other.load_state_dict(collection.state_dict())
    assert bits(other.compute()) == bits(collection.compute())


def test_a_compute_that_raises_leaves_the_metric_unsynced(corpus):
    metric = updated(CLEvalMetric(distributed_available_fn=lambda: True), *corpus)
    metric.dist_sync_fn = lambda rows, group: [rows, torch.zeros(1, 5, dtype=torch.int64)]
    with pytest.raises(RuntimeError):
        metric.compute()
    assert not metric._is_synced
    metric.dist_sync_fn = lambda rows, group: [rows, rows]
    assert metric.compute_counts()["images"] == 20
    with pytest.raises(TorchMetricsUserError, match="un-synced"):
        metric.unsync()


def test_a_forward_whose_sync_raises_keeps_the_epoch(corpus):
    preds, target = corpus

    def broken(rows, group):
        raise RuntimeError("connection lost")

    metric = CLEvalMetric(dist_sync_on_step=True, distributed_available_fn=lambda: True, dist_sync_fn=broken)
    updated(metric, preds[:10], target[:10])
    with pytest.raises(RuntimeError, match="connection lost"):
        metric(preds[10:], target[10:])
    assert not metric._is_synced
    metric.dist_sync_fn = lambda rows, group: [rows]
    assert metric.compute_counts()["images"] == 10
    assert metric.update_count == 3
