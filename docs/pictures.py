"""Takes the pictures of the documentation with headless Chromium, from the runs in a folder: those of starts.md
(`films`, `scans`, `cells`, `clip`), and that of `medvlm demo` (`phantom`).

python docs/pictures.py runs
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from _browser import Browser, address

PICTURES = {
    "report.png": ("phantom/report.html", 1280, 900, ""),
    "report-grpo.png": ("phantom/report.html", 1280, 960, "rollouts"),
    "report-stages.png": ("phantom/report.html", 1280, 620, "curves"),
    "report-clip.png": ("clip/report.html", 1280, 760, ""),
    "report-films.png": ("films/report.html", 1280, 1000, ""),
    "report-scans.png": ("scans/report.html", 1280, 760, ""),
    "report-labels.png": ("films/report.html", 1280, 620, "confusion"),
    "report-cells.png": ("cells/report.html", 1280, 760, "answers"),
}
"""Picture in docs/ -> page, the width and height of the window, and the section that it begins with."""
MOST_BYTES = 200_000
COLOURS = 128


def take(page: Path, width: int, height: int, section: str) -> bytes:
    """PNG of a page, with few colours. Raises ValueError for one of more than MOST_BYTES."""
    with Browser() as browser, tempfile.TemporaryDirectory() as folder:
        browser.open(address(page), width, height)
        if section:
            browser.run(f"document.getElementById('{section}').scrollIntoView()")
        shot = Path(folder) / "shot.png"
        browser.take(shot)
        picture = Image.open(shot).convert("RGB").quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    stored = io.BytesIO()
    picture.save(stored, "PNG", optimize=True)
    if stored.tell() > MOST_BYTES:
        raise ValueError(f"{page}: {stored.tell():,} bytes, expected at most {MOST_BYTES:,}")
    return stored.getvalue()


if __name__ == "__main__":
    for name, (page, width, height, section) in PICTURES.items():
        path = Path(sys.argv[1]) / page
        if path.is_file():
            (Path(__file__).parent / name).write_bytes(take(path, width, height, section))
        else:
            print(f"{name}: there is no {path}, so it stays as it is")
