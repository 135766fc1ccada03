"""The evaluator and the callback, in real Trainers of one process."""

from __future__ import annotations

import copy
import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from cleval_tm import CLEvalMetric, CLEvalRules, evaluate
from cleval_tm.compat import UpstageCLEvalMetric
from cleval_tm.lightning import CLEvalEvaluator
from cleval_tm.lightning.orientation import to_displayed

pl = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed (extra `lightning`)")

from cleval_tm.lightning import CLEvalCallback  # noqa: E402

WORD = np.array([[10, 10], [90, 10], [90, 30], [10, 30]])


def receipts(count: int, seed: int = 0):
    """Annotations and a plausible detector's predictions for them."""
    rng = np.random.default_rng(seed)
    anns, preds = {}, {}
    for number in range(count):
        corners = WORD + np.array([[x * 120, y * 40] for y in range(5) for x in range(3)])[:, None]
        words = [word + rng.integers(-3, 4, (4, 2)) for word in corners]
        found = [word + rng.integers(-9, 10, (4, 2)) for word in words if rng.random() < 0.8]
        anns[f"receipt_{number}.jpg"] = words
        preds[f"receipt_{number}.jpg"] = {"boxes": found, "raw_size": (400, 240), "probability_map": None}
    return SimpleNamespace(anns=anns), preds


def fed(evaluator, preds, names=None, size=4):
    names = list(preds) if names is None else names
    for start in range(0, len(names), size):
        batch = names[start : start + size]
        evaluator.update(batch, [preds[name] for name in batch])
    return evaluator


def host_figures(anns, preds, names):
    """What the host does: one image at a time, the float32 scores averaged in float64."""
    metric = UpstageCLEvalMetric()
    rows = []
    for name in names:
        metric.reset()
        metric(
            [box.reshape(-1).tolist() for box in preds[name]["boxes"]],
            [p.reshape(-1).tolist() for p in anns[name]],
        )
        result = metric.compute()
        rows.append([result[key].item() for key in ("recall", "precision", "f1")])
    return dict(zip(("val/recall", "val/precision", "val/hmean"), np.mean(rows, axis=0), strict=True))


def test_image_means_are_the_hosts_figures():
    dataset, preds = receipts(10)
    result = fed(CLEvalEvaluator(dataset), preds).compute()
    for key, value in host_figures(dataset.anns, preds, list(preds)).items():
        assert result[key] == pytest.approx(value, abs=1e-12)


def test_corpus_figures_are_those_of_evaluate():
    dataset, preds = receipts(10)
    result = fed(CLEvalEvaluator(dataset, mode="test"), preds).compute()
    scores = evaluate(
        [{"polygons": preds[name]["boxes"]} for name in preds],
        [{"polygons": dataset.anns[name]} for name in preds],
        "upstage",
        e2e=False,
    ).scores()
    assert list(result) == [
        *("test/recall", "test/precision", "test/hmean"),
        *("test/corpus_recall", "test/corpus_precision", "test/corpus_hmean"),
    ]
    for short in ("recall", "precision", "hmean"):
        assert result[f"test/{short}"] == scores[f"mean_det_{short}"]
        assert result[f"test/corpus_{short}"] == scores[f"det_{short}"]


def test_update_returns_the_scores_of_the_batch():
    dataset, preds = receipts(3)
    names = ["receipt_2.jpg", "receipt_0.jpg"]
    scores = CLEvalEvaluator(dataset).update(names, [preds[name] for name in names])
    assert {key: value.shape for key, value in scores.items()} == dict.fromkeys(
        ("recall", "precision", "hmean"), (2,)
    )
    for position, name in enumerate(names):
        alone = host_figures(dataset.anns, preds, [name])
        assert [scores[key][position] for key in scores] == pytest.approx(list(alone.values()), abs=1e-12)


def test_batch_size_order_and_repeats_do_not_show():
    dataset, preds = receipts(11)
    truth = fed(CLEvalEvaluator(dataset), preds, size=11).compute()
    shuffled = list(np.random.default_rng(1).permutation(list(preds)))
    evaluator = fed(CLEvalEvaluator(dataset), preds, [*shuffled, *shuffled[:5]], size=3)
    assert evaluator.compute() == truth


def test_ground_truth_is_encoded_once(monkeypatch):
    from cleval_tm.lightning import evaluator as room

    encoded = []
    real = room.GroundTruth
    monkeypatch.setattr(
        room, "GroundTruth", lambda target, *a, **k: encoded.extend(target) or real(target, *a, **k)
    )
    dataset, preds = receipts(9)
    evaluator = CLEvalEvaluator(dataset)
    first = fed(evaluator, preds).compute()
    for size in (4, 5):
        evaluator.reset()
        assert fed(evaluator, preds, size=size).compute() == first
    assert len(encoded) == 9


def test_missing_images():
    dataset, preds = receipts(6)
    some = list(preds)[:4]
    skipped = fed(CLEvalEvaluator(dataset), preds, some).compute()
    assert skipped["val/recall"] == pytest.approx(
        host_figures(dataset.anns, preds, some)["val/recall"], abs=1e-12
    )
    zeros = fed(CLEvalEvaluator(dataset, missing="zero"), preds, some)
    result = zeros.compute()
    assert result["val/recall"] == pytest.approx(skipped["val/recall"] * 4 / 6)
    empty = {name: {"boxes": []} for name in preds}
    assert (
        result == fed(CLEvalEvaluator(dataset), {**empty, **{name: preds[name] for name in some}}).compute()
    )
    assert fed(zeros, preds, list(preds)[4:]).compute() == fed(CLEvalEvaluator(dataset), preds).compute()
    with pytest.raises(ValueError, match="`missing`"):
        CLEvalEvaluator(dataset, missing="drop")


def test_nothing_predicted_is_zero():
    dataset, _ = receipts(2)
    for missing in ("skip", "zero"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert set(CLEvalEvaluator(dataset, missing=missing).compute().values()) == {0.0}


def test_a_subset_has_its_own_images():
    dataset, preds = receipts(8)

    class Annotated(Dataset):
        anns = dataset.anns

        def __len__(self):
            return 8

    half = Subset(Annotated(), [1, 3, 5, 7])
    names = [f"receipt_{number}.jpg" for number in (1, 3, 5, 7)]
    evaluator = fed(CLEvalEvaluator(half, missing="zero"), preds, names)
    assert evaluator.compute() == fed(CLEvalEvaluator(dataset), preds, names).compute()
    with pytest.raises(ValueError, match=r"'receipt_0.jpg', which is none of its 4 images"):
        evaluator.update(["receipt_0.jpg"], [preds["receipt_0.jpg"]])
    quarter = fed(CLEvalEvaluator(Subset(half, [0, 2])), preds, ["receipt_1.jpg", "receipt_5.jpg"])
    assert quarter.metric.compute_counts()["images"] == 2


def test_an_update_that_raises_changes_nothing():
    dataset, preds = receipts(4)
    evaluator = fed(CLEvalEvaluator(dataset), preds, list(preds)[:2])
    before = evaluator.compute()
    one = preds["receipt_2.jpg"]
    for names, batch, message in (
        (["receipt_2.jpg", "x.jpg"], [one, one], "'x.jpg'"),
        (["receipt_2.jpg"], [one, one], "equally long"),
        (["receipt_2.jpg"], [{"polygons": []}], "'receipt_2.jpg' to be a dict with 'boxes'"),
        (
            ["receipt_2.jpg"],
            [{"boxes": [[[0, 0], [float("inf"), 0], [5, 5], [0, 5]]]}],
            "receipt_2.jpg.*finite",
        ),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            evaluator.update(names, batch)
        assert evaluator.compute() == before


def test_shapes_as_the_host_has_them():
    anns = {"a.jpg": [WORD[None].astype(np.int32), np.zeros((0, 2))], "b.jpg": None, "c.jpg": []}
    evaluator = CLEvalEvaluator(SimpleNamespace(anns=anns))
    boxes = [torch.tensor(WORD, dtype=torch.bfloat16), np.zeros((0, 2), np.float32)]
    scores = evaluator.update(
        ["a.jpg", "b.jpg", "c.jpg"], [{"boxes": boxes}, {"boxes": []}, {"boxes": [WORD.tolist()]}]
    )
    assert scores["hmean"].tolist() == [1, 0, 0]
    assert evaluator.metric.compute_counts()["words_gt"] == 1


# what the eight orientations make of (x, y) in a w × h image
FRAMES = {
    0: lambda x, y, w, h: (x, y),
    1: lambda x, y, w, h: (x, y),
    2: lambda x, y, w, h: (w - 1 - x, y),
    3: lambda x, y, w, h: (w - 1 - x, h - 1 - y),
    4: lambda x, y, w, h: (x, h - 1 - y),
    5: lambda x, y, w, h: (y, x),
    6: lambda x, y, w, h: (h - 1 - y, x),
    7: lambda x, y, w, h: (h - 1 - y, w - 1 - x),
    8: lambda x, y, w, h: (y, w - 1 - x),
    9: lambda x, y, w, h: (x, y),
}


@pytest.mark.parametrize("orientation", FRAMES)
def test_ground_truth_is_turned_into_the_displayed_frame(orientation):
    points = [FRAMES[orientation](x, y, 400, 240) for x, y in WORD.tolist()]
    assert to_displayed(WORD, orientation, 400, 240).tolist() == [list(point) for point in points]
    evaluator = CLEvalEvaluator(SimpleNamespace(anns={"a.jpg": [WORD]}))
    prediction = {"boxes": [np.array(points)], "orientation": orientation, "raw_size": (400, 240)}
    assert evaluator.update(["a.jpg"], [prediction])["hmean"] == 1


@pytest.mark.parametrize("orientation", range(2, 9))
def test_the_turn_is_pillows(orientation, tmp_path):
    from PIL import Image, ImageOps

    pixels = np.zeros((6, 9), np.uint8)
    pixels[1, 2] = 255
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as stored:
        shown = np.asarray(ImageOps.exif_transpose(stored))
    (y,), (x,) = np.nonzero(shown)
    assert to_displayed(np.array([2, 1]), orientation, 9, 6).tolist() == [x, y]


def test_the_size_is_read_from_the_file(tmp_path):
    from PIL import Image

    Image.new("L", (400, 240)).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    turned = to_displayed(WORD, 6, 400, 240)
    dataset = SimpleNamespace(
        anns={"a.png": [WORD], "broken.png": [WORD], "gone.png": [WORD]}, image_path=tmp_path
    )
    evaluator = CLEvalEvaluator(dataset)
    by_path = {"boxes": [turned], "orientation": 6, "image_path": str(tmp_path / "a.png")}
    assert evaluator.update(["a.png"], [by_path])["hmean"] == 1
    assert CLEvalEvaluator(dataset).update(["a.png"], [{"boxes": [turned], "orientation": 6}])["hmean"] == 1
    for name in ("broken.png", "gone.png"):  # no size, no turn
        assert evaluator.update([name], [{"boxes": [WORD], "orientation": 6}])["hmean"] == 1


def test_metric_cfg():
    dataset, _ = receipts(1)
    assert CLEvalEvaluator(dataset).metric.rules == CLEvalRules.upstage()
    fork = {
        "_target_": "some.CLEvalMetric",
        "max_polygons": 1000,
        "recall_gran_penalty": 0.5,
        "scale_wise": False,
    }
    assert CLEvalEvaluator(dataset, fork).metric.rules == CLEvalRules.upstage(
        max_detections=1000, recall_granularity_weight=0.5
    )
    named = {"rules": "v2023", "ap_constraint": 0.5, "dist_sync_on_step": True}
    evaluator = CLEvalEvaluator(dataset, named)
    assert evaluator.metric.rules == CLEvalRules.v2023(ap_constraint=0.5)
    assert evaluator.metric.dist_sync_on_step
    omegaconf = pytest.importorskip("omegaconf", reason="OmegaConf is not installed")
    assert CLEvalEvaluator(dataset, omegaconf.OmegaConf.create(fork)).metric.rules.max_detections == 1000
    with pytest.raises(TypeError, match="max_polygon'"):
        CLEvalEvaluator(dataset, {"max_polygon": 5})
    with pytest.raises(TypeError, match="`dataset` to have `anns`"):
        CLEvalEvaluator([1, 2])


def test_the_evaluator_is_a_module():
    dataset, preds = receipts(3)
    evaluator = fed(CLEvalEvaluator(dataset), preds)
    holder = torch.nn.ModuleDict({"evaluator": evaluator})
    assert holder.state_dict() == {}
    holder.to(torch.bfloat16)
    truth = evaluator.compute()
    assert pickle.loads(pickle.dumps(evaluator)).compute() == truth
    assert copy.deepcopy(evaluator).compute() == truth
    holder.to("meta")
    assert evaluator.metric.device.type == "meta"


# ---------------------------------------------------------------- the callback, and real Trainers


class Pages(Dataset):
    """Eight one-word pages; `quality` of the predicted words are in their place."""

    def __init__(self, name: str = "page", length: int = 8) -> None:
        self.name, self.length = name, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int):
        return {"index": index, "word": WORD + 3 * index, "image_id": f"{self.name}_{index}"}


def collate(items):
    return items


class Detector(pl.LightningModule):
    """Finds one more page in each epoch, until it loses them all."""

    def __init__(self, found=(2, 5, 8, 1)) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.found = found

    def training_step(self, batch, batch_idx):
        return self.weight.square().sum()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        found = self.found[min(self.current_epoch, len(self.found) - 1)]
        return [
            torch.tensor(item["word"], device=self.device).reshape(1, 8)[: int(item["index"] < found)]
            for item in batch
        ]

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def extract(outputs, batch):
    preds = [{"polygons": polygons} for polygons in outputs]
    return preds, [{"polygons": item["word"][None], "image_id": item["image_id"]} for item in batch]


def trainer(tmp_path, **options):
    options = {"max_epochs": 4, "num_sanity_val_steps": 0, "logger": False, **options}
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def loader(*pages):
    loaders = [DataLoader(page, batch_size=3, collate_fn=collate) for page in pages]
    return loaders[0] if len(loaders) == 1 else loaders


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*(?i:isinstance.*LeafSpec|treespec).*")
        warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
        yield


def test_checkpoint_and_early_stopping_follow_the_score(tmp_path):
    best = pl.callbacks.ModelCheckpoint(tmp_path, monitor="val/det_hmean", mode="max", filename="{epoch}")
    stop = pl.callbacks.EarlyStopping("val/det_recall", mode="max", patience=1)
    callback = CLEvalCallback(extract, e2e=False)
    run = trainer(tmp_path, callbacks=[callback, best, stop], max_epochs=9, num_sanity_val_steps=1)
    run.fit(Detector((2, 5, 8, 1, 1, 1)), loader(Pages()), loader(Pages()))
    assert best.best_model_path.endswith("epoch=2.ckpt")
    assert best.best_model_score == 1
    assert run.current_epoch == 4
    assert run.callback_metrics["val/det_recall"].item() == 1 / 8
    assert run.callback_metrics["val/mean_det_hmean"].item() == 1 / 8


def test_several_dataloaders_and_testing(tmp_path):
    callback = CLEvalCallback(extract, prefix="v", test_prefix="t", e2e=False, score="det_recall")
    run = trainer(tmp_path, callbacks=[callback])
    module = Detector((2,))
    [first, second] = run.validate(module, loader(Pages(), Pages("other", 4)), verbose=False)
    assert {**first, **second} == {
        "v/dataloader_0/det_recall": 0.25,
        "v/dataloader_1/det_recall": 0.5,
    }
    assert run.test(module, loader(Pages()), verbose=False) == [{"t/det_recall": 0.25}]


def test_log_dict_of_the_metric_warns_of_nothing(tmp_path):
    class Logging(Detector):
        def __init__(self) -> None:
            super().__init__()
            self.metric = CLEvalMetric(e2e=False)
            self.hmean = CLEvalMetric(e2e=False, score="det_hmean")

        def validation_step(self, batch, batch_idx):
            sides = extract(super().validation_step(batch, batch_idx), batch)
            self.metric.update(*sides)
            self.hmean.update(*sides)
            self.log("val/hmean", self.hmean, batch_size=len(batch))

        def on_validation_epoch_end(self):
            self.log_dict(self.metric.compute())
            self.metric.reset()

    run = trainer(tmp_path, max_epochs=2, enable_checkpointing=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*(?i:isinstance.*LeafSpec|treespec).*")
        warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
        run.fit(Logging(), loader(Pages()), loader(Pages()))
    assert run.callback_metrics["det_recall"].item() == 5 / 8
    assert run.callback_metrics["val/hmean"].item() == run.callback_metrics["det_hmean"].item()


def test_bf16_true_changes_no_bit(tmp_path):
    class Scoring(Detector):
        def __init__(self) -> None:
            super().__init__()
            dataset, self.preds = receipts(8)
            self.evaluator = CLEvalEvaluator(dataset)
            self.metric = CLEvalMetric(e2e=False)

        def validation_step(self, batch, batch_idx):
            assert self.weight.dtype == torch.bfloat16
            names = [f"receipt_{item['index']}.jpg" for item in batch]
            self.evaluator.update(names, [self.preds[name] for name in names])
            self.metric.update(*extract(super().validation_step(batch, batch_idx), batch))

        def on_validation_epoch_end(self):
            self.log_dict(self.evaluator.compute())
            self.log_dict(self.metric.compute())

    module = Scoring()
    run = trainer(tmp_path, precision="bf16-true")
    run.validate(module, loader(Pages()), verbose=False)
    dataset, preds = receipts(8)
    truth = fed(CLEvalEvaluator(dataset), preds).compute()
    assert module.evaluator.compute() == truth
    assert run.callback_metrics["val/hmean"].item() == np.float32(truth["val/hmean"])
    assert run.callback_metrics["det_recall"].item() == 2 / 8


def test_scripted_export_of_a_lightning_module():
    class Exported(Detector):
        def __init__(self) -> None:
            super().__init__()
            self.metric = CLEvalMetric()
            self.evaluator = CLEvalEvaluator(receipts(1)[0])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.weight * x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert Exported().to_torchscript()(torch.ones(1)) == 0


def test_wrong_options_of_the_callback_are_an_error_at_once():
    with pytest.raises(TypeError, match="`extract`"):
        CLEvalCallback("outputs")
    with pytest.raises(ValueError, match="`score`"):
        CLEvalCallback(extract, score="f1")
