"""Options that several commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class BoxType(str, Enum):
    """Kinds of shapes in ICDAR files."""

    quad = "quad"
    ltrb = "ltrb"
    poly = "poly"


class RuleSet(str, Enum):
    """Published rule sets."""

    v2023 = "v2023"
    v2020 = "v2020"
    upstage = "upstage"


class TextUnit(str, Enum):
    """What counts as a character."""

    codepoint = "codepoint"
    grapheme = "grapheme"


class Normalization(str, Enum):
    """What is done to both texts first."""

    none = "none"
    NFC = "NFC"
    NFKC = "NFKC"
    width = "width"


FILES = "Files"
RULES = "Rules"
OUTPUT = "Output"

GtPath = Annotated[
    Path,
    typer.Option("--gt", "-g", help="Ground truth: ZIP or folder of text files, or annotation JSON or CSV."),
]
BoxTypeOption = Annotated[
    BoxType | None,
    typer.Option(
        "--box-type",
        case_sensitive=False,
        help="Shapes in text files: 8 numbers a line, 4, or any even number.",
        show_default="quad",
        rich_help_panel=FILES,
    ),
]
Confidence = Annotated[
    bool,
    typer.Option(
        "--confidence", help="Result lines carry a confidence before the text.", rich_help_panel=FILES
    ),
]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="auto|icdar|json|csv",
        help="File format; two with a comma where they differ, ground truth first.",
        rich_help_panel=FILES,
    ),
]
Lenient = Annotated[
    bool,
    typer.Option("--lenient", help="Skip bad lines with a counted warning.", rich_help_panel=FILES),
]
MaxUnpacked = Annotated[
    int,
    typer.Option(
        "--max-unpacked-mb", min=1, help="Most megabytes that a ZIP may unpack to.", rich_help_panel=FILES
    ),
]
MAX_MB = 512  # cleval_tm.io.MAX_BYTES, whose import would cost --help a numpy
Rules = Annotated[
    RuleSet,
    typer.Option(
        "--rules", case_sensitive=False, help="Whose published rules to score by.", rich_help_panel=RULES
    ),
]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads; any number gives the same figures.")]
