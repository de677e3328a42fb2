"""The pages in Chromium: what the script does, how long 2,000 answers take, and that the console stays empty."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvlm.core.run import RunFolder
from medvlm.core.sample import Medium, Sample
from medvlm.io.images import encode_npy
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardWriter
from medvlm.report.index import write_index
from medvlm.report.run import write_report
from medvlm.report.show import write_gallery
from tests.report.conftest import fake_run

DOCS = Path(__file__).parent.parent.parent / "docs"
OPEN_S = 3.0
ROWS = "[...document.querySelectorAll('.all-answers tbody tr')]"


def load_browser() -> Any:
    spec = importlib.util.spec_from_file_location("_browser", DOCS / "_browser.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(load_browser().find_browser() is None, reason="needs Chromium"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs; the first has 2,000 answers, of which 500 are wrong."""
    folder = tmp_path_factory.mktemp("pages") / "runs"
    for name in ("first", "second"):
        write_report(fake_run(folder / name))
    run = RunFolder(folder / "first")
    line = json.loads(run.answers.read_text().splitlines()[0])
    lines = [{**line, "key": f"sample {n}", "score": float(n % 4 > 0)} for n in range(2000)]
    run.answers.write_text("".join(json.dumps(each) + "\n" for each in lines))
    write_report(run)
    write_index(folder, folder / "index.html")
    return folder


@pytest.fixture
def browser() -> Iterator[Any]:
    with load_browser().Browser() as browser:
        yield browser


@pytest.mark.parametrize("width", [1280, 400])
def test_a_report_of_2000_answers_opens_soon_and_fits(runs: Path, browser: Any, width: int) -> None:
    browser.open("about:blank#1")
    seconds = browser.open((runs / "first/report.html").as_uri(), width)
    assert seconds < OPEN_S and browser.errors == []
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_nothing_is_cut_off_on_paper(runs: Path, browser: Any) -> None:
    """At the width of A4 with Chromium's margins."""
    for page in ("first/report.html", "index.html"):
        browser.open((runs / page).as_uri(), 718, 1000)
        browser.send("Emulation.setEmulatedMedia", media="print")
        wide = (
            "[...document.querySelectorAll('table, section, .card')].filter("
            "e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.className || e.tagName)"
        )
        assert browser.run(wide) == [], page
        assert browser.run("[...document.querySelectorAll('.tools')].every(e => e.offsetHeight === 0)")
        browser.send("Emulation.setEmulatedMedia", media="")


def test_answers_are_filtered_sorted_and_counted(runs: Path, browser: Any) -> None:
    browser.open((runs / "first/report.html").as_uri())
    browser.run(
        "(() => { const s = document.querySelectorAll('.answer-list select'); const v = s[s.length - 1];"
        " v.value = 'wrong'; v.dispatchEvent(new Event('change')); })()"
    )
    assert browser.run("document.querySelector('.answer-list [role=status]').textContent") == (
        "500 of 2,000 answers, mean score 0"
    )
    for _ in range(2):
        browser.run("document.querySelector('.all-answers thead button').click()")
    shown = browser.run(f"{ROWS}.map((row) => row.cells[0].textContent)")
    assert shown[:3] == ["sample 1996", "sample 1992", "sample 1988"] and len(shown) == 50
    browser.run(
        "(() => { const s = document.querySelector('.answer-list input'); s.value = 'SAMPLE 400';"
        " s.dispatchEvent(new Event('input')); })()"
    )
    assert browser.run(f"{ROWS}.map((row) => row.cells[0].textContent)") == ["sample 1400", "sample 400"]
    assert browser.errors == []


def test_a_curve_is_zoomed_and_shown_whole_again(runs: Path, browser: Any) -> None:
    browser.open((runs / "second/report.html").as_uri())
    labels = "[...document.querySelector('figure.curve').querySelectorAll('text')].map((each) => each.textContent)"
    assert "0" in browser.run(labels)
    browser.drag("figure.curve svg[viewBox]", 0.5, 0.7)
    zoomed = browser.run(labels)
    assert "200" in zoomed and "0" not in zoomed
    browser.run("[...document.querySelectorAll('figure.curve button')].find((b) => b.textContent === 'whole').click()")
    assert {"0", "400"} <= {*browser.run(labels)} and browser.errors == []


def test_runs_are_sorted_and_filtered(runs: Path, browser: Any) -> None:
    browser.open((runs / "index.html").as_uri())
    names = "[...document.querySelectorAll('tbody tr:not([hidden]) a')].map((a) => a.getAttribute('href'))"
    assert browser.run(names) == ["first/report.html", "second/report.html"]
    browser.run(
        "(() => { const s = document.querySelector('input[type=search]'); s.value = 'sec';"
        " s.dispatchEvent(new Event('input')); })()"
    )
    assert browser.run(names) == ["second/report.html"]
    chosen = "document.querySelector('tbody tr .chosen').textContent"
    first = browser.run(chosen)
    browser.run(
        "(() => { const s = document.querySelector('.tools select'); s.selectedIndex = 1;"
        " s.dispatchEvent(new Event('change')); })()"
    )
    assert first.startswith("0.93") and browser.run(chosen) != first and browser.errors == []


def test_slices_are_scrolled(tmp_path: Path, browser: Any) -> None:
    volume = np.random.default_rng(0).integers(0, 255, (60, 32, 32)).astype(np.uint8)
    with ShardWriter(tmp_path / "s", "train") as writer:
        medium = Medium("volume", "0.npy", (60, 32, 32), (3.0, 1.0, 1.0))
        writer.write(Sample("a", "made", "train", (medium,), ""), {"0.npy": encode_npy(volume)})
    browser.open(write_gallery(open_shards(tmp_path / "s"), tmp_path / "g.html", None).as_uri())
    browser.run("new Promise((done) => setTimeout(done, 500))")
    said = "document.querySelector('.slices-tools span').textContent"
    assert browser.run(said) == "slice 32 of 60, 93 mm"
    browser.run(
        "(() => { const r = document.querySelector('.slices-tools input'); r.value = 2;"
        " r.dispatchEvent(new Event('input')); return new Promise((done) => setTimeout(done, 500)); })()"
    )
    assert browser.run(said) == "slice 7 of 60, 18 mm" and browser.errors == []
