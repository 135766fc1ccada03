"""The order of measuring, driven by given times: which candidates, how often, in which rounds."""

import random

import pytest

from cleval_tm.workers.search import LADDER, Search, Setting, Trial
from cleval_tm.workers.sweep import try_variants


class Machine:
    """Answers with ``seconds(workers)``, noise and neighbours included, and keeps what was asked."""

    def __init__(self, seconds, noise=0.005, fails=(), steady=None):
        self.seconds = seconds
        self.noise = noise
        self.fails = fails
        self.steady = steady or seconds
        self.asked = []
        self.random = random.Random(7)

    def __call__(self, setting):
        self.asked.append(setting)
        workers = setting.num_workers
        if workers in self.fails:
            return Trial(failure="died")
        persistent = bool(setting.persistent_workers)
        base = self.steady(workers) if persistent else self.seconds(workers)
        time = base * self.random.lognormvariate(0, self.noise)
        return Trial(
            seconds_per_step=time,
            steady=self.steady(workers),
            prefetch_factor=setting.prefetch_factor or 2,
            persistent_workers=persistent,
            steps=10,
        )


def io_bound(batch, step):
    return lambda workers: max(step, batch / workers) if workers else batch + step


def searched(machine, **options):
    search = Search(machine, **options)
    search.run()
    return search


def test_climbs_while_it_helps_and_stops_after_two_that_do_not():
    machine = Machine(io_bound(0.08, 0.01))
    search = searched(machine, current=0)
    assert search.choice().suggestion == 8
    assert {s.num_workers for s in machine.asked} == {0, 1, 2, 3, 4, 6, 8, 12, 16}


def test_two_that_do_not_help_are_enough():
    machine = Machine(lambda workers: 0.005 + 0.001 * workers)
    search = searched(machine, current=12)
    assert search.choice().suggestion == 0
    assert {s.num_workers for s in machine.asked} == {0, 1, 2, 12}


def test_a_current_value_beyond_the_climb_that_is_better_is_followed_up():
    # Nothing helps up to 2, yet 12 does: what lies between and two rungs beyond must be seen.
    machine = Machine(lambda workers: 0.02 if workers < 8 else 0.01)
    search = searched(machine, current=12)
    assert search.choice().suggestion == 8
    assert {6, 8, 12, 16} <= {s.num_workers for s in machine.asked}


@pytest.mark.parametrize("current", [0, 5, 40])
def test_zero_and_the_current_value_are_always_measured(current):
    for candidates in (None, [2], []):
        search = searched(Machine(io_bound(0.04, 0.02)), current=current, candidates=candidates)
        rows = {row.num_workers: row for row in search.results()}
        assert {0, current} <= rows.keys()
        assert all(len(rows[w].times) >= 3 for w in (0, current))


def test_given_candidates_are_measured_all_and_no_others():
    search = searched(Machine(io_bound(0.04, 0.02)), candidates=[8, 2, 2, 4], current=3)
    assert sorted(row.num_workers for row in search.results()) == [0, 2, 3, 4, 8]


def test_rounds_are_interleaved_and_every_other_one_runs_downwards():
    machine = Machine(io_bound(0.04, 0.02))
    searched(machine, candidates=[1, 2])
    assert [s.num_workers for s in machine.asked[:9]] == [0, 1, 2, 2, 1, 0, 0, 1, 2]


def test_every_candidate_of_a_climb_has_three_repeats_of_shared_rounds():
    search = searched(Machine(io_bound(0.08, 0.01)), current=4)
    rows = search.results()
    assert min(len(row.times) for row in rows) >= 3
    fastest = next(row for row in rows if row.num_workers == search.choice().fastest)
    assert all(len(set(row.rounds) & set(fastest.rounds)) >= 3 for row in rows)


def test_noise_brings_more_repeats_of_those_in_doubt_and_no_endless_ones():
    machine = Machine(lambda workers: {0: 0.1, 1: 0.022}.get(workers, 0.02), noise=0.15)
    search = Search(machine, candidates=[1, 2], max_repeats=9)
    search.run()
    repeats = {row.num_workers: len(row.times) for row in search.results()}
    assert repeats[0] == 3
    assert 3 < max(repeats.values()) <= 10


def test_a_failed_candidate_is_recorded_and_asked_no_more():
    machine = Machine(io_bound(0.04, 0.02), fails={2})
    search = searched(machine, candidates=[1, 2, 4])
    row = next(row for row in search.results() if row.num_workers == 2)
    assert row.failures == ("died",)
    assert machine.asked.count(Setting(2)) == 1
    assert search.choice().suggestion == 4


def test_a_climb_passes_a_failure_and_ends_after_two():
    assert searched(Machine(io_bound(0.08, 0.01), fails={3})).choice().suggestion == 8
    machine = Machine(io_bound(0.08, 0.01), fails={4, 6, 8, 12, 16})
    assert searched(machine).choice().suggestion == 3
    assert max(s.num_workers for s in machine.asked) == 6


def test_all_fail():
    search = searched(Machine(io_bound(0.08, 0.01), fails=set(LADDER)))
    assert search.choice() is None
    assert all(row.failures for row in search.results())
    try_variants(search, True)
    assert search.variants() == ()


def test_what_would_not_fit_is_skipped_and_said():
    machine = Machine(io_bound(0.08, 0.01))
    search = searched(machine, fits=lambda s: "too much memory" if s.num_workers > 4 else None, current=12)
    rows = {row.num_workers: row for row in search.results()}
    assert rows[6].skipped == rows[12].skipped == "too much memory"
    assert max(s.num_workers for s in machine.asked) == 4
    assert search.choice().suggestion == 4


def test_says_what_comes_and_how_long_it_takes():
    told = []
    searched(Machine(io_bound(0.04, 0.02)), candidates=[1, 2], progress=lambda *what: told.append(what))
    assert told[0][0] == "0 workers, round 1"
    assert all(gone >= 0 and left >= 0 for _, gone, left in told)
    assert told[-1][2] <= told[1][2]


def test_variants_on_the_best_value():
    machine = Machine(io_bound(0.04, 0.02))
    search = searched(machine, current=0)
    try_variants(search, True)
    assert {(row.num_workers, row.prefetch_factor, row.persistent_workers) for row in search.variants()} == {
        (2, 2, True),
        (2, 4, False),
    }
    assert all(len(row.times) >= 3 for row in search.variants())


def test_both_variants_together_if_each_helps():
    class Better(Machine):
        def __call__(self, setting):
            trial = super().__call__(setting)
            gain = 0.8 ** ((setting.prefetch_factor or 2) > 2) * 0.8 ** bool(setting.persistent_workers)
            return Trial(**{**vars(trial), "seconds_per_step": trial.seconds_per_step * gain})

    search = searched(Better(io_bound(0.04, 0.02)), current=0)
    try_variants(search, True)
    assert (2, 4, True) in {
        (row.num_workers, row.prefetch_factor, row.persistent_workers) for row in search.variants()
    }


def test_persistent_workers_are_tried_where_starting_them_each_epoch_spoils_the_gain():
    machine = Machine(lambda w: 0.05 + 0.02 * w, steady=io_bound(0.04, 0.02))
    search = searched(machine, current=0)
    assert search.choice().suggestion == 0
    try_variants(search, True)
    assert {(row.num_workers, row.persistent_workers) for row in search.variants()} == {(2, True)}


def test_no_variants_for_data_in_memory_and_no_persistent_ones_without_epochs():
    search = searched(Machine(lambda w: 0.005 + 0.001 * w), current=0)
    try_variants(search, True)
    assert search.variants() == ()
    search = searched(Machine(io_bound(0.04, 0.02)), current=0)
    try_variants(search, False)
    assert {row.persistent_workers for row in search.variants()} == {False}
