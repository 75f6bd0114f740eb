"""A figure on disk: the CSV of its data, and a PDF and a PNG of the same rows."""

import re
import struct
import zlib
from pathlib import Path
from typing import Any

from pipeline.files.storage import write_text, written_whole
from reporting.charts.charts import VEGA_LITE, on_paper
from reporting.charts.figures import FIGURES, csv_of


def in_order(pdf: bytes) -> bytes:
    """A PDF from vl-convert with sorted resource names, which it writes in the order of a hash map.

    Only lines within an object are reordered, so every offset in the file stays correct.
    """
    names = re.compile(rb"(?:^ +/(?:xo|gs|f|p|sh|cs)\d+ \d+ 0 R\n)+", flags=re.MULTILINE)
    return names.sub(lambda found: b"".join(sorted(found[0].splitlines(keepends=True))), pdf)


def packed(png: bytes) -> bytes:
    """The same image in a quarter of the bytes: vl-convert compresses poorly."""
    chunks, place = [], 8  # after the signature
    while place < len(png):
        end = place + 12 + struct.unpack_from(">I", png, place)[0]  # length, kind, content, checksum
        chunks.append((png[place + 4 : place + 8], png[place + 8 : end - 4]))
        place = end
    pixels = zlib.decompress(b"".join(content for kind, content in chunks if kind == b"IDAT"))
    others = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
    whole = [*others[:-1], (b"IDAT", zlib.compress(pixels, 9)), others[-1]]
    return png[:8] + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in whole
    )


def draw(rows: list[dict[str, Any]], name: str, folder: Path) -> None:
    """Write a figure's CSV, PDF and PNG."""
    import vl_convert

    write_text(csv_of(name, rows), folder / f"{name}.csv")
    spec = on_paper(FIGURES[name].panels(rows))
    # No base URL is allowed, so nothing is loaded from elsewhere.
    svg = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE, allowed_base_urls=[])
    drawn = {"pdf": in_order(vl_convert.svg_to_pdf(svg)), "png": packed(vl_convert.svg_to_png(svg, scale=2.5))}
    for ending, content in drawn.items():
        with written_whole(folder / f"{name}.{ending}") as temporary:
            temporary.write_bytes(content)
