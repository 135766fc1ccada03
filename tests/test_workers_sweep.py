"""Sweeps over real loaders with real worker processes. What is checked is behaviour, never a time."""

import functools
import multiprocessing
import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    get_worker_info,
)

pytest.importorskip("psutil")

from cleval_tm.workers import sweep_workers
from cleval_tm.workers.epochs import Epoch, cost
from cleval_tm.workers.loaders import batches, changed, tensor_bytes
from cleval_tm.workers.search import Setting
from cleval_tm.workers.state import left_as_it_was

QUICK = {"seconds": 0.05, "variants": False, "progress": False, "max_repeats": 3}


class Numbers(Dataset):
    """0, 1, 2, ... with something that may go wrong on the way."""

    def __init__(self, length=24, trouble=None):
        self.length = length
        self.trouble = trouble

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if self.trouble is not None:
            self.trouble(index)
        return torch.tensor(index)


class Stream(IterableDataset):
    def __init__(self, length=24, shares=True):
        self.length = length
        self.shares = shares

    def __iter__(self):
        info = get_worker_info()
        first, stride = (info.id, info.num_workers) if info and self.shares else (0, 1)
        return iter(torch.arange(self.length)[first::stride])


def die_in_a_worker(index):
    if get_worker_info() is not None:
        os._exit(3)


def hang_in_a_worker(index):
    if get_worker_info() is not None:
        time.sleep(600)


def hang_without_worker(index):
    if get_worker_info() is None:
        time.sleep(600)


def raise_in_a_worker(index):
    if get_worker_info() is not None:
        raise OSError("the disk went away")


def numbers_of(sweep):
    return [row.num_workers for row in sweep.results]


def test_measures_zero_and_current_at_least_three_times():
    sweep = sweep_workers(DataLoader(Numbers(), batch_size=4, num_workers=1), candidates=[2], **QUICK)
    assert numbers_of(sweep) == [0, 1, 2]
    assert sweep.current == 1
    assert all(len(row.times) >= 3 and row.ok for row in sweep.results)
    assert sweep.suggestion() in (0, 1, 2)
    rows = {row.num_workers: row for row in sweep.results}
    assert rows[0].memory_bytes is None
    assert rows[2].memory_bytes > 2**20
    assert all(0 < row.wait_share <= 1 and row.cpu_use > 0 and row.startup_s > 0 for row in sweep.results)
    assert any("No step was given" in note for note in sweep.notes)


def test_keeps_everything_else_of_the_loader():
    seen = []

    class Kept(DataLoader):
        def __init__(self, colour, **options):
            super().__init__(Numbers(10), **options)
            self.colour = colour

    def collate(samples):
        return {
            "batch": torch.stack(samples),
            "workers": 0 if get_worker_info() is None else get_worker_info().num_workers,
        }

    sampler = RandomSampler(range(10), generator=torch.Generator().manual_seed(3))
    loader = Kept(
        "red", batch_size=3, sampler=sampler, drop_last=True, collate_fn=collate, num_workers=1, timeout=7
    )
    before = dict(vars(loader))
    sweep = sweep_workers(loader, seen.append, candidates=[2], **QUICK)
    assert numbers_of(sweep) == [0, 1, 2]
    assert {len(batch["batch"]) for batch in seen} == {3}
    assert {batch["workers"] for batch in seen} == {0, 1, 2}
    assert vars(loader) == before
    twin = changed(loader, Setting(5, prefetch_factor=4, persistent_workers=True), timeout=60)
    assert (type(twin), twin.colour, twin.sampler, twin.collate_fn) == (Kept, "red", sampler, collate)
    assert (twin.num_workers, twin.prefetch_factor, twin.persistent_workers, twin.timeout) == (5, 4, True, 7)
    without = changed(twin, Setting(0), timeout=60)
    assert (without.prefetch_factor, without.persistent_workers, without.timeout) == (None, False, 0)


class SlowToStart(DataLoader):
    """Takes long to start an epoch, as many workers do."""

    def __iter__(self):
        time.sleep(0.2)
        return super().__iter__()


def test_the_start_of_an_epoch_is_waiting():
    sweep = sweep_workers(SlowToStart(Numbers(), batch_size=4), 0.001, candidates=[], **QUICK)
    assert sweep.row(0).startup_s >= 0.2
    assert sweep.row(0).wait_share > 0.5
    assert sweep.row(0).seconds_per_step >= 0.2 / 6


def test_worker_init_fn_runs():
    with multiprocessing.Manager() as manager:
        started = manager.list()
        loader = DataLoader(Numbers(), batch_size=8, worker_init_fn=functools.partial(list.append, started))
        loader.worker_init_fn = started.append
        sweep_workers(loader, candidates=[2], **QUICK)
        assert set(started) == {0, 1}


@pytest.mark.parametrize("shares", [True, False])
def test_iterable_datasets_and_the_warning_for_repeated_samples(shares):
    sweep = sweep_workers(DataLoader(Stream(shares=shares), batch_size=4), candidates=[2], **QUICK)
    assert all(row.ok for row in sweep.results)
    warned = [note for note in sweep.notes if "each worker reads all samples" in note]
    assert bool(warned) is not shares
    if warned:
        assert "6 batches an epoch with 0 workers but 12 with 2" in warned[0]


def test_dicts_and_lists_of_loaders_are_run_side_by_side():
    seen = []
    loaders = {
        "a": DataLoader(Numbers(8), batch_size=4),
        "b": [DataLoader(Numbers(6), batch_size=2, num_workers=1)],
    }
    sweep = sweep_workers(loaders, seen.append, candidates=[], loader="train_dataloader", **QUICK)
    assert numbers_of(sweep) == [0, 1]
    assert {(len(batch["a"]), len(batch["b"][0])) for batch in seen} == {(4, 2)}
    assert [batch["a"][0].item() for batch in batches(loaders, in_turn=False)] == [0, 4, 0]


def test_validation_loaders_are_run_in_turn():
    seen = []
    loaders = [DataLoader(Numbers(4), batch_size=4), DataLoader(Numbers(6), batch_size=2)]
    sweep = sweep_workers(loaders, seen.append, candidates=[1], loader="val_dataloader", **QUICK)
    assert sweep.loader == "val_dataloader"
    assert {len(batch) for batch in seen} == {4, 2}
    assert [len(batch) for batch in batches(loaders, in_turn=True)] == [4, 2, 2, 2]


class Module:
    """Shaped like a LightningDataModule."""

    def __init__(self):
        self.calls = []

    def prepare_data(self):
        self.calls.append("prepare")

    def setup(self, stage):
        self.calls.append(stage)

    def train_dataloader(self):
        return DataLoader(Numbers(), batch_size=4, num_workers=1)

    def val_dataloader(self):
        return [DataLoader(Numbers(), batch_size=3)]


def test_datamodules():
    module = Module()
    sweep = sweep_workers(module, candidates=[], **QUICK)
    assert (sweep.loader, sweep.current, module.calls) == ("train_dataloader", 1, ["prepare", "fit"])
    assert sweep_workers(module, candidates=[], loader="val_dataloader", **QUICK).current == 0


def test_functions_that_make_loaders():
    made = []

    def make_loader(num_workers=1, **options):
        made.append(num_workers)
        return DataLoader(Numbers(), batch_size=4, num_workers=num_workers, **options)

    sweep = sweep_workers(make_loader, candidates=[2], **QUICK)
    assert (sweep.current, numbers_of(sweep), sorted(made)) == (1, [0, 1, 2], [0, 1, 2])
    sweep = sweep_workers(lambda: DataLoader(Numbers(), batch_size=4, num_workers=1), candidates=[], **QUICK)
    assert (sweep.current, numbers_of(sweep)) == (1, [0, 1])
    sweep = sweep_workers(make_loader, candidates=[], current=2, **QUICK)
    assert (sweep.current, numbers_of(sweep)) == (2, [0, 2])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs an affinity to set")
def test_no_warning_about_many_workers_while_that_is_being_measured(recwarn):
    def make(num_workers=0):
        return DataLoader(Numbers(), batch_size=4, num_workers=num_workers)

    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        make(2)
        assert any("will create 2 worker" in str(warning.message) for warning in recwarn)
        recwarn.clear()
        sweep_workers(make, 0.001, candidates=[2], **QUICK)
    finally:
        os.sched_setaffinity(0, cpus)
    assert not [warning for warning in recwarn if "worker" in str(warning.message)]


@pytest.mark.parametrize(
    ("trouble", "words"),
    [(die_in_a_worker, "exited unexpectedly"), (raise_in_a_worker, "OSError: the disk went away")],
)
def test_workers_that_die_or_raise_are_failures(trouble, words):
    sweep = sweep_workers(
        DataLoader(Numbers(trouble=trouble), batch_size=4), candidates=[2], current=1, **QUICK
    )
    rows = {row.num_workers: row for row in sweep.results}
    assert rows[0].ok
    assert words in rows[1].failures[0]
    assert words in rows[2].failures[0]
    assert sweep.suggestion() == 0
    assert not multiprocessing.active_children()


def die_late(index):
    if get_worker_info() is not None and index > 11:
        os._exit(3)


def test_a_worker_that_dies_during_a_step_is_no_error_of_the_step():
    sweep = sweep_workers(DataLoader(Numbers(trouble=die_late), batch_size=4), 0.1, candidates=[1], **QUICK)
    assert "exited unexpectedly" in sweep.row(1).failures[0]
    assert sweep.row(0).ok
    assert not multiprocessing.active_children()


def test_hanging_workers_are_failures_and_are_ended():
    loader = DataLoader(Numbers(trouble=hang_in_a_worker), batch_size=4)
    sweep = sweep_workers(loader, candidates=[2], timeout=1, **QUICK)
    assert sweep.row(2).failures == ("no batch for 1 s (hung)",)
    assert sweep.suggestion() == 0
    assert not multiprocessing.active_children()


def test_a_hang_without_workers_is_a_failure_too_and_other_alarms_still_ring():
    rung = []
    handler = signal.signal(signal.SIGALRM, lambda *_: rung.append(True))
    timer = signal.setitimer(signal.ITIMER_REAL, 500)
    try:
        loader = DataLoader(Numbers(trouble=hang_without_worker), batch_size=4)
        sweep = sweep_workers(loader, candidates=[1], timeout=1, **QUICK)
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        assert 400 < left < 500
        signal.raise_signal(signal.SIGALRM)
        assert rung == [True]
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)
    assert sweep.row(0).failures == ("no batch for 1 s (hung)",)
    assert sweep.suggestion() == 1


def test_nothing_works():
    def broken(index):
        raise ValueError("no such sample")

    sweep = sweep_workers(DataLoader(Numbers(trouble=broken), batch_size=4), **QUICK)
    assert all("no such sample" in row.failures[0] for row in sweep.results)
    with pytest.raises(RuntimeError, match="0 workers: ValueError: no such sample"):
        sweep.suggestion()


def test_a_dataset_smaller_than_a_batch():
    sweep = sweep_workers(DataLoader(Numbers(3), batch_size=8), candidates=[1], **QUICK)
    assert all(row.ok and row.steps >= 3 for row in sweep.results)
    sweep = sweep_workers(DataLoader(Numbers(3), batch_size=8, drop_last=True), candidates=[1], **QUICK)
    expected = "ValueError: the loader gives no batch (3 samples, batch_size=8, drop_last=True)"
    assert sweep.row(0).failures == (expected,)
    with pytest.raises(RuntimeError, match="gives no batch"):
        sweep.suggestion()


def test_an_error_in_the_step_is_the_users_and_leaves_no_worker():
    def step(batch):
        raise KeyError("my own mistake")

    with pytest.raises(KeyError, match="my own mistake"):
        sweep_workers(DataLoader(Numbers(), batch_size=4, num_workers=1), step, **QUICK)
    assert not multiprocessing.active_children()


def test_epochs_end_where_training_ends_them():
    seen = []
    loader = DataLoader(Numbers(40), batch_size=1)
    sweep_workers(
        loader, lambda batch: seen.append(int(batch[0])), candidates=[1], steps_per_epoch=5, **QUICK
    )
    assert max(seen) == 4


def test_persistent_workers_and_variants():
    loader = DataLoader(TensorDataset(torch.arange(64)), batch_size=8, num_workers=1, persistent_workers=True)
    sweep = sweep_workers(loader, step=0.001, candidates=[], **{**QUICK, "variants": True})
    rows = {row.num_workers: row for row in sweep.results}
    assert rows[0].persistent_workers is None
    assert rows[1].persistent_workers is True
    assert not multiprocessing.active_children()
    for row in sweep.variants:
        assert (row.prefetch_factor, row.persistent_workers) in {(2, False), (4, True), (4, False)}


def test_shared_memory_and_memory_are_looked_at(monkeypatch):
    monkeypatch.setattr("cleval_tm.workers.memory.free_shared_memory", lambda: 700)
    loader = DataLoader(Numbers(64), batch_size=16)  # 128 bytes a batch, two prefetched
    sweep = sweep_workers(loader, candidates=[1, 2, 3], **QUICK)
    assert sweep.row(2).ok
    assert "768" not in sweep.row(3).skipped
    assert "shared memory" in sweep.row(3).skipped
    monkeypatch.undo()
    monkeypatch.setattr("cleval_tm.workers.memory.available_memory", lambda ranks: 2**20)
    sweep = sweep_workers(loader, candidates=[1, 2], **QUICK)
    assert sweep.row(1).ok  # the first one shows what a worker takes
    assert "of memory, and 1 MiB are free" in sweep.row(2).skipped
    assert "2 workers skipped" in sweep.explain()


def test_progress_is_shown_on_standard_error(capsys):
    sweep_workers(DataLoader(Numbers(), batch_size=4), candidates=[1], **{**QUICK, "progress": True})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"candidates": [1, -2]}, ValueError, "`candidates` to be whole numbers of 0 or more but got -2"),
        ({"candidates": [1.5]}, ValueError, "but got 1.5"),
        ({"current": True}, ValueError, "`current` to be whole numbers of 0 or more but got True"),
        ({"repeats": 2}, ValueError, "`repeats` to be 3 or more but got 2"),
        ({"seconds": 0}, ValueError, "`seconds` to be positive but got 0"),
        ({"step": "train"}, TypeError, "`step` to be a callable, seconds, or None but got 'train'"),
        (
            {"source": 5},
            TypeError,
            "a function that makes them, or a datamodule with `train_dataloader` but got int",
        ),
        ({"source": []}, ValueError, "at least one DataLoader but got an empty list"),
        (
            {"source": [range(3)]},
            TypeError,
            "Expected a torch DataLoader, or a dict or list of them, but got range",
        ),
        ({"source": lambda: 3}, TypeError, "but got int"),
    ],
)
def test_arguments_are_checked(options, error, message):
    source = options.pop("source", DataLoader(Numbers()))
    with pytest.raises(error, match=message):
        sweep_workers(source, **options)


class Counting(nn.Module):
    """A model with every kind of state: weights, buffers, plain attributes, a list, a metric-like tensor."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
        self.seen = 0
        self.history = []
        self.total = torch.zeros(())
        self.register_buffer("hidden", torch.zeros(2), persistent=False)

    def forward(self, batch):
        self.seen += 1
        self.history.append(len(batch))
        self.total = self.total + batch.sum()
        self.hidden += 1
        return self.layer(batch).square().mean()


def generators(own):
    legacy = np.random.get_state()[1].tolist()  # noqa: NPY002
    return random.getstate(), torch.get_rng_state(), legacy, own.bit_generator.state


def frozen(model, optimizer):
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        model.hidden.clone(),
        model.total.clone(),
        (model.seen, list(model.history), model.layer[1].training, model.training),
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        str(optimizer.state_dict()),
    )


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_leaves_everything_as_it_was():
    torch.manual_seed(5)
    model = Counting()
    optimizer = torch.optim.Adam(model.parameters())
    own = np.random.default_rng(4)
    loader = DataLoader(
        TensorDataset(torch.randn(32, 4)), batch_size=8, shuffle=True, generator=torch.Generator()
    )

    def step(batch):
        model.train()
        optimizer.zero_grad()
        model(batch[0]).backward()
        optimizer.step()
        own.random()
        random.random()
        np.random.rand()  # noqa: NPY002
        torch.rand(1)
        torch.set_num_threads(1)
        os.environ["CLEVAL_TM_TEST"] = "changed"
        model.eval()

    step((torch.randn(8, 4),))
    model.train()
    os.environ["CLEVAL_TM_TEST"] = "before"
    torch.set_num_threads(2)
    weights = [id(p) for p in model.parameters()]
    before = frozen(model, optimizer)
    states = generators(own)
    generator = loader.generator.get_state()
    try:
        sweep_workers(loader, step, candidates=[1], **QUICK)
        assert os.environ["CLEVAL_TM_TEST"] == "before"
        assert torch.get_num_threads() == 2
    finally:
        del os.environ["CLEVAL_TM_TEST"]
    assert same(states, generators(own))
    assert torch.equal(generator, loader.generator.get_state())
    assert same(before, frozen(model, optimizer))
    assert weights == [id(p) for p in model.parameters()]
    step((torch.randn(8, 4),))  # the optimizer still drives these weights
    assert not same(before[0], frozen(model, optimizer)[0])


def test_state_is_restored_when_the_step_fails():
    model = Counting()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(batch):
        model(batch[0]).backward()
        optimizer.step()
        raise RuntimeError("stop")

    before = frozen(model, optimizer)
    with pytest.raises(RuntimeError, match="stop"):
        sweep_workers(DataLoader(TensorDataset(torch.randn(32, 4)), batch_size=8), step, **QUICK)
    assert same(before, frozen(model, optimizer))


GLOBAL_MODEL = Counting()


def step_with_a_global(batch):
    GLOBAL_MODEL(batch)


class Runner:
    def __init__(self, model):
        self.parts = {"model": model}

    def step(self, batch, factor=1):
        self.parts["model"](batch * factor)

    __call__ = step


@pytest.mark.parametrize(
    "step",
    [
        step_with_a_global,
        Runner(GLOBAL_MODEL).step,
        Runner(GLOBAL_MODEL),
        functools.partial(Runner(GLOBAL_MODEL).step, factor=2),
        lambda batch: (lambda: step_with_a_global(batch))(),
        GLOBAL_MODEL,
    ],
)
def test_models_are_found_wherever_the_step_holds_them(step):
    with left_as_it_was(step):
        step(torch.randn(4, 4))
        assert GLOBAL_MODEL.seen == 1
    assert GLOBAL_MODEL.seen == 0
    assert GLOBAL_MODEL.history == []


def test_restore_names_what_cannot_be_found():
    model = Counting()
    hidden = {"model": model}
    step = eval("lambda batch: __import__('gc') and None", {"hidden": hidden})
    with left_as_it_was(step, model):
        model(torch.randn(4, 4))
    assert model.seen == 0


def epoch(ends, whole=True, waits=None, last_wait=0.0, wall=None):
    waits = waits or [0.0] * len(ends)
    return Epoch(ends=ends, waits=waits, last_wait=last_wait, wall=wall or ends[-1], whole=whole)


def test_cost_of_whole_epochs_counts_their_start_and_end():
    one = epoch([1.0, 1.1, 1.2, 1.3], wall=1.5)
    assert cost([one, one], 4, 2, persistent=False).seconds_per_step == pytest.approx(1.5 / 4)
    later = epoch([0.1, 0.2, 0.3, 0.4], wall=0.4)
    assert cost([one, later], 4, 2, persistent=True).seconds_per_step == pytest.approx(0.1)


def test_cost_of_a_cut_epoch_is_continued_at_the_later_pace():
    # 2 s of start, then 0.1 s a step; 100 steps an epoch take 2 + 10 s.
    cut = epoch([2 + 0.1 * (n + 1) for n in range(20)], whole=False)
    found = cost([cut], 100, 1, persistent=False)
    assert found.seconds_per_step == pytest.approx(0.12)
    assert found.steady == pytest.approx(0.1)
    assert cost([cut], None, 1, persistent=False).seconds_per_step == pytest.approx(0.1)
    assert cost([cut], 100, 1, persistent=True).seconds_per_step == pytest.approx(0.1)


def test_pace_of_bursts_is_taken_over_whole_bursts():
    # Four workers deliver four batches together each second, wherever the trial was cut.
    ends = [1.0 + n // 4 for n in range(40)]
    for steps in range(20, 40):
        found = cost([epoch(ends[:steps], whole=False)], None, 4, persistent=False)
        assert found.steady == pytest.approx(0.25)


def test_wait_share_counts_the_start_of_workers_and_their_end_as_often_as_training_has_them():
    # 0.5 s until the first batch, 0.02 s of waiting in each of the other steps of 0.1 s, 0.1 s to end the workers.
    one = epoch([0.58, 0.68, 0.78, 0.88], waits=[0.5, 0.02, 0.02, 0.02], last_wait=0.1, wall=1.0)
    assert cost([one, one], 4, 2, persistent=False).wait_share == pytest.approx(0.66)
    later = epoch([0.1, 0.2, 0.3, 0.4], waits=[0.02] * 4, wall=0.4)
    assert cost([one, later], 4, 2, persistent=True).wait_share == pytest.approx(0.2)
    cut = epoch([0.5 + 0.1 * (n + 1) for n in range(20)], waits=[0.52, *[0.02] * 19], whole=False)
    assert cost([cut], 100, 2, persistent=False).wait_share == pytest.approx((0.5 + 100 * 0.02) / 10.5)
    assert cost([cut], None, 2, persistent=False).wait_share == pytest.approx(0.2)


def test_bytes_of_a_batch():
    batch = {
        "a": torch.zeros(10),
        "b": [torch.zeros(2, dtype=torch.uint8), "text"],
        "c": (torch.zeros(3)[:1],),
    }
    assert tensor_bytes(batch) == 40 + 2 + 12
