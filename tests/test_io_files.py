"""Annotation JSON, submission CSV, image sizes, and finding out what a file is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cleval_tm.io import AnnotationError, detect_format, image_sizes, read_csv, read_json
from cleval_tm.io.formats import Request, load
from cleval_tm.io.pairing import with_sizes

SQUARE = [[0, 0], [9, 0], [9, 9], [0, 9]]


def json_of(tmp_path: Path, words: dict[str, Any] | None, **image: Any) -> Path:
    path = tmp_path / "val.json"
    path.write_text(json.dumps({"images": {"a.jpg": {"words": words, **image}}}))
    return path


def csv_of(tmp_path: Path, *rows: str, header: str = "filename,polygons") -> Path:
    path = tmp_path / "submission.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


class TestJson:
    @pytest.mark.parametrize("key", ["transcription", "text"])
    def test_words(self, tmp_path, key):
        words = {"1": {"points": SQUARE, key: "one"}, "2": {"points": [[0.5, 1], [2, 3], [4, 5]], key: "two"}}
        image = read_json(json_of(tmp_path, words))["a.jpg"]
        assert image["texts"] == ["one", "two"]
        assert [polygon.shape for polygon in image["polygons"]] == [(4, 2), (3, 2)]
        assert image["polygons"][1][0, 0] == 0.5
        assert image.keys() == {"polygons", "texts"}

    def test_without_texts(self, tmp_path):
        assert read_json(json_of(tmp_path, {"1": {"points": SQUARE}}))["a.jpg"].keys() == {"polygons"}
        nulls = {"1": {"points": SQUARE, "transcription": None}}
        assert read_json(json_of(tmp_path, nulls))["a.jpg"].keys() == {"polygons"}

    def test_some_texts_missing(self, tmp_path):
        words = {
            "1": {"points": SQUARE, "transcription": "x"},
            "2": {"points": SQUARE, "transcription": None},
        }
        assert read_json(json_of(tmp_path, words))["a.jpg"]["texts"] == ["x", ""]

    def test_confidence_sorts_stably(self, tmp_path):
        words = {
            str(i): {"points": SQUARE, "text": str(i), "confidence": score}
            for i, score in enumerate([0.1, 0.9, 0.1])
        }
        image = read_json(json_of(tmp_path, words))["a.jpg"]
        assert image["texts"] == ["1", "0", "2"]
        assert image["scores"].tolist() == [0.9, 0.1, 0.1]

    def test_confidence_of_some_words_is_left_aside(self, tmp_path):
        words = {"1": {"points": SQUARE, "confidence": 0.1}, "2": {"points": SQUARE}}
        assert "scores" not in read_json(json_of(tmp_path, words))["a.jpg"]

    @pytest.mark.parametrize("words", [None, {}])
    def test_image_without_words(self, tmp_path, words):
        assert read_json(json_of(tmp_path, words))["a.jpg"] == {"polygons": [], "texts": []}

    def test_image_size(self, tmp_path):
        assert read_json(json_of(tmp_path, {}, img_h=20, img_w=10))["a.jpg"]["image_size"] == (20, 10)

    @pytest.mark.parametrize(
        ("word", "message"),
        [
            ({}, r'expected {"points": \[\[x, y\], ...\]} but got {}'),
            (7, "but got 7"),
            ({"points": [1, 2, 3, 4]}, r"\[\[x, y\], ...\] but got \[1, 2, 3, 4\]"),
            ({"points": [[1, 2, 3]]}, "but got"),
            ({"points": [[1, 2], [3]]}, "but got"),
            ({"points": []}, "but got"),
            ({"points": None}, "but got null"),
            ({"points": [["1", "2"]]}, "but got"),
            ({"points": [[1, float("nan")]]}, "finite"),
            ({"points": SQUARE, "text": 5}, "expected the text to be a string but got 5"),
            (
                {"points": SQUARE, "confidence": "high"},
                'expected "confidence" to be a finite number but got "high"',
            ),
            ({"points": SQUARE, "confidence": float("inf")}, "finite number"),
        ],
    )
    def test_bad_word(self, tmp_path, word, message):
        path = json_of(tmp_path, {"ok": {"points": SQUARE}, "w2": word})
        with pytest.raises(AnnotationError, match=r"val\.json: image 'a\.jpg', word 'w2': .*" + message):
            read_json(path)
        with pytest.warns(UserWarning, match="1 word skipped"):
            assert len(read_json(path, lenient=True)["a.jpg"]["polygons"]) == 1

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "expected JSON but got: .* line 1 column 2"),
            ("[]", 'expected {"images": '),
            ('{"images": []}', 'expected {"images": '),
            ('{"images": {"a": 3}}', "image 'a': expected"),
            ('{"images": {"a": {"words": [1]}}}', "image 'a': expected"),
            ("[" * 100_000, "expected JSON"),
        ],
    )
    def test_no_annotations(self, tmp_path, content, message):
        path = tmp_path / "val.json"
        path.write_text(content)
        with pytest.raises(AnnotationError, match=r"val\.json: .*" + message):
            read_json(path)


class TestCsv:
    def test_polygons(self, tmp_path):
        images = read_csv(csv_of(tmp_path, "a.jpg,0 0 9 0 9 5 0 5|1.5 2 3 4 5 6", "b.jpg,"))
        assert [polygon.shape for polygon in images["a.jpg"]["polygons"]] == [(4, 2), (3, 2)]
        assert images["a.jpg"]["polygons"][1].tolist() == [[1.5, 2], [3, 4], [5, 6]]
        assert images["b.jpg"]["polygons"] == []

    def test_other_columns_and_a_long_page(self, tmp_path):
        polygons = "|".join(["100 100 200 100 200 150 100 150"] * 10_000)
        path = csv_of(tmp_path, f'7,{polygons},"a,b.jpg"', header="id,polygons,filename")
        assert len(read_csv(path)["a,b.jpg"]["polygons"]) == 10_000

    @pytest.mark.parametrize(
        "cell", ["0 0 9", "0 0 9 x", "0 0 9 nan", "0 0 1 1||2 2 3 3", "0 0 1_0 1", "0,0"]
    )
    def test_bad_polygon(self, tmp_path, cell):
        path = csv_of(tmp_path, "a.jpg,0 0 9 0 9 5", f'b.jpg,"{cell}"')
        with pytest.raises(
            AnnotationError, match=r"csv, line 3, polygon \d: expected finite numbers x y x y"
        ):
            read_csv(path)
        with pytest.warns(UserWarning, match="1 polygon skipped"):
            read_csv(path, lenient=True)

    @pytest.mark.parametrize(
        ("rows", "header", "message"),
        [
            (
                ["a.jpg,"],
                "name,boxes",
                "line 1: expected the columns filename,polygons but got 'name,boxes'",
            ),
            (["a.jpg"], "filename,polygons", "line 2: expected 2 cells"),
            (["a.jpg,", "a.jpg,"], "filename,polygons", "line 3: expected one line an image but 'a.jpg' was"),
        ],
    )
    def test_bad_table(self, tmp_path, rows, header, message):
        with pytest.raises(AnnotationError, match=message):
            read_csv(csv_of(tmp_path, *rows, header=header))


class TestFormats:
    def test_by_content(self, tmp_path):
        (tmp_path / "odd.name").write_bytes(json_of(tmp_path, {}).read_bytes())
        assert detect_format(tmp_path / "odd.name") == "json"
        assert detect_format(csv_of(tmp_path)) == "csv"
        assert detect_format(tmp_path) == "icdar"

    def test_unknown(self, tmp_path):
        path = tmp_path / "readme.md"
        path.write_text("# hello")
        with pytest.raises(AnnotationError, match=r"readme\.md: expected a ZIP or a folder .* none of them"):
            detect_format(path)

    @pytest.mark.parametrize(
        ("lines", "box_type", "confidence", "text"),
        [
            (["1,2,3,4,5,6,7,8"], "quad", False, False),
            (["1,2,3,4,5,6,7,8,x"], "quad", False, True),
            (["1,2,3,4,5,6,7,8,.5"], "quad", True, False),
            (["1,2,3,4,5,6,7,8,.5,9"], "quad", True, True),
            (["1,2,3,4,x"], "ltrb", False, True),
            (["1,2,3,4"], "ltrb", False, False),
            (["1,2,3,4,5,6"], "poly", False, False),
            (["1,2,3,4,5,6,2008"], "poly", False, True),
            (["1,2,3,4,5,6,x"], "poly", False, True),
            (["1,2,3,4,5,6,.5"], "poly", True, False),
            (["1,2,3,4,5,6,.5,7"], "poly", True, True),
            (["", "1,2,3,4,5,6,7,8", "1,2,3,4,5,6,7,8", "1,2,3,4,5,6,7,8,stray"], "quad", False, False),
        ],
    )
    def test_text_is_found_out(self, tmp_path, lines, box_type, confidence, text):
        (tmp_path / "a.txt").write_text("\n".join(lines))
        _, found = load(tmp_path, Request(box_type=box_type, confidence=confidence))
        assert found.text is text

    def test_a_stray_line_is_the_error_not_the_others(self, tmp_path):
        (tmp_path / "a.txt").write_text("1,2,3,4,5,6,7,8,x\n1,2,3,4,5,6,7,8\n1,2,3,4,5,6,7,8,x\n")
        reading, _ = load(tmp_path, Request())
        assert [problem.split(": ")[0].rpartition(", ")[2] for problem in reading.problems] == ["line 2"]


class TestSizes:
    def target(self, *names: str) -> list[dict[str, Any]]:
        return [{"image_id": name} for name in names]

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("s.csv", "image,width,height\na,30,20\nb.jpg,3,2\n"),
            ("s.csv", "a,30,20\n\nimages/b.jpg,3,2\n"),
            ("s.csv", "height,width,filename\n20,30,a\n2,3,b\n"),
            ("s.json", '{"a": [30, 20], "b": {"width": 3, "height": 2}}'),
        ],
    )
    def test_files(self, tmp_path, name, content):
        path = tmp_path / name
        path.write_text(content)
        target = self.target("a", "b")
        with_sizes(target, image_sizes(path))
        assert [image["image_size"] for image in target] == [(20, 30), (2, 3)]

    def test_one_for_all(self):
        target = self.target("a", "b")
        with_sizes(target, image_sizes("30x20"))
        assert [image["image_size"] for image in target] == [(20, 30)] * 2

    def test_missing_image(self, tmp_path):
        with pytest.raises(AnnotationError, match=r"a size for every image but 'b' \(and 1 more\) has none"):
            with_sizes(self.target("a", "b", "c"), {"a": (2, 3)})

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("a,1\n", "line 1: expected image,width,height but got 'a,1'"),
            ("a,1,2\nb,0,2\n", "line 2: expected width and height to be above 0"),
            ("a,1,x\n", "above 0"),
            ('{"a": 3}', r"image 'a': expected \[width, height\] but got 3"),
            ('{"a": [3, "x"]}', "above 0"),
            ("[1]", r"expected {image: \[width, height\]}"),
            ("{", "expected JSON"),
        ],
    )
    def test_bad(self, tmp_path, content, message):
        path = tmp_path / "sizes"
        path.write_text(content)
        with pytest.raises(AnnotationError, match=message):
            image_sizes(path)

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"sizes\.csv: no such file"):
            image_sizes(tmp_path / "sizes.csv")


def test_boxes_of_a_page_keep_their_numbers(tmp_path):
    polygons = np.random.default_rng(0).uniform(-5, 5000, (50, 6, 2))
    row = "|".join(" ".join(map(repr, polygon.ravel().tolist())) for polygon in polygons)
    np.testing.assert_array_equal(read_csv(csv_of(tmp_path, f"a,{row}"))["a"]["polygons"], polygons)
