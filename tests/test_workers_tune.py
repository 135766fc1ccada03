"""Tuning through the real Lightning Trainer. What is checked is behaviour, never a time."""

import contextlib
import multiprocessing
import os
import random
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

pytest.importorskip("psutil")
pl = pytest.importorskip("lightning.pytorch")

from cleval_tm.workers import tune_workers  # noqa: E402

QUICK = {
    "seconds": 0.05,
    "max_steps": 6,
    "variants": False,
    "progress": False,
    "max_repeats": 3,
    "candidates": [],
}


class Points(Dataset):
    def __init__(self, length=24, trouble=None):
        self.length = length
        self.trouble = trouble

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if self.trouble is not None:
            self.trouble()
        return torch.full((4,), float(index))


class Model(pl.LightningModule):
    def __init__(self, mistake=False):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.mistake = mistake
        self.batches = []
        self.workers = set()

    def training_step(self, batch, index):
        if self.mistake:
            raise KeyError("my own mistake")
        self.seen = index
        CALLS.append(("train", len(batch), self.trainer.train_dataloader.num_workers))
        loss = self.layer(batch / 24).square().mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, index):
        CALLS.append(("val", len(batch), self.trainer.val_dataloaders.num_workers))
        self.log("val_loss", self.layer(batch).mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


class Data(pl.LightningDataModule):
    def __init__(self, num_workers=1, trouble=None):
        super().__init__()
        self.save_hyperparameters(ignore="trouble")
        self.num_workers = num_workers
        self.trouble = trouble

    def setup(self, stage):
        self.data = Points(24, self.trouble)

    def train_dataloader(self):
        return DataLoader(self.data, batch_size=4, shuffle=True, num_workers=self.num_workers)

    def val_dataloader(self):
        return DataLoader(self.data, batch_size=3, num_workers=self.num_workers)


CALLS = []


class Witness(pl.Callback):
    """A callback with effects that a tuning fit must not have."""

    def on_fit_start(self, trainer, model):
        CALLS.append("callback")


@pytest.fixture(autouse=True)
def _no_calls():
    CALLS.clear()


def trainer_in(folder, **options):
    defaults = {"max_epochs": 2, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(
        accelerator="cpu", default_root_dir=folder, callbacks=[Witness()], **{**defaults, **options}
    )


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_fits_are_real_and_everything_is_as_before(tmp_path):
    trainer, model, data = trainer_in(tmp_path), Model(), Data(num_workers=2)
    before, attributes, given = weights(model), set(vars(model)), dict(vars(data))
    state = random.getstate(), torch.get_rng_state()
    sweep = tune_workers(trainer, model, data, **{**QUICK, "candidates": [1]})
    assert [row.num_workers for row in sweep.results] == [0, 1, 2]
    assert (sweep.current, sweep.loader) == (2, "train_dataloader")
    assert all(row.ok and len(row.times) >= 3 and row.steps >= 18 for row in sweep.results)
    assert {call for call in CALLS if call != "callback"} == {("train", 4, w) for w in (0, 1, 2)}
    assert "callback" not in CALLS
    assert sweep.row(2).memory_bytes > 2**20
    assert all(0 <= row.wait_share < 1 and row.startup_s > 0 for row in sweep.results)
    assert equal(before, weights(model))
    assert set(vars(model)) == attributes
    assert vars(data) == given
    assert random.getstate() == state[0]
    assert torch.equal(torch.get_rng_state(), state[1])
    assert trainer.global_step == 0
    assert model._trainer is None
    assert not list(tmp_path.iterdir())
    assert not multiprocessing.active_children()


def test_the_trainer_still_fits_afterwards_as_if_nothing_had_been(tmp_path):
    def fitted(tune):
        torch.manual_seed(1)
        model, data = Model(), Data(num_workers=0)
        trainer = trainer_in(tmp_path / str(tune), logger=False, enable_checkpointing=False)
        if tune:
            tune_workers(trainer, model, data, **{**QUICK, "candidates": [1]})
        trainer.fit(model, datamodule=data)
        assert trainer.global_step == 12
        return weights(model)

    assert equal(fitted(True), fitted(False))


def test_tuning_between_two_fits(tmp_path):
    trainer, model, data = trainer_in(tmp_path, logger=False, enable_checkpointing=False), Model(), Data()
    trainer.fit(model, datamodule=data)
    before, optimizer = weights(model), trainer.optimizers[0]
    momentum = str(optimizer.state_dict())
    tune_workers(trainer, model, data, **QUICK)
    assert equal(before, weights(model))
    assert trainer.optimizers[0] is optimizer
    assert str(optimizer.state_dict()) == momentum
    assert (trainer.global_step, trainer.current_epoch, model.trainer) == (12, 2, trainer)


def test_update_attr_sets_the_datamodule(tmp_path):
    data = Data(num_workers=2)
    sweep = tune_workers(trainer_in(tmp_path), Model(), data, update_attr=True, **QUICK)
    assert data.num_workers == data.hparams.num_workers == sweep.suggestion()
    with pytest.raises(ValueError, match="Data to have an attribute or hyperparameter 'workers'"):
        tune_workers(trainer_in(tmp_path), Model(), data, update_attr=True, attr_name="workers")


def test_validation(tmp_path):
    sweep = tune_workers(trainer_in(tmp_path), Model(), Data(), loader="val_dataloader", **QUICK)
    assert set(CALLS) == {("val", 3, 0), ("val", 3, 1)}
    assert all(row.ok for row in sweep.results)
    assert sweep.loader == "val_dataloader"


def test_loaders_instead_of_a_datamodule_and_loaders_of_the_model(tmp_path):
    loader = DataLoader(Points(), batch_size=4, num_workers=1)
    sweep = tune_workers(trainer_in(tmp_path), Model(), dataloaders=loader, **QUICK)
    assert [row.num_workers for row in sweep.results] == [0, 1]

    class WithLoader(Model):
        def train_dataloader(self):
            return loader

    model = WithLoader()
    assert [row.num_workers for row in tune_workers(trainer_in(tmp_path), model, **QUICK).results] == [0, 1]
    assert "train_dataloader" not in vars(model)


def test_the_transfer_to_the_device_is_no_waiting_for_data(tmp_path):
    class Slow(Model):
        def transfer_batch_to_device(self, batch, device, index):
            time.sleep(0.05)
            return batch

    sweep = tune_workers(trainer_in(tmp_path), Slow(), Data(num_workers=0), **QUICK)
    assert sweep.row(0).seconds_per_step > 0.05
    assert sweep.row(0).wait_share < 0.5


def test_the_start_of_an_epoch_is_waiting(tmp_path):
    class SlowToStart(DataLoader):
        def __iter__(self):
            time.sleep(0.2)
            return super().__iter__()

    loader = SlowToStart(Points(), batch_size=4)
    sweep = tune_workers(trainer_in(tmp_path), Model(), dataloaders=loader, **QUICK)
    assert sweep.row(0).startup_s >= 0.2
    assert sweep.row(0).wait_share > 0.5


def test_max_steps_and_limits(tmp_path):
    tune_workers(trainer_in(tmp_path, limit_train_batches=2), Model(), Data(num_workers=0), **QUICK)
    assert len(CALLS) == 6 * 4  # a warm-up and three rounds of one candidate, two batches an epoch


def test_accumulated_gradients_count_batches(tmp_path):
    trainer = trainer_in(tmp_path, accumulate_grad_batches=2)
    sweep = tune_workers(trainer, Model(), Data(num_workers=0), **QUICK)
    assert sweep.row(0).steps == 18


def test_variants(tmp_path):
    sweep = tune_workers(
        trainer_in(tmp_path), Model(), Data(), **{**QUICK, "variants": True, "candidates": None}
    )
    assert {row.num_workers for row in sweep.results} >= {0, 1, 2}
    for row in sweep.variants:
        assert row.persistent_workers or row.prefetch_factor == 4


def raise_in_a_worker():
    if get_worker_info() is not None:
        raise OSError("the disk went away")


def die_in_a_worker():
    if get_worker_info() is not None:
        os._exit(3)


def hang_in_a_worker():
    if get_worker_info() is not None:
        time.sleep(600)


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (raise_in_a_worker, "the disk went away"),
        (die_in_a_worker, "exited unexpectedly"),
        (hang_in_a_worker, "no batch for 1 s (hung)"),
    ],
)
def test_workers_in_trouble_are_failures(tmp_path, trouble, words):
    model = Model()
    before = weights(model)
    sweep = tune_workers(
        trainer_in(tmp_path), model, Data(num_workers=1, trouble=trouble), timeout=1, **QUICK
    )
    assert sweep.row(0).ok
    assert words in sweep.row(1).failures[0]
    assert sweep.suggestion() == 0
    assert equal(before, weights(model))
    assert not multiprocessing.active_children()


def test_an_error_in_the_model_is_the_users(tmp_path):
    model, data = Model(mistake=True), Data()
    with pytest.raises(KeyError, match="my own mistake"):
        tune_workers(trainer_in(tmp_path), model, data, **QUICK)
    assert model._trainer is None
    assert "train_dataloader" not in vars(data)
    assert not multiprocessing.active_children()


def test_arguments_are_checked(tmp_path):
    trainer = trainer_in(tmp_path)
    with pytest.raises(ValueError, match=r"`loader` to be one of .* but got 'train'"):
        tune_workers(trainer, Model(), Data(), loader="train")
    with pytest.raises(ValueError, match="`datamodule` or argument `dataloaders` but got both"):
        tune_workers(trainer, Model(), Data(), dataloaders=DataLoader(Points()))
    with pytest.raises(ValueError, match="`repeats` to be 3 or more"):
        tune_workers(trainer, Model(), Data(), repeats=1)
    with contextlib.suppress(ImportError), pytest.raises(ValueError, match="to have one device but got 2"):
        tune_workers(trainer_in(tmp_path, devices=2), Model(), Data())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_model_on_the_device_stays_there(tmp_path):
    model = Model().cuda()
    model.layer(torch.ones(1, 4, device="cuda")).sum().backward()
    before, gradients = weights(model), [p.grad.clone() for p in model.parameters()]
    trainer = pl.Trainer(accelerator="gpu", devices=1, default_root_dir=tmp_path, enable_progress_bar=False)
    sweep = tune_workers(trainer, model, Data(), **QUICK)
    assert all(row.ok for row in sweep.results)
    assert equal(before, weights(model))
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, model.parameters(), strict=True))
