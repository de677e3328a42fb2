"""Takes the pictures of the documentation with headless Chromium, from a run:

medvlm demo --real cxr_hannover --for labels && python docs/pictures.py runs/cxr_hannover
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PICTURES = {"report.png": ("report.html", 1280, 900)}
"""Picture in docs/ -> page in the run folder, and the width and height of the window."""
MOST_BYTES = 200_000
COLOURS = 128


def take(page: Path, width: int, height: int) -> bytes:
    """PNG of a page, with few colours. Raises ValueError for one of more than MOST_BYTES."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        raise SystemExit("pictures: needs Chromium")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        words = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
        ]
        size = [f"--window-size={width},{height}", f"--screenshot={shot}", page.resolve().as_uri()]
        subprocess.run([browser, *words, *size], check=True, capture_output=True, timeout=120)
        picture = Image.open(shot).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    stored = io.BytesIO()
    picture.save(stored, "PNG", optimize=True)
    if stored.tell() > MOST_BYTES:
        raise ValueError(f"{page}: {stored.tell():,} bytes, expected at most {MOST_BYTES:,}")
    return stored.getvalue()


if __name__ == "__main__":
    for name, (page, width, height) in PICTURES.items():
        (Path(__file__).parent / name).write_bytes(take(Path(sys.argv[1]) / page, width, height))
