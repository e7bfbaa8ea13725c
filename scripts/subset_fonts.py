"""Cut the fonts of documents down to the characters that documents need.

`python scripts/subset_fonts.py NOTO_SANS_FOLDER NOTO_SANS_CJK_FOLDER` writes them beside the document templates. The originals are the
files of Debian's packages fonts-noto-core and fonts-noto-cjk; the licence texts beside the results are theirs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from fontTools import subset

TARGET: Final = Path(__file__).parents[1] / "server/dunwell_server/billing/documents/fonts"
JAPANESE_FACE: Final = 0
"""The face of the collection that draws characters as Japan does."""
LATIN: Final = (
    *range(0x0020, 0x0530),  # Latin, Greek, Cyrillic
    *range(0x1E00, 0x2000),  # Vietnamese, polytonic Greek
    *range(0x2000, 0x2070), *range(0x2070, 0x20C1), *range(0x2100, 0x2150), *range(0x2190, 0x2194), 0x2212, 0x2215, 0x2219,
    0x2248, 0x2260, 0x2264, 0x2265, 0x25CA, 0xFB01, 0xFB02, 0xFFFD,
)  # fmt: skip
DEVANAGARI: Final = (
    *range(0x0900, 0x0980),
    *range(0xA8E0, 0xA900),
    *range(0x1CD0, 0x1D00),
    0x200C,
    0x200D,
    0x25CC,
    0x20B9,
    0x20,
)


def japanese() -> list[int]:
    """Every character that Japanese computers could write before Unicode, which has the kanji of personal names."""
    found = set(range(0x3000, 0x3100)) | set(range(0xFF00, 0xFFE7))
    for code in range(0x3400, 0xFB00):
        try:
            chr(code).encode("cp932")
        except UnicodeEncodeError:
            continue
        found.add(code)
    return sorted(found)


def cut(
    source: Path, target: str, characters: Iterable[int], *, face: int = -1, features: tuple[str, ...] | None = None
) -> None:
    """Write those characters of a font; `features` are the only layout features kept, None keeps the usual ones."""
    options = subset.Options(
        font_number=face, hinting=False, notdef_outline=True, name_IDs=["*"], recommended_glyphs=True
    )
    if features is not None:
        options.layout_features = list(features)
    font = subset.load_font(str(source), options)
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=characters)
    cutter.subset(font)
    subset.save_font(font, str(TARGET / target), options)
    print(f"{target}: {(TARGET / target).stat().st_size / 1e6:.2f} MB, {font['maxp'].numGlyphs} glyphs")


def main(sans: Path, cjk: Path) -> None:
    """Make every font of documents."""
    TARGET.mkdir(parents=True, exist_ok=True)
    for weight in ("Regular", "Bold"):
        cut(sans / f"NotoSans-{weight}.ttf", f"NotoSans-{weight}.ttf", LATIN)
        cut(sans / f"NotoSansDevanagari-{weight}.ttf", f"NotoSansDevanagari-{weight}.ttf", DEVANAGARI)
        cut(
            cjk / f"NotoSansCJK-{weight}.ttc", f"NotoSansJP-{weight}.otf", japanese(), face=JAPANESE_FACE,
            features=(),
        )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
