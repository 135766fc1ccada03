"""Reading ICDAR-style files: what is a word, what is an image, what is an error."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleval_tm.io import AnnotationError, image_key, pair, read_icdar

QUAD = "0,0,10,0,10,5,0,5"
GT = {"a": {"boxes": np.zeros((1, 4)), "texts": ["x"]}, "b": {"boxes": np.zeros((0, 4)), "texts": []}}


def folder_of(tmp_path: Path, **files: str | bytes) -> Path:
    folder = tmp_path / "files"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / f"{name}.txt").write_bytes(data)
    return folder


def zip_of(path: Path, files: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


class TestLines:
    def texts(self, tmp_path: Path, *lines: str, **kwargs) -> list[str]:
        return read_icdar(folder_of(tmp_path, a="\n".join(lines)), **kwargs)["a"]["texts"]

    @pytest.mark.parametrize(
        ("written", "read"),
        [
            ("word", "word"),
            (" two words ", " two words "),
            ("a,b,,c", "a,b,,c"),
            ("", ""),
            ("###", "###"),
            ('"quoted"', "quoted"),
            ('  "blanks around"  ', "blanks around"),
            ('"with, comma"', "with, comma"),
            (r'"back\\slash"', r"back\slash"),
            (r'"say \"hi\""', 'say "hi"'),
            ('"', '"'),
            ('""', ""),
            ('half"', 'half"'),
            ('5" pipe', '5" pipe'),
            ("\u2028\x85", "\u2028\x85"),
            ("한글 💡", "한글 💡"),
        ],
    )
    def test_text_is_everything_after_its_comma(self, tmp_path, written, read):
        assert self.texts(tmp_path, f"{QUAD},{written}") == [read]
        assert self.texts(tmp_path, f"0,0,10,5,{written}", box_type="ltrb") == [read]

    def test_quotes_are_unescaped_in_order(self, tmp_path):
        # the doubled backslash first, so that what it leaves escapes the quote
        assert self.texts(tmp_path, f'{QUAD},"a\\\\"b"') == ['a"b']

    @pytest.mark.parametrize(
        "number", ["1", "-1", "+1", " 1 ", "\t1", "1.5", ".95", "5.", "1e-5", "-2.5E+3", "007"]
    )
    def test_numbers(self, tmp_path, number):
        image = read_icdar(folder_of(tmp_path, a=f"{number},0,10,0,10,5,0,5,x"))["a"]
        assert image["polygons"][0, 0, 0] == float(number)

    @pytest.mark.parametrize(
        "number", ["", "x", "nan", "inf", "-Infinity", "1_000", "1 2", "0x10", "１２", "1e999"]
    )
    def test_no_numbers(self, tmp_path, number):
        with pytest.raises(AnnotationError, match=r"a\.txt, line 2: expected a finite number but got "):
            read_icdar(folder_of(tmp_path, a=f"{QUAD},ok\n0,0,{number},0,10,5,0,5,bad"))

    def test_line_ends_bom_and_empty_lines(self, tmp_path):
        content = f"\ufeff{QUAD},one\r\n\r\n   \n{QUAD},two\n\n{QUAD},three\r"
        assert self.texts(tmp_path, content) == ["one", "two", "three"]

    def test_undecodable_bytes_are_replaced(self, tmp_path):
        folder = folder_of(tmp_path, a=f"{QUAD},caf".encode() + b"\xe9\n")
        assert read_icdar(folder)["a"]["texts"] == ["caf\ufffd"]

    def test_error_names_the_line_as_an_editor_counts_it(self, tmp_path):
        with pytest.raises(AnnotationError, match="line 4: expected 8 numbers and a text"):
            read_icdar(folder_of(tmp_path, a=f"{QUAD},one\n\n{QUAD},two\n1,2,3\n"))

    def test_shapes(self, tmp_path):
        folder = folder_of(tmp_path, a="1,2,3,4,x\n5,6,7,8,y")
        image = read_icdar(folder, "ltrb")["a"]
        np.testing.assert_array_equal(image["boxes"], [[1, 2, 3, 4], [5, 6, 7, 8]])
        image = read_icdar(folder_of(tmp_path, a="1,2,3,4,5,6,7,8"), text=False)["a"]
        np.testing.assert_array_equal(image["polygons"], [[[1, 2], [3, 4], [5, 6], [7, 8]]])
        assert "texts" not in image
        assert "scores" not in image

    def test_no_words(self, tmp_path):
        for box_type, key in (("quad", "polygons"), ("ltrb", "boxes"), ("poly", "polygons")):
            image = read_icdar(folder_of(tmp_path, a="\n"), box_type, confidence=True)["a"]
            assert len(image[key]) == 0
            assert image["texts"] == []
            assert len(image["scores"]) == 0

    def test_confidence_sorts_stably(self, tmp_path):
        lines = [
            f"0,0,{i},9,{c},{t}"
            for i, (c, t) in enumerate([(".2", "a"), ("1", "b"), (".2", "c"), ("1e0", "d")])
        ]
        image = read_icdar(folder_of(tmp_path, a="\n".join(lines)), "ltrb", confidence=True)["a"]
        assert image["texts"] == ["b", "d", "a", "c"]
        assert image["scores"].tolist() == [1, 1, 0.2, 0.2]
        assert image["boxes"][:, 2].tolist() == [1, 3, 0, 2]

    @pytest.mark.parametrize("line", ["10,0,9,5,x", "0,10,5,9,x"])
    def test_boxes_the_wrong_way_round(self, tmp_path, line):
        with pytest.raises(AnnotationError, match=r"a\.txt, line 1: expected [xy]max to be at least [xy]min"):
            read_icdar(folder_of(tmp_path, a=line), "ltrb")

    def test_box_of_no_extent_is_read(self, tmp_path):
        assert len(read_icdar(folder_of(tmp_path, a="5,5,5,5,x"), "ltrb")["a"]["boxes"]) == 1

    @pytest.mark.parametrize(
        ("line", "kwargs", "hint"),
        [
            ("1,2,3,4,5,6,word", {}, "expected 8 numbers and a text .* but got 7 cells"),
            ("1,2,3,4,5,6,7,8", {}, "expected 8 numbers and a text .* but got 8 cells"),
            ("1,2,3,4,word", {}, "boxes of 4 numbers are box type 'ltrb'"),
            ("9,9,1,1,5,6,7,8,word", {"box_type": "ltrb"}, "quads of 8 numbers are box type 'quad'"),
            (f"{QUAD},word", {"text": False}, "does a confidence or a text follow"),
            ("1 2 3 4 word", {}, "numbers are separated by commas"),
            (f"{QUAD},word", {"confidence": True}, "expected 9 numbers and a text"),
        ],
    )
    def test_wrong_count(self, tmp_path, line, kwargs, hint):
        with pytest.raises(AnnotationError, match=hint):
            read_icdar(folder_of(tmp_path, a=line), **kwargs)

    def test_unknown_box_type(self, tmp_path):
        with pytest.raises(
            ValueError, match="Expected argument `box_type` to be one of quad, ltrb, poly but got 'QUAD'"
        ):
            read_icdar(folder_of(tmp_path, a=f"{QUAD},x"), "QUAD")


class TestPolygons:
    @pytest.mark.parametrize(
        ("line", "kwargs", "points", "text", "score"),
        [
            ("0,0,5,0,5,5,word", {}, 3, "word", None),
            ("0,0,5,0,5,5,0,5,2,7,1,3,a,b,c", {}, 6, "a,b,c", None),
            ("0,0,5,0,5,5,7,word", {}, 3, "7,word", None),
            ("0,0,5,0,5,5,2008", {}, 3, "2008", None),
            ("0,0,5,0,5,5,", {}, 3, "", None),
            ("0,0,x", {}, 1, "x", None),
            ("0,0,5,0,5,5", {"text": False}, 3, None, None),
            ("0,0,5,0,5,5,.5,word", {"confidence": True}, 3, "word", 0.5),
            ("0,0,5,0,5,5,.5,1,word", {"confidence": True}, 3, "1,word", 0.5),
            ("0,0,5,0,5,5,.5", {"confidence": True, "text": False}, 3, None, 0.5),
            ('0,0,5,0,5,5,"a, b"', {}, 3, "a, b", None),
        ],
    )
    def test_line(self, tmp_path, line, kwargs, points, text, score):
        image = read_icdar(folder_of(tmp_path, a=line), "poly", **kwargs)["a"]
        assert [polygon.shape for polygon in image["polygons"]] == [(points, 2)]
        assert image.get("texts") == (None if text is None else [text])
        assert score is None or image["scores"].tolist() == [score]

    @pytest.mark.parametrize(
        ("line", "kwargs", "message"),
        [
            ("word", {}, "an even number of coordinates and a text .* but got 0 numbers and then 'word'"),
            ("5,word", {}, "but got 1 number and then 'word'"),
            ("1,2,3,4,5", {"text": False}, "expected an even number of coordinates .* but got 5 numbers: "),
            ("1,2,3,4,oops", {"text": False}, "but got 4 numbers and then 'oops'"),
            ("1,2,nan,4,word", {}, "expected a finite number but got 'nan'"),
            ("1,2,3,4", {"text": False, "confidence": True}, "and a confidence"),
        ],
    )
    def test_bad_line(self, tmp_path, line, kwargs, message):
        with pytest.raises(AnnotationError, match=r"a\.txt, line 2: .*" + message):
            read_icdar(folder_of(tmp_path, a=f"\n{line}"), "poly", **kwargs)

    def test_by_falling_confidence(self, tmp_path):
        folder = folder_of(tmp_path, a="0,0,1,0,1,1,.1,low\n0,0,2,0,2,2,.9,high")
        image = read_icdar(folder, "poly", confidence=True)["a"]
        assert image["texts"] == ["high", "low"]
        assert image["polygons"][0][1, 0] == 2


class TestLenient:
    def test_skips_with_a_counted_warning(self, tmp_path):
        folder = folder_of(tmp_path, a=f"{QUAD},one\nbad\n{QUAD},two", b=f"1,2\n{QUAD},three")
        with pytest.raises(AnnotationError, match=r"a\.txt, line 2: .*\(and 1 more bad line\)"):
            read_icdar(folder)
        with pytest.warns(
            UserWarning, match=r"2 lines skipped; the first: .*a\.txt, line 2: expected 8 numbers"
        ):
            images = read_icdar(folder, lenient=True)
        assert [image["texts"] for image in images.values()] == [["one", "two"], ["three"]]
        assert images["a"]["polygons"].shape == (2, 4, 2)

    def test_good_lines_read_the_same(self, tmp_path):
        good = '1.5,2,3,4,5,6,7,8,.25,x\n -1,2,3,4,5,6,7,8,.5,"y"'
        (tmp_path / "1").mkdir()
        (tmp_path / "2").mkdir()
        clean = read_icdar(folder_of(tmp_path / "1", a=good), confidence=True)["a"]
        with pytest.warns(UserWarning, match="1 line skipped"):
            mixed = read_icdar(folder_of(tmp_path / "2", a=f"oops\n{good}"), confidence=True, lenient=True)[
                "a"
            ]
        assert clean["texts"] == mixed["texts"] == ["y", "x"]
        np.testing.assert_array_equal(clean["polygons"], mixed["polygons"])
        np.testing.assert_array_equal(clean["scores"], mixed["scores"])

    def test_silent_where_nothing_is_wrong(self, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read_icdar(folder_of(tmp_path, a=f"{QUAD},one"), lenient=True)


class TestArchives:
    def test_zip_and_folder_read_the_same(self, tmp_path):
        line = f"{QUAD},word"
        packed = zip_of(tmp_path / "gt.zip", {"gt_img_1.txt": line, "gt_img_2.txt": ""})
        loose = read_icdar(folder_of(tmp_path, gt_img_1=line, gt_img_2=""))
        images = read_icdar(packed)
        assert list(images) == list(loose) == ["img_1", "img_2"]
        np.testing.assert_array_equal(images["img_1"]["polygons"], loose["img_1"]["polygons"])

    def test_folders_come_in_natural_order(self, tmp_path):
        folder = folder_of(tmp_path, **{f"img_{i}": "" for i in (10, 9, 1, 100)})
        assert list(read_icdar(folder)) == ["img_1", "img_9", "img_10", "img_100"]

    def test_what_is_no_annotation_is_passed_over(self, tmp_path):
        path = zip_of(
            tmp_path / "gt.zip",
            {
                "gt/": "",
                "gt/img_1.txt": f"{QUAD},a",
                "__MACOSX/gt/._img_1.txt": b"\x00\x05",
                "gt/.DS_Store": b"\x00",
                "gt/.hidden.txt": "x",
                "gt/img_1.png": b"\x89PNG",
                "Thumbs.db": "x",
            },
        )
        assert list(read_icdar(path)) == ["img_1"]

    def test_without_txt_files_every_file_counts(self, tmp_path):
        assert list(read_icdar(zip_of(tmp_path / "gt.zip", {"gt_img_1": f"{QUAD},a"}))) == ["img_1"]

    @pytest.mark.parametrize(
        ("name", "key"),
        [
            ("gt_img_1.txt", "img_1"),
            ("res_a.jpg.txt", "a"),
            ("a_gt_b.txt", "a_b"),
            ("1.json", "1"),
            ("x.TXT", "x.TXT"),
        ],
    )
    def test_image_key(self, name, key):
        assert image_key(name) == key

    def test_two_files_of_one_image(self, tmp_path):
        path = zip_of(tmp_path / "gt.zip", {"gt_1.txt": "", "res_1.txt": ""})
        with pytest.raises(
            AnnotationError, match=r"res_1\.txt: expected one file an image but .*gt_1\.txt .*'1'"
        ):
            read_icdar(path)

    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"gt\.zip: no such file"):
            read_icdar(tmp_path / "gt.zip")

    def test_no_zip(self, tmp_path):
        path = tmp_path / "gt.zip"
        path.write_text("hello")
        with pytest.raises(AnnotationError, match=r"gt\.zip: expected a folder or a ZIP .* no readable ZIP"):
            read_icdar(path)

    def test_empty(self, tmp_path):
        with pytest.raises(AnnotationError, match="expected text files, one an image, but found none"):
            read_icdar(zip_of(tmp_path / "gt.zip", {}))
        with pytest.raises(AnnotationError, match="found none"):
            read_icdar(folder_of(tmp_path))

    def test_truncated(self, tmp_path):
        path = zip_of(tmp_path / "gt.zip", {"a.txt": f"{QUAD},a\n" * 500})
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(AnnotationError, match=r"gt\.zip"):
            read_icdar(path)

    def test_every_flipped_byte_is_an_error_or_harmless(self, tmp_path):
        path = zip_of(tmp_path / "gt.zip", {"a.txt": "\n".join(f"{i},0,{i + 9},9,w{i}" for i in range(40))})
        good = path.read_bytes()
        whole = read_icdar(path, "ltrb")["a"]["texts"]
        outcomes = set()
        for position in range(len(good)):
            path.write_bytes(good[:position] + bytes([good[position] ^ 0xFF]) + good[position + 1 :])
            try:
                images = read_icdar(path, "ltrb")
            except AnnotationError as error:
                assert "gt.zip" in str(error)  # noqa: PT017
                outcomes.add("error")
            else:
                assert [image["texts"] for image in images.values()] == [whole]
                outcomes.add("harmless")
        assert outcomes == {"error", "harmless"}

    def test_encrypted(self, tmp_path):
        path = zip_of(tmp_path / "gt.zip", {"a.txt": f"{QUAD},a"})
        raw = bytearray(path.read_bytes())
        raw[6] |= 1  # the encryption bit of the local header and of the central directory
        raw[raw.index(b"PK\x01\x02") + 8] |= 1
        path.write_bytes(raw)
        with pytest.raises(AnnotationError, match=r"a\.txt: expected a readable entry but got: .*encrypted"):
            read_icdar(path)

    def test_bomb(self, tmp_path):
        path = zip_of(tmp_path / "gt.zip", {"a.txt": b"\n" * 3_000_000})
        assert path.stat().st_size < 10_000
        with pytest.raises(AnnotationError, match="at most 1,000,000 bytes but it would give 3,000,000"):
            read_icdar(path, max_bytes=1_000_000)
        assert len(read_icdar(path)["a"]["polygons"]) == 0

    def test_a_header_that_lies_about_the_size_does_not_unpack(self, tmp_path):
        path = zip_of(tmp_path / "gt.zip", {"a.txt": b"\n" * 3_000_000})
        raw = bytearray(path.read_bytes())
        at = raw.index(b"PK\x01\x02") + 24
        raw[at : at + 4] = (100).to_bytes(4, "little")
        path.write_bytes(raw)
        with pytest.raises(AnnotationError, match=r"a\.txt: expected a readable entry"):
            read_icdar(path, max_bytes=1_000_000)


class TestPair:
    def test_order_of_gt_and_empty_predictions(self):
        preds, target = pair(
            GT, {"b": {"polygons": np.zeros((2, 4, 2)), "texts": ["p", "q"], "scores": [1, 0]}}
        )
        assert [image["image_id"] for image in (*preds, *target)] == ["a", "b", "a", "b"]
        assert preds[0]["polygons"].shape == (0, 4, 2)
        assert preds[0]["texts"] == []
        assert len(preds[0]["scores"]) == 0
        assert "image_id" not in GT["a"]

    def test_empty_predictions_have_the_keys_of_the_others(self):
        preds, _ = pair(GT, {"b": {"boxes": np.zeros((2, 4))}})
        assert preds[0].keys() == {"boxes", "image_id"}

    def test_no_predictions_at_all(self):
        preds, _ = pair(GT, {})
        assert all(len(image["polygons"]) == 0 and image["texts"] == [] for image in preds)

    def test_names_in_another_unicode_form_are_pointed_out(self):
        with pytest.raises(AnnotationError, match="whose name is there in another Unicode form"):
            pair({"\ud55c": {}}, {"\u1112\u1161\u11ab": {}})

    def test_unknown_images_are_named_and_counted(self):
        with pytest.raises(AnnotationError, match=r"lacks 'x' \(and 2 more\)"):
            pair(GT, {"a": {}, "x": {}, "y": {}, "z": {}})
        with pytest.raises(AnnotationError, match=r"lacks 'x'; the ground truth has 2 images, such as 'a'"):
            pair(GT, {"x": {}})


@pytest.mark.parametrize(
    ("name", "box_type", "text", "images", "words"),
    [
        ("gt_eval_doc_v1_kr.zip", "quad", True, 100, 10532),
        ("gt_IC13.zip", "ltrb", True, 233, 1095),
        ("gt_IC15.zip", "quad", True, 500, 5230),
        ("res_IC15_real_detections.zip", "quad", False, 500, 2823),
        ("gt_TotalText.zip", "poly", True, 300, 2548),
    ],
)
def test_published_files(data, name, box_type, text, images, words):
    read = read_icdar(data / name, box_type, text=text)
    assert len(read) == images
    assert sum(len(image["boxes" if box_type == "ltrb" else "polygons"]) for image in read.values()) == words


def test_reading_needs_neither_torch_nor_numba():
    code = (
        "import sys, cleval_tm.io as io; io.read_icdar; "
        "assert not {'torch', 'numba', 'shapely', 'rich', 'typer'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_large_file_takes_the_fast_path_and_the_slow_one_alike(tmp_path):
    rows = [f"{i},{i}.5,{i + 9},0,{i + 9},9,{i},9,w,{i}" for i in range(2000)]
    buffer = io.StringIO("\n".join(rows))
    fast = read_icdar(folder_of(tmp_path, a=buffer.getvalue()))["a"]
    with pytest.warns(UserWarning, match="line 2001"):
        slow = read_icdar(folder_of(tmp_path, a=buffer.getvalue() + "\n?"), lenient=True)["a"]
    assert fast["texts"] == slow["texts"]
    np.testing.assert_array_equal(fast["polygons"], slow["polygons"])


@settings(max_examples=300, deadline=None)
@given(
    content=st.one_of(
        st.binary(max_size=300),
        st.text(alphabet='0123456789,.-+eE_ "\\\r\n#\ufeff한naif', max_size=300).map(str.encode),
    ),
    box_type=st.sampled_from(["quad", "ltrb", "poly"]),
    text=st.booleans(),
    confidence=st.booleans(),
)
def test_any_content_is_read_or_refused(tmp_path_factory, content, box_type, text, confidence):
    folder = tmp_path_factory.mktemp("any")
    (folder / "a.txt").write_bytes(content)
    options = {"box_type": box_type, "text": text, "confidence": confidence}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lenient = read_icdar(folder, **options, lenient=True)["a"]
    n = len(lenient["boxes" if box_type == "ltrb" else "polygons"])
    for key in ("texts", "scores"):
        assert len(lenient.get(key, range(n))) == n
    try:
        strict = read_icdar(folder, **options)["a"]
    except AnnotationError as error:
        assert "a.txt, line " in str(error)  # noqa: PT017
    else:
        assert strict.get("texts") == lenient.get("texts")
    shapes = lenient["boxes"] if box_type == "ltrb" else lenient["polygons"]
    assert all(np.isfinite(shape).all() for shape in shapes)
