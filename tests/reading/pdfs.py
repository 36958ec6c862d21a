"""PDF files made by hand, byte by byte: as small as they can be, and as large as nobody would want them."""

import zlib
from collections.abc import Sequence


def pdf(pages: Sequence[str], title: str = "") -> bytes:
    """A file whose pages have these texts, a line of text to a line of the page."""
    return built([_shown(text) for text in pages], title)


def unpacking(size: int) -> bytes:
    """A page of some kilobytes that unpacks to ``size`` bytes."""
    return built([zlib.compress(b" " * size, 9)], packed=True)


def built(contents: Sequence[bytes], title: str = "", *, packed: bool = False) -> bytes:
    """A file of these content streams."""
    kids = " ".join(f"{4 + 2 * index} 0 R" for index in range(len(contents)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(contents)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for index, content in enumerate(contents):
        page = (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {5 + 2 * index} 0 R /Resources << /Font << /F1 3 0 R >> >> >>"
        )
        packing = "/Filter /FlateDecode " if packed else ""
        head = f"<< {packing}/Length {len(content)} >>\nstream\n"
        objects += [page.encode(), head.encode() + content + b"\nendstream"]
    objects.append(f"<< /Title ({title}) >>".encode())
    return _file(objects)


def _shown(text: str) -> bytes:
    lines = [line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)") for line in text.split("\n")]
    shown = " ".join(f"({line}) Tj 0 -14 Td" for line in lines)
    return f"BT /F1 12 Tf 50 700 Td {shown} ET".encode("cp1252") if text else b""


def _file(objects: Sequence[bytes]) -> bytes:
    out, places = b"%PDF-1.4\n", list[int]()
    for number, each in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, each)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    trailer = b"trailer\n<< /Size %d /Root 1 0 R /Info %d 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, len(objects), len(out))
    return out + b"xref\n0 %d\n0000000000 65535 f \n%b" % (size, table) + trailer
