"""The command line as a user meets it: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cleval_tm._version import __version__
from cleval_tm.cli import app
from cleval_tm.counts import COUNTS

QUAD = "0,0,40,0,40,10,0,10"


def run(*arguments: object, code: int = 0):
    """Runs the command line in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    return result


def run_process(*arguments: object, code: int = 0, **kwargs) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, "-m", "cleval_tm", *map(str, arguments)], capture_output=True, text=True, **kwargs
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result


def zip_of(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def gt(tmp_path: Path) -> Path:
    return zip_of(
        tmp_path / "gt.zip",
        {"gt_img_1.txt": f"{QUAD},word\n100,0,140,0,140,10,100,10,more\n", "gt_img_2.txt": f"{QUAD},Third\n"},
    )


@pytest.fixture
def result(tmp_path: Path) -> Path:
    return zip_of(
        tmp_path / "res.zip", {"res_img_1.txt": f"{QUAD},ward\n", "res_img_2.txt": f"{QUAD},THIRD\n"}
    )


class TestEvaluate:
    def test_table(self, gt, result):
        out = run("evaluate", "-g", gt, "-s", result).stdout
        assert f"{gt}: icdar, box type quad, with text; 2 images, 3 words" in out
        for expected in ("detection", "end-to-end", "recall", "precision", "H-mean", "missed characters 4"):
            assert expected in out
        assert "rules v2023 (ap constraint 0.3, case-sensitive" in out
        assert f"cleval-tm {__version__}" in out
        # det: 9 of 13 characters
        assert "0.6923" in out

    def test_json(self, gt, result, tmp_path):
        run("evaluate", "-g", gt, "-s", result, "--json", tmp_path / "out.json")
        out = json.loads((tmp_path / "out.json").read_text())
        assert out["rules"]["name"] == "v2023"
        assert out["version"] == __version__
        assert out["files"]["gt"] == {"path": str(gt), "format": "icdar", "box_type": "quad"}
        assert out["scores"]["det_recall"] == 9 / 13
        assert out["counts"]["images"] == 2
        assert out["counts"].keys() == {*COUNTS, "images"}

    def test_json_to_stdout_is_json_alone(self, gt, result):
        assert json.loads(run("evaluate", "-g", gt, "-s", result, "--json", "-").stdout)["e2e"] is True

    def test_per_image(self, gt, result, tmp_path):
        run("evaluate", "-g", gt, "-s", result, "--per-image", tmp_path / "out.csv")
        with (tmp_path / "out.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["image"] for row in rows] == ["img_2", "img_1"]
        assert [float(row["e2e_hmean"]) for row in rows] == sorted(float(row["e2e_hmean"]) for row in rows)
        assert rows[1]["missed_chars"] == "4"
        assert rows[0]["rules"] == "v2023"
        assert set(COUNTS) < rows[0].keys()

    def test_per_image_puts_empty_images_last(self, gt, tmp_path):
        with zipfile.ZipFile(gt, "a") as archive:
            archive.writestr("gt_img_3.txt", "")
        empty = zip_of(tmp_path / "empty.zip", {"img_3.txt": ""})
        run("evaluate", "-g", gt, "-s", empty, "--e2e", "--per-image", tmp_path / "out.csv", "--ignore-case")
        with (tmp_path / "out.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["image"] for row in rows] == ["img_1", "img_2", "img_3"]
        assert rows[0]["rules"] == "v2023 case_sensitive=False"

    def test_names_of_options_in_any_case(self, gt, result):
        flags = [
            "--box-type",
            "QUAD",
            "--rules",
            "V2020",
            "--normalization",
            "nfkc",
            "--text-unit",
            "Grapheme",
        ]
        rules = json.loads(run("evaluate", "-g", gt, "-s", result, *flags, "--json", "-").stdout)["rules"]
        assert (rules["name"], rules["normalization"], rules["text_unit"]) == ("v2020", "NFKC", "grapheme")

    def test_ignore_case(self, gt, result, tmp_path):
        for flags, hits in ((), 4), (("--ignore-case",), 8):
            run("evaluate", "-g", gt, "-s", result, "--json", tmp_path / "o.json", *flags)
            assert json.loads((tmp_path / "o.json").read_text())["counts"]["e2e_tp"] == hits

    def test_e2e_is_found_out(self, gt, tmp_path):
        bare = zip_of(tmp_path / "bare.zip", {"img_1.txt": QUAD, "img_2.txt": QUAD})
        out = run("evaluate", "-g", gt, "-s", bare).stdout
        assert "bare.zip: icdar, box type quad, without text" in out
        assert "end-to-end" not in out
        error = run("evaluate", "-g", gt, "-s", bare, "--e2e", code=1).stderr
        assert "bare.zip is read without; pass --no-e2e" in error

    def test_no_e2e_on_a_result_with_text(self, gt, result):
        assert "end-to-end" not in run("evaluate", "-g", gt, "-s", result, "--no-e2e").stdout

    def test_options_reach_the_rules(self, gt, result):
        flags = (
            "--rules v2020 --ap-constraint 0.4 --recall-weight 0.5 --precision-weight 0 --max-detections 7"
        )
        more = "--text-unit grapheme --normalization NFC --vertical-aspect-ratio-thresh 0.25 --ignore-case"
        out = run("evaluate", "-g", gt, "-s", result, "--json", "-", *flags.split(), *more.split()).stdout
        rules = json.loads(out)["rules"]
        expected = {
            "name": "v2020",
            "ap_constraint": 0.4,
            "recall_granularity_weight": 0.5,
            "precision_granularity_weight": 0.0,
            "max_detections": 7,
            "text_unit": "grapheme",
            "normalization": "NFC",
            "vertical_aspect_ratio_thresh": 0.25,
            "case_sensitive": False,
        }
        assert {key: rules[key] for key in expected} == expected
        line = run("evaluate", "-g", gt, "-s", result, *flags.split(), *more.split()).stdout.splitlines()[-1]
        assert line.startswith("rules v2020 (ap constraint 0.4, case-insensitive, characters are graphemes, ")
        assert "max_detections 7" in line

    def test_confidence(self, gt, tmp_path):
        scored = zip_of(tmp_path / "s.zip", {"img_1.txt": f"{QUAD},.5,word"})
        counts = json.loads(run("evaluate", "-g", gt, "-s", scored, "--confidence", "--json", "-").stdout)[
            "counts"
        ]
        assert (counts["words_det"], counts["e2e_tp"]) == (1, 4)

    def test_lenient(self, gt, tmp_path):
        bad = zip_of(tmp_path / "bad.zip", {"img_1.txt": f"{QUAD},word\nnonsense\n1,2\n"})
        assert "bad.zip: img_1.txt, line 2: expected" in run("evaluate", "-g", gt, "-s", bad, code=1).stderr
        done = run("evaluate", "-g", gt, "-s", bad, "--lenient")
        assert "warning: 2 lines skipped; the first: " in done.stderr
        assert "2 images" in done.stdout

    def test_scale_bins(self, gt, result, tmp_path):
        sizes = tmp_path / "sizes.csv"
        sizes.write_text("image,width,height\nimg_1,1000,500\nimg_2,100,50\n")
        arguments = ["evaluate", "-g", gt, "-s", result, "--scale-bins", "0,0.05,1", "--image-sizes", sizes]
        out = json.loads(run(*arguments, "--json", "-").stdout)
        assert out["scale_counts"]["scale_0.0_0.05"]["chars_gt"] == 8
        assert out["scale_counts"]["scale_0.05_1.0"]["chars_gt"] == 5
        assert "0.05 to 1" in run(*arguments).stdout
        sizes.write_text("img_1,1000,500\n")
        assert "'img_2' has none" in run(*arguments, code=1).stderr

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--scale-bins", "0,1"], "Expected --image-sizes with --scale-bins"),
            (["--scale-bins", "1,0"], "Expected --scale-bins to be `default` or rising edges"),
            (["--scale-bins", "a"], "Expected --scale-bins to be"),
            (["--format", "xml"], "Expected --format to be auto, icdar, json, csv"),
            (
                ["--ap-constraint", "2"],
                "Expected argument `ap_constraint` to be a number from 0 to 1 but got 2",
            ),
            (["--max-unpacked-mb", "0"], "max-unpacked-mb"),
            (["--threads", "0"], "threads"),
            (["--rules", "v2021"], "v2021"),
        ],
    )
    def test_refused_options(self, gt, result, flags, message):
        code = 2 if message in ("max-unpacked-mb", "threads", "v2021") else 1
        assert message in run("evaluate", "-g", gt, "-s", result, *flags, code=code).stderr

    def test_upstage_knows_no_texts_unless_told(self, gt, result):
        common = ["evaluate", "-g", gt, "-s", result, "--rules", "upstage"]
        out = run(*common).stdout
        assert "scored by polygons alone" in out
        assert "end-to-end" not in out
        for flag in ("--with-texts", "--e2e"):
            out = run(*common, flag).stdout
            assert "scored by polygons alone" not in out
            assert "end-to-end" in out
        assert "are read without" in run(*common, "--e2e", "--polygons-only", code=1).stderr

    def test_json_and_csv_of_other_formats(self, tmp_path):
        gt = tmp_path / "val.json"
        word = {"points": [[0, 0], [40, 0], [40, 10], [0, 10]], "transcription": "word"}
        gt.write_text(json.dumps({"images": {"a.jpg": {"words": {"1": word}}, "b.jpg": {"words": {}}}}))
        result = tmp_path / "submission.csv"
        result.write_text("filename,polygons\na.jpg,0 0 40 0 40 10 0 10\nb.jpg,\n")
        out = run("evaluate", "-g", gt, "-s", result, "--rules", "upstage").stdout
        assert "val.json: json, box type poly" in out
        assert "submission.csv: csv, box type poly, without text; 2 images, 1 words" in out
        assert "1.0000" in out
        assert run("evaluate", "-g", gt, "-s", result, "--format", "json,csv").stdout
        assert "expected JSON" in run("evaluate", "-g", gt, "-s", result, "--format", "json", code=1).stderr
        folder = tmp_path / "res"
        folder.mkdir()
        (folder / "res_a.txt").write_text("0,0,40,0,40,10,0,10\n")
        assert "1.0000" in run("evaluate", "-g", gt, "-s", folder).stdout

    def test_quads_in_json_are_quads_if_said_so(self, tmp_path):
        gt = tmp_path / "val.json"
        gt.write_text(json.dumps({"images": {"a": {"words": {"1": {"points": [[0, 0], [4, 0], [4, 4]]}}}}}))
        error = run("evaluate", "-g", gt, "-s", gt, "--box-type", "quad", code=1).stderr
        assert "image 'a', word 1: expected 4 points in box type quad but got 3" in error

    @pytest.mark.parametrize("threads", [2, 5])
    def test_threads_give_the_same_bits(self, data, tmp_path, threads):
        common = ["evaluate", "-g", data / "gt_IC15.zip", "-s", data / "res_IC15_perturbed.zip"]
        run(*common, "--json", tmp_path / "1.json", "--per-image", tmp_path / "1.csv")
        run(*common, "--json", tmp_path / "n.json", "--per-image", tmp_path / "n.csv", "--threads", threads)
        assert (tmp_path / "1.json").read_bytes() == (tmp_path / "n.json").read_bytes()
        assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "n.csv").read_bytes()


class TestBadInput:
    """Each is one message on stderr that names the place, exit code 1, and no file written."""

    def refused(self, gt: Path, result: Path, message: str, *flags: object) -> None:
        folder = gt.parent / "outputs"
        folder.mkdir(exist_ok=True)
        outputs = ["--json", folder / "o.json", "--per-image", folder / "o.csv"]
        error = run("evaluate", "-g", gt, "-s", result, *outputs, *flags, code=1).stderr
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert message in error
        assert list(folder.iterdir()) == []

    def test_missing_file(self, gt, tmp_path):
        self.refused(gt, tmp_path / "none.zip", "none.zip: no such file")

    def test_no_zip(self, gt, tmp_path):
        (tmp_path / "res.zip").write_text("not a zip")
        self.refused(gt, tmp_path / "res.zip", "res.zip: expected a folder or a ZIP")

    def test_corrupt_zip(self, gt, result):
        raw = bytearray(result.read_bytes())
        at = raw.index(b"ward")
        raw[at : at + 4] = b"word"
        result.write_bytes(raw)
        self.refused(gt, result, "res.zip: res_img_1.txt: expected a readable entry but got: Bad CRC-32")

    def test_bomb(self, gt, tmp_path):
        with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("img_1.txt", b"\n" * (2 * 2**20))
        flags = ("--max-unpacked-mb", 1)
        self.refused(gt, tmp_path / "bomb.zip", "at most 1,048,576 bytes but it would give 2,097,152", *flags)
        run("evaluate", "-g", gt, "-s", tmp_path / "bomb.zip")

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("0,0,40,0,40,10,word", "res.zip: img_1.txt, line 2: expected 8 numbers and a text"),
            ("0,0,40,zero,40,10,0,10,word", "line 2: expected a finite number but got 'zero'"),
            ("0,0,40,nan,40,10,0,10,word", "line 2: expected a finite number but got 'nan'"),
            ("0,0,40,0,inf,10,0,10,word", "line 2: expected a finite number but got 'inf'"),
            ("0,0,40,0,40,10", "line 2: expected 8 numbers and a text"),
        ],
    )
    def test_bad_line(self, gt, tmp_path, line, message):
        result = zip_of(tmp_path / "res.zip", {"img_1.txt": f"{QUAD},fine\n{line}\n{QUAD},fine"})
        self.refused(gt, result, message)

    def test_box_the_wrong_way_round(self, tmp_path):
        gt = zip_of(tmp_path / "gt.zip", {"a.txt": "0,0,10,10,x\n10,0,0,10,y"})
        self.refused(gt, gt, "gt.zip: a.txt, line 2: expected xmax to be at least xmin", "--box-type", "ltrb")

    def test_unknown_images(self, gt, tmp_path):
        result = zip_of(tmp_path / "res.zip", {f"other_{i}.txt": f"{QUAD},x" for i in range(3)})
        self.refused(gt, result, "lacks 'other_0' (and 2 more)")


class TestOutputs:
    def test_refused_before_any_work(self, gt, result, tmp_path):
        common = ["evaluate", "-g", gt, "-s", result]
        missing = run(*common, "--json", tmp_path / "no" / "o.json", code=1).stderr
        assert "there is no such folder" in missing
        assert "it is a folder" in run(*common, "--json", tmp_path, code=1).stderr
        assert "gt.zip is an input too" in run(*common, "--json", gt, code=1).stderr
        twice = ["--json", tmp_path / "o", "--per-image", tmp_path / "o"]
        assert "is another output too" in run(*common, *twice, code=1).stderr
        assert not (tmp_path / "o").exists()

    @pytest.mark.skipif(sys.platform == "win32", reason="limits on file sizes are of POSIX")
    def test_a_full_disk_leaves_the_old_file(self, gt, result, tmp_path):
        import resource

        old = tmp_path / "out.json"
        old.write_text("old")
        run("evaluate", "-g", gt, "-s", result)  # so that no kernel has to be compiled under the limit
        failed = run_process(
            *("evaluate", "-g", gt, "-s", result, "--json", old),
            code=1,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
        )
        assert "error: " in failed.stderr
        assert "Traceback" not in failed.stderr
        assert old.read_text() == "old"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["gt.zip", "out.json", "res.zip"]

    def test_a_link_is_written_through(self, gt, result, tmp_path):
        (tmp_path / "real.json").write_text("old")
        (tmp_path / "link.json").symlink_to("real.json")
        run("evaluate", "-g", gt, "-s", result, "--json", tmp_path / "link.json")
        assert (tmp_path / "link.json").is_symlink()
        assert json.loads((tmp_path / "real.json").read_text())["counts"]["images"] == 2

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
    def test_devices_are_written_to_not_replaced(self, gt, result):
        out = run_process("evaluate", "-g", gt, "-s", result, "--json", "/dev/stdout").stdout
        assert '"version"' in out
        error = run("evaluate", "-g", gt, "-s", result, "--json", "/dev/full", code=1).stderr
        assert "No space left" in error
        assert Path("/dev/full").is_char_device()


class TestDemo:
    def test_prints_scores_times_and_outcomes(self):
        out = run("demo", "--images", "9").stdout
        for expected in (
            "9 generated documents",
            "end-to-end",
            "ms an image",
            "one-to-one",
            "without a match",
        ):
            assert expected in out

    def test_saved_files_give_the_same_scores(self, tmp_path):
        run("demo", "--images", "9", "--save", tmp_path / "new")
        out = run(
            "evaluate", "-g", tmp_path / "new/gt.zip", "-s", tmp_path / "new/res.zip", "--json", "-"
        ).stdout
        from cleval_tm import evaluate
        from cleval_tm.demo import make_documents

        assert json.loads(out)["scores"] == evaluate(*make_documents(9)).scores()

    def test_same_seed_same_documents(self, tmp_path):
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            run("demo", "--images", "3", "--seed", seed, "--save", tmp_path / name)
        first, second, other = ((tmp_path / name / "res.zip").read_bytes() for name in "abc")
        assert first == second != other

    def test_every_fault_of_a_detector_is_there(self):
        from cleval_tm import evaluate
        from cleval_tm.demo import make_documents

        totals = evaluate(*make_documents(27)).totals()
        faults = (
            "splits",
            "merges",
            "overlaps",
            "false_positives",
            "e2e_fp_chars",
            "ignored_gt",
            "ignored_det",
        )
        assert all(totals[fault] > 0 for fault in faults)
        assert totals["det_tp"] < totals["chars_gt"]


class TestValidate:
    def test_clean(self, gt, result):
        out = run("validate", "-g", gt, "-s", result).stdout
        assert "detection H-mean 1.0000, end-to-end H-mean 1.0000" in out
        assert "The files can be evaluated." in out
        assert "found" not in out

    def test_everything_odd_is_found(self, tmp_path):
        words = "0,0,40,0,40,10,0,10,word\n" * 2 + "0,0,40,10,40,0,0,10,tie\n10,0,35,0,35,10,10,10,over\n"
        files = {"a.txt": words + "90,0,99,0,99,9,90,9,\n", "b.txt": "", "c.txt": "1,2,3\n"}
        gt = zip_of(tmp_path / "gt.zip", files)
        result = zip_of(tmp_path / "res.zip", {"a.txt": "0,0,40,0,40,10,0,10,word", "z.txt": ""})
        out = run("validate", "-g", gt, "-s", result, code=1).stdout
        for expected in (
            "error: bad lines: 1\n",
            "gt.zip: c.txt, line 1: expected 8 numbers and a text",
            "images without words: 2\n    b\n    c\n",
            "words without text: 1\n    a: word 5\n",
            "duplicates: 1\n    a: word 2 'word' repeats word 1\n",
            "a: word 3 'tie' at 0,0 40,10 40,0 0,10",
            "overlapping words that cost score",
            "images that the ground truth lacks: 1\n    z\n",
            "images without an entry in the result: 2\n",
            "The files cannot be evaluated as they are.",
        ):
            assert expected in out

    def test_explains_a_truth_below_one(self, data):
        out = run("validate", "-g", data / "gt_IC13.zip", "--box-type", "ltrb", "--show", "1").stdout
        assert "detection H-mean 0.9923, end-to-end H-mean 0.9974" in out
        assert "img_8: word 2 'GREEK' covers 95% of word 1 'GASTRONOMY'" in out
        assert "... and" in out

    def test_result_without_text(self, data):
        files = ["-g", data / "gt_IC15.zip", "-s", data / "res_IC15_real_detections.zip"]
        assert "without text; 500 images" in run("validate", *files).stdout

    def test_missing_file(self, tmp_path):
        assert "none: no such file" in run("validate", "-g", tmp_path / "none", code=1).stderr


def test_says_once_that_it_compiles(capsys):
    import numba

    from cleval_tm.cli.compiling import announcing_compilation

    first, second = (numba.njit(lambda x, y=y: x + y) for y in (1, 2))
    with announcing_compilation():
        assert capsys.readouterr().err == ""
        first(1), second(1), first(2)
    told = capsys.readouterr().err
    assert told.count("compiling the kernels") == (0 if numba.config.DISABLE_JIT else 1)
    with announcing_compilation():
        first(3)
    assert capsys.readouterr().err == ""


class TestProcess:
    """What only a process of its own can show."""

    def imported(self, *arguments: object, **kwargs) -> set[str]:
        code = (
            "import sys, runpy; sys.argv[0] = 'cleval-tm'\n"
            "try:\n    runpy.run_module('cleval_tm', run_name='__main__')\n"
            "except SystemExit as done:\n    assert not done.code, done.code\n"
            "print('|'.join(sys.modules), file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=True,
            **kwargs,
        )
        return set(done.stderr.splitlines()[-1].split("|"))

    @pytest.mark.parametrize(
        "arguments", [["--help"], ["--version"], ["evaluate", "--help"], ["demo", "--help"]]
    )
    def test_help_imports_nothing_heavy(self, arguments):
        assert not {"torch", "numba", "shapely", "numpy", "lightning"} & self.imported(*arguments)

    def test_evaluate_imports_no_torch(self, gt, result):
        imported = self.imported("evaluate", "-g", gt, "-s", result)
        assert "numba" in imported
        assert not {"torch", "torchmetrics", "lightning", "matplotlib"} & imported

    def test_import_of_the_package(self):
        code = "import sys, cleval_tm; assert not {'torch', 'numba', 'numpy', 'rich'} & set(sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_no_progress_bar_and_no_colours_in_a_pipe(self, data):
        files = ["-g", data / "gt_IC15.zip", "-s", data / "res_IC15_perturbed.zip"]
        run_process("evaluate", *files)  # may have to compile
        done = run_process("evaluate", *files)
        assert done.stderr == ""
        assert "\x1b" not in done.stdout

    def test_the_limit_that_help_shows_is_that_of_the_reader(self):
        from cleval_tm.cli.options import MAX_MB
        from cleval_tm.io import MAX_BYTES

        assert MAX_MB * 2**20 == MAX_BYTES

    def test_no_arguments_show_the_help(self):
        done = subprocess.run([sys.executable, "-m", "cleval_tm"], capture_output=True, text=True)
        assert "evaluate" in done.stdout + done.stderr

    def test_unknown_command(self):
        assert "No such command" in run_process("evaluat", code=2).stderr

    def test_closed_pipe(self, gt, result):
        command = f'"{sys.executable}" -m cleval_tm evaluate -g "{gt}" -s "{result}" | head -1'
        done = subprocess.run(command, shell=True, capture_output=True, text=True)
        assert "Traceback" not in done.stderr

    def test_debug_shows_the_traceback(self, gt, tmp_path):
        environment = {**os.environ, "CLEVAL_TM_DEBUG": "1"}
        done = run_process("evaluate", "-g", gt, "-s", tmp_path / "none", code=1, env=environment)
        assert "Traceback" in done.stderr
