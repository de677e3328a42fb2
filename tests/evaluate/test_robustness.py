"""Robustness: planted models that are sturdy, fragile, or depend on words, on the order of options, or on one group."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvlm.core.ask import Ask
from medvlm.core.errors import RecipeError
from medvlm.core.sample import Medium, Sample
from medvlm.evaluate.corrupt import CORRUPTIONS
from medvlm.evaluate.protocols import corruptions, option_orders, rewordings, shift
from medvlm.evaluate.protocols._robustness import find_robustness
from medvlm.evaluate.table import format_table
from medvlm.io.images import encode_npy
from medvlm.io.shards import ShardSet
from medvlm.metrics.robustness import find_ratio_bounds, relative_robustness
from medvlm.report.robustness import is_of_robustness, make_robustness_section
from tests.evaluate import pictures_ranks
from tests.evaluate.pictures import FINDINGS, Reader, evaluate_pictures, find_finding, find_side, write_shards
from tests.tiny_run import run_ranks

COUNT = 80
NOISE = corruptions.Config(corruptions=("gaussian_noise", "jpeg", "brightness_down"), levels=(1, 5))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def shards(place: Path) -> ShardSet:
    return write_shards(place, {"train": 20, "val": 40, "test": COUNT})


class Exact(Reader):
    """Reads one pixel exactly."""

    def see(self, ask: Ask) -> str:
        return {200: "left", 199: "right"}.get(int(self.read(ask)[0, 0]), "neither") if ask.shows != "none" else "left"


class Glare(Reader):
    """Needs a bright picture, and else says `left`."""

    def see(self, ask: Ask) -> str:
        return super().see(ask) if ask.shows != "none" and self.read(ask).mean() > 90 else "left"


def test_a_sturdy_model_is_called_robust(shards: ShardSet, tmp_path: Path) -> None:
    rows, said = evaluate_pictures(Reader(), shards, tmp_path, NOISE)
    assert rows["accuracy"]["value"] == 1 and rows["accuracy"]["baselines"] == {"as_it_is": 1.0}
    assert rows["rr_accuracy"]["value"] == 1 and rows["unchanged"]["value"] == rows["consistent"]["value"] == 1
    assert find_robustness(rows["unchanged"]) == "robust" and said == []
    table = format_table(list(rows.values()))
    assert "pictures:test: robust: 100.0% of the answers are the same with corrupted images" in table
    assert "fragile" not in table


def test_a_fragile_model_is_called_fragile_where_it_is(shards: ShardSet, tmp_path: Path) -> None:
    """Right answers at 1 of 3 questions are lost; of `accuracy_closed` (sides and letters), half of them."""
    rows, _ = evaluate_pictures(Exact(), shards, tmp_path / "exact", NOISE)
    assert rows["rr_accuracy_closed"]["value"] == pytest.approx(0.5, abs=0.05)
    assert find_robustness(rows["rr_accuracy"]) == find_robustness(rows["rr_accuracy:jpeg"]) == "fragile"
    assert rows["accuracy"]["paired"]["verdict"] == "worse"  # type: ignore[index]
    assert "fragile: with corrupted images (jpeg), " in format_table(list(rows.values()))
    rows, _ = evaluate_pictures(Glare(), shards, tmp_path / "glare", NOISE)
    assert rows["accuracy:brightness_down"]["paired"]["verdict"] == "worse"  # type: ignore[index]
    assert rows["rr_accuracy:jpeg"]["value"] == rows["rr_accuracy:gaussian_noise"]["value"] == 1
    left = np.mean([find_side(f"test{i:03d}") == "left" for i in range(COUNT)])
    assert rows["accuracy:brightness_down 5"]["value"] == pytest.approx((2 + left) / 3, abs=1e-6)
    assert rows["accuracy:brightness_down 1"]["value"] == 1


def test_a_model_that_encodes_a_picture_once_sees_every_corruption(shards: ShardSet, tmp_path: Path) -> None:
    """Models keep what they computed of a picture, by the key of its sample."""

    class Keeping(Glare):
        kept: dict[str, np.ndarray] = {}

        def read(self, ask: Ask) -> np.ndarray:
            sample, _ = ask.media_of or (ask.sample, ask.files)
            return self.kept.setdefault(sample.key, super().read(ask))

    def list_values(model: Any, name: str) -> dict[str, Any]:
        """Without what they were measured with: these are two models."""
        rows, _ = evaluate_pictures(model, shards, tmp_path / name, NOISE)
        return {metric: {**row, "measured": None} for metric, row in rows.items()}

    assert list_values(Keeping(), "keeping") == list_values(Glare(), "glare")


@pytest.mark.slow
def test_the_same_pictures_are_shown_again_and_by_any_number_of_ranks(
    place: Path, shards: ShardSet, tmp_path: Path
) -> None:
    """A model that dies at the third corruption resumes; two ranks write the bytes of one."""

    class Dying(Exact):
        calls = 0

        def answer(self, asks: Sequence[Ask]) -> list[str]:
            self.calls += 1
            if self.calls == 12:
                raise MemoryError
            return super().answer(asks)

    def read(folder: Path) -> dict[str, bytes]:
        found = {str(path.relative_to(folder)): path for path in (folder / "evaluate").rglob("*") if path.is_file()}
        return {name: path.read_bytes() for name, path in found.items()}

    evaluate_pictures(Exact(), shards, tmp_path / "whole", NOISE)
    dying = Dying()
    dying.identity = Exact().identity
    with pytest.raises(MemoryError):
        evaluate_pictures(dying, shards, tmp_path / "killed", NOISE)
    again = Exact()
    evaluate_pictures(again, shards, tmp_path / "killed", NOISE)
    assert len(again.asked) < COUNT * 3 * 7 and dying.asked
    run_ranks(Path(pictures_ranks.__file__), place, tmp_path / "ranks")
    assert read(tmp_path / "killed") == read(tmp_path / "ranks") == read(tmp_path / "whole")


def test_media_without_black_and_white_are_left_out() -> None:
    def reason(medium: Medium, data: bytes = b"") -> str:
        return corruptions.say_why_not(Sample("k", "s", "test", (medium,)), {"0": data})

    assert reason(Medium("ct", "0", (4, 8, 8), unit="HU")) == "a ct is no single image, and is not corrupted"
    assert "in the unit HU has no black and white" in reason(Medium("film", "0", (8, 8), unit="HU"))
    assert "8 or 16 bits" in reason(Medium("film", "0", (8, 8)), encode_npy(np.zeros((8, 8), np.float32)))
    assert reason(Medium("film", "0", (8, 8)), encode_npy(np.zeros((8, 8), np.uint16))) == ""
    assert corruptions.say_why_not(Sample("k", "s", "test"), {}) == "no image to corrupt"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"corruptions": ["jpg"]}, "unknown corruption 'jpg', did you mean 'jpeg'"),
        ({"levels": [0]}, "there is no level 0; expected 1 to 5"),
        ({"levels": []}, "at least 1 item"),
    ],
)
def test_settings_of_corruptions_are_checked(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        corruptions.Config(**settings)
    assert len(corruptions.Config().corruptions) == len(CORRUPTIONS)


# --- wordings ---


class Parrot(Reader):
    """Knows the question only in the words in which it was taught."""

    def say(self, ask: Ask) -> str:
        known = ("Which side", "What is it", "Name it")
        return super().say(ask) if ask.question.text.startswith(known) else "I do not know"


def test_a_model_that_depends_on_the_wording_is_called_so(shards: ShardSet, tmp_path: Path) -> None:
    config = rewordings.Config(
        frames=("{question}\nThank you.", "Please: {question}"), templates={"name": ("Name it!",), "nmae": ("What?",)}
    )
    rows, said = evaluate_pictures(Reader(), shards, tmp_path / "reader", config)
    assert find_robustness(rows["consistent"]) == "robust" and rows["consistent"]["n"] == 3 * COUNT
    assert said == ["pictures:test: rewordings.templates: no question has the template 'nmae', did you mean 'name'?"]
    rows, _ = evaluate_pictures(Parrot(), shards, tmp_path / "parrot", config)
    assert rows["accuracy:frame 1"]["value"] == 1 and rows["accuracy:frame 2"]["value"] == 0
    assert rows["accuracy:wording"]["n"] == COUNT and rows["accuracy:wording"]["value"] == 1
    assert rows["consistent"]["value"] == 0 and rows["rr_accuracy:frame"]["value"] == 0.5
    assert "the answers depend on the wording: 0.0% of the questions" in format_table(list(rows.values()))


def test_settings_of_rewordings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"'Say it\.' has no \{question\}"):
        rewordings.Config(frames=("Say it.",))
    with pytest.raises(ValueError, match="rewords nothing"):
        rewordings.Config(frames=())


# --- orders ---


class First(Reader):
    """Chooses the option at the top."""

    def choose(self, text: str, finding: str) -> str:
        return "A"


class Spoilt(Reader):
    """Does not find what stands behind D, and says `A` then."""

    def choose(self, text: str, finding: str) -> str:
        found = super().choose(text, finding)
        return "A" if found == "D" else found


def test_a_model_that_reads_its_options_does_not_depend_on_their_order(shards: ShardSet, tmp_path: Path) -> None:
    rows, said = evaluate_pictures(Reader(), shards, tmp_path, option_orders.Config())
    assert rows["accuracy"]["value"] == rows["consistent"]["value"] == rows["circular_accuracy"]["value"] == 1
    assert find_robustness(rows["consistent"]) == "robust"
    assert [rows[f"place:{letter}"]["value"] for letter in "ABCD"] == [0.25] * 4
    assert rows["consistent"]["n"] == COUNT
    assert said == [
        f"pictures:test: {2 * COUNT} questions are left out of option_orders: the text does not list the choices, each"
        " in a line with a letter"
    ]


def test_a_model_that_prefers_a_place_is_called_so(shards: ShardSet, tmp_path: Path) -> None:
    rows, _ = evaluate_pictures(First(), shards, tmp_path / "first", option_orders.Config())
    first = np.mean([find_finding(f"test{i:03d}") == FINDINGS[0] for i in range(COUNT)])
    assert rows["place:A"]["value"] == 1 and rows["place:A"]["baselines"] == {"chance": 0.25}
    assert rows["consistent"]["value"] == rows["circular_accuracy"]["value"] == 0
    assert rows["accuracy"]["baselines"]["as_it_is"] == pytest.approx(first, abs=1e-6)
    assert rows["accuracy"]["value"] == pytest.approx((1 - first) / 3, abs=1e-6)
    table = format_table(list(rows.values()))
    assert "the answers depend on the order of the options: 0.0% of the questions have the same answer" in table
    rows, _ = evaluate_pictures(Spoilt(), shards, tmp_path / "spoilt", option_orders.Config())
    assert rows["place:A"]["value"] == 0.5 and rows["place:D"]["value"] == 0
    assert rows["circular_accuracy"]["value"] == 0 and find_robustness(rows["consistent"]) == "fragile"


# --- shifts ---


class OfOneSite(Reader):
    """Sees nothing at site b."""

    def see(self, ask: Ask) -> str:
        return "neither" if ask.sample.groups["site"] == "b" and ask.shows != "none" else super().see(ask)


def test_a_model_that_relies_on_one_group_is_called_so(shards: ShardSet, tmp_path: Path) -> None:
    config = shift.Config(by="site", out=("b",))
    rows, _ = evaluate_pictures(OfOneSite(), shards, tmp_path / "one", config)
    assert rows["accuracy:in"]["value"] == 1 and rows["accuracy:out"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert rows["accuracy_closed:out"]["value"] == 0.5 == rows["rr_accuracy_closed"]["value"]
    assert rows["accuracy:in"]["n"] == 3 * 53 and rows["accuracy:out"]["n"] == 3 * 27
    assert find_robustness(rows["rr_accuracy"]) == "fragile"
    assert rows["rr_accuracy"]["baselines"].keys() == {"blind", "majority"}
    assert "fragile: with samples out of distribution, 50.0% of the accuracy_closed is left" in (
        format_table(list(rows.values()))
    )
    rows, _ = evaluate_pictures(Reader(), shards, tmp_path / "all", config)
    assert rows["rr_accuracy"]["value"] == 1 and find_robustness(rows["rr_accuracy"]) != "fragile"


def test_modality_templates_and_another_split_can_be_what_is_out(shards: ShardSet, tmp_path: Path) -> None:
    rows, _ = evaluate_pictures(OfOneSite(), shards, tmp_path / "a", shift.Config(by="modality", out=("MR",)))
    assert rows["accuracy:out"]["n"] == 3 * 27
    rows, _ = evaluate_pictures(OfOneSite(), shards, tmp_path / "b", shift.Config(by="template", out=("side",)))
    assert (
        rows["accuracy:out"]["value"] == pytest.approx(53 / COUNT, abs=1e-6) and rows["accuracy:in"]["n"] == 2 * COUNT
    )
    rows, _ = evaluate_pictures(Reader(), shards, tmp_path / "c", shift.Config(inside="val"))
    assert (rows["accuracy:in"]["n"], rows["accuracy:out"]["n"]) == (3 * 40, 3 * COUNT)


def test_a_shift_without_samples_on_one_side_is_said(shards: ShardSet, tmp_path: Path) -> None:
    rows, said = evaluate_pictures(Reader(), shards, tmp_path / "a", shift.Config(by="site", out=("c",)))
    assert "rr_accuracy" not in rows and "accuracy:in" in rows
    assert said == [
        "pictures:test: shift: no question is out of distribution (by 'site', they have a, b); no rows that compare"
        " them"
    ]
    with pytest.raises(ValueError, match="says in no way, or in two ways"):
        shift.Config(by="site")
    with pytest.raises(ValueError, match="says in no way, or in two ways"):
        shift.Config(by="site", out=("a",), inside="val")


def test_the_evaluated_split_cannot_be_in_distribution_of_itself(shards: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"shift\.inside: test is the split that is evaluated"):
        evaluate_pictures(Reader(), shards, tmp_path / "a", shift.Config(inside="test"))


def test_relative_robustness_by_hand() -> None:
    """P_in 0.8, P_out 0.6: 1 - 0.2 / 0.8. Undefined without items, or where nothing is right in distribution."""
    totals = np.array([[8, 10, 6, 10], [0, 10, 6, 10], [8, 10, 0, 0], [4, 10, 5, 10]], float)
    assert relative_robustness(totals) == pytest.approx([0.75, np.nan, np.nan, 1.25], nan_ok=True)


def test_the_interval_of_a_ratio_is_fieller_s_if_those_of_its_parts_are_symmetric() -> None:
    """Its ends are where (out - t in)^2 equals the variance of out - t in times the square of the quantile."""
    value_in, value_out, half_in, half_out, r = 0.7, 0.5, 0.1, 0.12, 0.4
    low, high = find_ratio_bounds(
        value_in, (value_in - half_in, value_in + half_in), value_out, (value_out - half_out, value_out + half_out), r
    )
    for t in (low, high):
        variance = half_out**2 + t**2 * half_in**2 - 2 * r * t * half_in * half_out
        assert (value_out - t * value_in) ** 2 == pytest.approx(variance)
    assert low < value_out / value_in < high
    assert np.isnan(find_ratio_bounds(0.05, (0.0, 0.3), 0.5, (0.4, 0.6), 0.0)).all()


def test_few_patients_who_agree_prove_little(tmp_path: Path) -> None:
    few = write_shards(tmp_path / "few", {"train": 4, "test": 8})
    rows, _ = evaluate_pictures(Reader(), few, tmp_path / "run", NOISE)
    low, high = rows["rr_accuracy"]["ci"] or (1, 1)
    assert rows["rr_accuracy"]["value"] == 1 and low < 0.5 and high == 1 and find_robustness(rows["unchanged"]) == ""


def test_the_page_shows_them_in_a_section_of_their_own(shards: ShardSet, tmp_path: Path) -> None:
    rows, _ = evaluate_pictures(Exact(), shards, tmp_path, NOISE)
    results: list[Any] = json.loads((tmp_path / "evaluate/results.json").read_text())
    assert len(results) == len(rows)
    section = make_robustness_section(results)
    assert section is not None and all(map(is_of_robustness, results))
    page = str(section.html)
    assert "Corrupted images" in page and "fragile" in page and "brightness down" in page
    assert find_robustness(rows["consistent"]) == "", "images may change an answer"
    assert make_robustness_section([]) is None
