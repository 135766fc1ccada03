"""The decision and what is said about it, on given measurements."""

import json
import random
import subprocess
import sys

import pytest

from cleval_tm.workers.choice import choose, compare, scatter
from cleval_tm.workers.result import WorkerResult, WorkerSweep


def rounds(*seconds):
    return dict(enumerate(seconds))


def sweep(times, **options):
    return WorkerSweep(results=tuple(WorkerResult(w, times=t) for w, t in times.items()), **options)


def test_fewest_within_the_noise_of_the_best():
    found = choose({0: rounds(60, 61, 60), 2: rounds(20.6, 20.4, 20.5), 4: rounds(20.3, 20.2, 20.4)})
    assert (found.suggestion, found.fastest, found.conclusive) == (2, 4, True)
    assert found.equal == (2, 4)


def test_a_clear_gain_is_taken():
    found = choose({0: rounds(60, 61, 60), 2: rounds(30, 30.2, 30.1), 4: rounds(20.3, 20.2, 20.4)})
    assert found.suggestion == 4


def test_never_slower_than_the_current_value():
    # 2 workers are within 5 % of the best, but the current 3 are the best.
    times = {0: rounds(60, 60, 60), 2: rounds(20.8, 20.8, 20.8), 3: rounds(20.0, 20.0, 20.0)}
    assert choose(times).suggestion == 2
    found = choose(times, current=3)
    assert found.suggestion == 3
    assert found.against_current.ratio <= 1


@pytest.mark.parametrize("current", [0, 1, 2, 4, 12])
def test_in_memory_data_wants_none_whatever_the_current_value(current):
    times = {w: rounds(5 + w / 10, 5.1 + w / 10, 5 + w / 10) for w in (0, 1, 2, 4, 12)}
    assert choose(times, current=current).suggestion == 0


def test_a_neighbour_that_slows_whole_rounds_changes_nothing():
    quiet = {0: [60, 60, 60], 2: [20, 20, 20], 4: [20, 20.2, 20.1]}
    busy = {
        w: rounds(*(t * factor for t, factor in zip(times, (1, 2.2, 1.4), strict=True)))
        for w, times in quiet.items()
    }
    found = choose(busy, current=4)
    assert (found.suggestion, found.conclusive) == (2, True)


def test_one_disturbed_repeat_does_not_decide():
    found = choose(
        {
            0: rounds(60, 60, 61, 60, 60),
            2: rounds(20, 20.2, 55, 20.1, 20),
            4: rounds(20.2, 20, 20.1, 20, 20.2),
        }
    )
    assert found.suggestion == 2


def test_noise_that_hides_the_answer_is_inconclusive_and_keeps_a_current_value_that_measured_faster():
    # In two of three rounds 4 workers are slightly faster than 2; the third says the contrary, and loudly.
    times = {0: rounds(40, 20, 30), 2: rounds(25, 35, 18), 4: rounds(24, 33, 26)}
    assert (choose(times).suggestion, choose(times).conclusive) == (2, False)
    assert (choose(times, current=2).suggestion, choose(times, current=2).conclusive) == (2, False)
    assert (choose(times, current=4).suggestion, choose(times, current=4).conclusive) == (4, False)


def test_an_inconclusive_suggestion_is_the_likeliest_value():
    # Four workers measured 9 % slower than two in the median, and within the noise.
    times = {0: rounds(60, 50, 70), 2: rounds(20, 24, 29), 4: rounds(24, 20, 31.6)}
    found = choose(times, current=4)
    assert (found.suggestion, found.conclusive) == (2, False)


def test_even_inconclusive_a_clearly_slower_current_value_goes():
    times = {0: rounds(200, 190, 210), 2: rounds(25, 35, 18), 4: rounds(22, 30, 26)}
    found = choose(times, current=0)
    assert not found.conclusive
    assert found.suggestion in (2, 4)


def test_three_repeats_that_agree_or_differ_by_luck_do_not_stand_for_themselves():
    usual = (21.0, 20.4, 21.6)
    times = {2: (20, 20, 20), 3: usual, 4: usual, 6: (21, 21, 21), 8: (21, 26, 17)}
    times = {workers: rounds(*seconds) for workers, seconds in times.items()}
    alone = {w: compare(times[w], times[2]).noise for w in (4, 6, 8)}
    shared = choose(times).against_fastest
    assert alone[6] == 0 < shared[6].noise < alone[4]
    assert alone[4] < shared[8].noise < alone[8]


def test_any_measurements_give_a_choice_that_is_not_slower_than_the_current_value():
    draw = random.Random(3)
    for _ in range(300):
        times = {
            w: {r: draw.lognormvariate(0, 0.3) / (1 + w) for r in range(9) if draw.random() < 0.6}
            for w in draw.sample([0, 1, 2, 4, 8, 12], 4)
        }
        if not any(times.values()):
            continue
        current = draw.choice([None, *times])
        found = choose(times, current, paired=draw.random() < 0.7)
        assert times[found.suggestion]
        assert found.fastest in found.equal
        assert found.against_current is None or not found.against_current.slower
        assert (found.against_current is None) == (current is None or not times[current])


def test_a_single_measurement_has_unknown_noise():
    assert compare(rounds(20), rounds(21)).unclear
    assert not choose({0: rounds(20.0), 2: rounds(21.0)}).conclusive


def test_scatter_ignores_an_outlier():
    assert scatter([10, 10.1, 9.9, 10, 50]) < 0.5


def test_unpaired_where_rounds_differ():
    assert compare({0: 20.0, 1: 21.0}, {2: 10.0, 3: 10.5}).paired is False
    assert compare(rounds(20, 21), rounds(10, 10.5), paired=False).ratio == pytest.approx(2)


def test_choose_needs_a_measurement():
    with pytest.raises(ValueError, match="at least one measured candidate"):
        choose({0: {}})


def test_suggestion_skips_failed_and_skipped_rows():
    found = WorkerSweep(
        results=(
            WorkerResult(0, times=(60.0, 61.0, 60.0)),
            WorkerResult(2, times=(20.0, 20.1), failures=("no batch for 60 s (hung)",)),
            WorkerResult(4, times=(22.0, 22.1, 22.0)),
            WorkerResult(64, skipped="it would need about 90 GiB of memory, and 20 GiB are free"),
        ),
        current=2,
    )
    assert found.suggestion() == 4
    text = found.explain()
    assert "2 workers failed: no batch for 60 s (hung)" in text
    assert "64 workers skipped: it would need" in text
    assert "2 could not be measured" in text


def test_nothing_measured_raises_and_says_why():
    found = WorkerSweep(results=(WorkerResult(0, failures=("OSError: no such file",)),))
    with pytest.raises(RuntimeError, match="0 workers: OSError: no such file"):
        found.suggestion()
    assert found.explain().startswith("No suggestion: No candidate could be measured")
    assert json.loads(found.to_json())["suggestion"] is None


def test_explains_in_words():
    found = WorkerSweep(
        results=(
            WorkerResult(0, times=(0.05, 0.0501, 0.05), wait_share=0.6, cpu_use=0.5),
            WorkerResult(2, times=(0.0227, 0.0228, 0.0227), wait_share=0.12, cpu_use=0.7, memory_bytes=2**28),
            WorkerResult(4, times=(0.0228, 0.0227, 0.0227), wait_share=0.12, cpu_use=0.7),
        ),
        current=0,
        cpus=2,
    )
    lines = found.explain().splitlines()
    assert lines[0] == "Suggestion: num_workers = 2 (now 0): 22.7 ms a step instead of 50 ms."
    assert lines[1] == (
        "Waiting is 60 % of a step with 0 workers and 12 % with 2; more gain nothing: "
        "the step is the bottleneck."
    )
    assert lines[2] == "It keeps 70 % of 2 CPUs busy, and its workers hold 256 MiB."


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"wait_share": 0.5, "cpu_use": 0.97}, "the CPUs are the bottleneck"),
        ({"wait_share": 0.5, "cpu_use": 0.85}, "the CPUs are the bottleneck"),
        ({"wait_share": 0.5, "cpu_use": 0.3}, "loading is the bottleneck, but not for want of CPU"),
        (
            {"wait_share": 0.5, "cpu_use": 0.3, "steady": 0.012},
            "starting the workers at each epoch is 40 % of the time",
        ),
    ],
)
def test_names_the_bottleneck(row, words):
    found = WorkerSweep(results=(WorkerResult(2, times=(0.02, 0.02, 0.0201), **row),))
    assert words in found.explain()


def test_says_inconclusive_single_run_and_notes():
    found = sweep(
        {0: (0.040, 0.020, 0.030), 2: (0.025, 0.035, 0.018)},
        current=2,
        single_run=True,
        notes=("contention: 1.0 CPU",),
    )
    text = found.explain()
    assert "Inconclusive" in text
    assert "single run" in text
    assert "Contention: 1.0 CPU" in text


def test_single_run_pairs_nothing():
    # Block 3 of one run has nothing to do with block 3 of the other.
    times = {0: (0.02, 0.03, 0.02, 0.03), 2: (0.01, 0.015, 0.01, 0.015)}
    assert not sweep(times, single_run=True).choice.against_fastest[0].paired
    assert sweep(times).choice.against_fastest[0].paired


def test_settings_hold_variants_that_are_clearly_faster():
    rows = {0: (0.06,) * 3, 2: (0.020, 0.0201, 0.0202)}
    base = {"prefetch_factor": 2, "persistent_workers": False}
    results = tuple(WorkerResult(w, times=t, **base) for w, t in rows.items())
    fast = WorkerResult(2, times=(0.015, 0.0151, 0.015), prefetch_factor=2, persistent_workers=True)
    same = WorkerResult(2, times=(0.0199, 0.0199, 0.0199), prefetch_factor=4, persistent_workers=False)
    found = WorkerSweep(results=results, variants=(fast, same))
    assert found.settings() == {"num_workers": 2, "persistent_workers": True}
    assert "Faster still: num_workers=2, persistent_workers=True takes 15 ms a step." in found.explain()
    assert WorkerSweep(results=results, variants=(same,)).settings() == {"num_workers": 2}


def full_sweep():
    return WorkerSweep(
        results=(
            WorkerResult(
                4, times=(0.02, 0.021, 0.02), rounds=(0, 2, 5), wait_share=0.1, cpu_use=0.5, memory_bytes=9
            ),
            WorkerResult(0, times=(0.06, 0.061, 0.06), startup_s=0.1, steps=30, steady=0.05),
            WorkerResult(8, failures=("hung",)),
            WorkerResult(64, skipped="memory"),
        ),
        variants=(WorkerResult(4, times=(0.02, 0.02, 0.02), prefetch_factor=4, persistent_workers=True),),
        current=4,
        cpus=1.5,
        loader="train_dataloader",
        notes=("a", "b"),
    )


def test_json_round_trip(tmp_path):
    found = full_sweep()
    assert WorkerSweep.from_json(found.to_json()) == found
    path = tmp_path / "sweep.json"
    found.to_json(path)
    assert WorkerSweep.from_json(path) == WorkerSweep.from_json(str(path)) == found
    assert [p.name for p in tmp_path.iterdir()] == ["sweep.json"]
    data = json.loads(path.read_text())
    assert (data["suggestion"], data["conclusive"]) == (4, True)
    assert [row["num_workers"] for row in data["results"]] == [0, 4, 8, 64]


def test_json_errors_name_the_file(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(FileNotFoundError):
        WorkerSweep.from_json(path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"x\.json to be JSON"):
        WorkerSweep.from_json(path)
    path.write_text('{"format": "other"}')
    with pytest.raises(ValueError, match=r"format 'cleval_tm.WorkerSweep/1' but got 'other'"):
        WorkerSweep.from_json(path)
    path.write_text('{"format": "cleval_tm.WorkerSweep/1", "results": [{"times": [1.0]}]}')
    with pytest.raises(ValueError, match=r"each row in .* to be a worker result"):
        WorkerSweep.from_json(path)


def test_json_writing_fails_without_harm(tmp_path):
    path = tmp_path / "kept"
    path.mkdir()
    with pytest.raises(OSError, match="kept"):
        full_sweep().to_json(path)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_workers": -1}, "num_workers` to be 0 or more but got -1"),
        ({"num_workers": 1, "times": (0.0,)}, "positive finite seconds"),
        ({"num_workers": 1, "times": (0.1, 0.2), "rounds": (0,)}, "one distinct number"),
        ({"num_workers": 1, "times": (0.1, 0.2), "rounds": (3, 3)}, "one distinct number"),
    ],
)
def test_rows_are_validated(arguments, message):
    with pytest.raises(ValueError, match=message):
        WorkerResult(**arguments)


def test_rows_are_sorted_unique_and_looked_up():
    found = full_sweep()
    assert [row.num_workers for row in found.results] == [0, 4, 8, 64]
    assert found.row(4).seconds_per_step == 0.02
    with pytest.raises(KeyError, match="not 3"):
        found.row(3)
    with pytest.raises(ValueError, match="each num_workers once"):
        WorkerSweep(results=(WorkerResult(1), WorkerResult(1)))


def test_is_frozen():
    with pytest.raises(AttributeError):
        full_sweep().current = 3


def test_plot(tmp_path):
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot

    figure = full_sweep().plot()
    figure.savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
    fresh, ax = pyplot.subplots()
    assert full_sweep().plot(ax) is fresh
    assert "num_workers = 4" in ax.get_title()
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "4"]
    pyplot.close("all")
    WorkerSweep(results=(WorkerResult(0, failures=("x",)),)).plot()
    pyplot.close("all")


def test_reading_a_sweep_needs_no_torch(tmp_path):
    path = tmp_path / "sweep.json"
    full_sweep().to_json(path)
    code = (
        "import sys; from cleval_tm.workers import WorkerSweep; "
        f"s = WorkerSweep.from_json({str(path)!r}); print(s.suggestion()); s.explain(); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "4"
