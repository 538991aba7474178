"""Small PDFs written by hand, for tests that must know where each word stands."""

import io


def pdf_of(*pages: str, media: str = "0 0 612 792", extra: str = "") -> bytes:
    """A PDF whose pages have these content streams; /F1 is Helvetica. `extra` is added to each page's dictionary."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for n, stream in enumerate(pages):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [{media}] /Resources << /Font << /F1 3 0 R >> >> "
            f"/Contents {5 + 2 * n} 0 R {extra}>>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    out = io.BytesIO()
    out.write(b"%PDF-1.7\n")
    offsets = []
    for number, content in enumerate(objects, start=1):
        offsets.append(out.tell())
        out.write(f"{number} 0 obj\n{content}\nendobj\n".encode())
    table = out.tell()
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode())
    out.write(b"".join(f"{offset:010d} 00000 n \n".encode() for offset in offsets))
    out.write(f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n".encode())
    return out.getvalue()


def lines_of(*lines: str, top: int = 720, size: int = 12) -> str:
    """A content stream with one line of text under the other, 72 points from the left."""
    shown = " ".join(f"({line}) Tj 0 -{size * 14 // 10} Td" for line in lines)
    return f"BT /F1 {size} Tf 72 {top} Td {shown} ET"
