"""Each tool, compared with what is computed by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from medvlm.core.config import component
from medvlm.core.errors import DataError
from medvlm.core.geometry import join_canvases, resize
from medvlm.core.sample import Medium, Sample, make_truth
from medvlm.core.tasks import find_task
from medvlm.core.tool_config import Environment, ToolConfig
from medvlm.io.images import encode_npy, encode_png
from medvlm.tasks._writing import Writing
from medvlm.tools._contract import Scene, Shown
from medvlm.tools._episode import find_call
from tests.tools.no_expert import no_expert

GREY = np.random.default_rng(0).integers(0, 200, (100, 200), dtype=np.uint8)


def scene(
    pixels: np.ndarray = GREY, spacing_mm: tuple[float, ...] | None = (0.5, 0.25), unit: Any = "display"
) -> Scene:
    axes = 2 if pixels.dtype == np.uint8 else 3
    size = pixels.shape[:axes]
    picture = pixels.dtype == np.uint8
    stored = {"0.png": encode_png(pixels)} if picture else {"0.npy": encode_npy(pixels)}
    (member,) = stored
    medium = Medium("film", member, size, spacing_mm and spacing_mm[:axes], unit)
    return Scene(
        Sample("k", "s", "test", (medium,)), stored, 1, lambda: resize(size[-2:], (64, 64)), Writing(), no_expert
    )


def use(kind: str, asked: str, on: Scene, **settings: Any) -> Shown:
    module = component("tools", kind)
    shown: Shown = module.use(module.Config(kind=kind, **settings), asked, on)
    return shown


def only(shown: Shown) -> tuple[Medium, np.ndarray]:
    (medium,) = shown.media
    assert shown.files.keys() == {medium.member} and medium.size == shown.files[medium.member].shape[: len(medium.size)]
    return medium, shown.files[medium.member]


@pytest.mark.parametrize("kind", ["mark", "measure", "zoom"])
def test_an_expert_calls_what_the_tool_reads(kind: str) -> None:
    module = component("tools", kind)
    config: ToolConfig = module.Config(kind=kind)
    call = module.write_call(config, make_truth("boxes", boxes=((50.0, 25.0, 100.0, 75.0),), label="mark"))
    asked = config.read(call.answer.replace("{boxes}", "[250, 250, 500, 750]"))
    assert asked == "[250, 250, 500, 750]" and isinstance(module.use(config, asked, scene()), Shown)
    with pytest.raises(DataError, match="an expert"):
        module.write_call(config, make_truth("choice", "a", choices=("a", "b")))


def test_a_box_is_drawn_as_lines_within_it() -> None:
    _, marked = only(use("mark", "[250, 250, 500, 750]", scene(), line_px=3))
    expected = GREY.copy()
    expected[25:75, 50:100] = 255
    expected[28:72, 53:97] = GREY[28:72, 53:97]
    np.testing.assert_array_equal(marked, expected)
    colours = np.stack([GREY] * 3, -1)
    _, marked = only(use("mark", "[250, 250, 500, 750], [0, 0, 100, 100]", scene(colours), line_px=1))
    assert (marked[25, 50:100] == (255, 0, 0)).all() and (marked[0, :20] == (255, 0, 0)).all()
    assert (marked != colours).any(-1).sum() == 2 * 50 + 2 * 48 + 2 * 20 + 2 * 8


def test_a_box_is_measured_in_millimetres_of_the_stored_pixels() -> None:
    """50 columns of 0.25 mm, 50 rows of 0.5 mm."""
    assert use("measure", "[250, 250, 500, 750]", scene()).text == "width 12.5 mm, height 25.0 mm, diagonal 28.0 mm"
    with pytest.raises(DataError, match="size of a pixel"):
        use("measure", "[250, 250, 500, 750]", scene(spacing_mm=None))


def test_a_window_becomes_black_and_white() -> None:
    hu = np.array([[[-1000, -160, 0], [40, 240, 1000]]], np.int16)
    on = scene(hu, (1.0, 1.0, 1.0), "HU")
    medium, shown = only(use("window", "-160 240", on))
    assert medium.unit == "display" and shown.dtype == np.uint8
    assert shown.tolist() == [[[0, 0, 102], [128, 255, 255]]]
    medium, shown = only(use("window", "Soft", on, windows={"soft": (-160, 240)}, onto=(-1000, 1000)))
    assert (
        medium.unit == "HU" and shown.dtype == np.int16 and shown.tolist() == [[[-1000, -1000, -200], [0, 1000, 1000]]]
    )
    assert only(use("window", "[-160, 240]", on))[0].member != only(use("window", "-160 241", on))[0].member
    for wrong in ("bone", "240 -160", "", f"0 {'9' * 400}"):
        with pytest.raises(
            DataError, match="expected a low and a high intensity, as in window -160 240, or one of soft"
        ):
            use("window", wrong, on, windows={"soft": (-160, 240)})
    with pytest.raises(DataError, match="colours"):
        use("window", "0 1", scene(np.stack([GREY] * 3, -1)))


def test_models_may_have_been_taught_other_forms() -> None:
    """VILA-M3's trigger and ViTAR's JSON."""
    read = Environment.model_validate(
        {
            "tools": [
                {"kind": "zoom", "form": "<CXR({})>"},
                {"kind": "mark", "form": '"arguments": {"box": {}}', "says": "I have marked it. {}"},
            ]
        }
    )
    zoom, mark = read.tools
    assert zoom.read("This looks like a chest x-ray. Let me first trigger <CXR(lungs)>.") == "lungs"
    assert zoom.read("<CXR()> and <CXR()>") is None and zoom.read("<CXR(") is None and zoom.read("zoom [1]") is None
    said = '{"thought": "t", "actions": [{"name": "Mark", "arguments": {"box": [[1, 2, 3, 4]]}}]}'
    assert mark.read(said) == "[[1, 2, 3, 4]]" and mark.write("[[1, 2, 3, 4]]") in said
    assert mark.tell("") == "I have marked it. "
    with pytest.raises(ValueError, match="once"):
        component("tools", "zoom").Config(kind="zoom", form="<CXR>")


class Colleague:
    """Finds a bright square, and two traits."""

    def look(self, sample: Sample, files: Any) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        assert len(sample.media) == 1
        square = np.zeros((100, 200), np.float32)
        square[10:20, 30:50] = 0.9
        return {"effusion": 0.8, "mass": 0.2}, {"square": square, "nothing": np.zeros((100, 200), np.float32)}


def test_an_expert_answers_in_words_and_with_an_overlay() -> None:
    on = replace(scene(), open_expert=lambda where: Colleague() if where == "runs/cxr" else no_expert(where))
    shown = use("expert", "", on, run="runs/cxr")
    assert shown.text == "The colors mean yellow: square, blue: nothing.\neffusion: yes\nmass: no"
    medium, overlay = only(shown)
    expected = np.stack([GREY] * 3, -1).astype(float)
    expected[10:20, 30:50] = 0.6 * expected[10:20, 30:50] + 0.4 * np.array([255, 220, 0])
    np.testing.assert_allclose(overlay, expected, atol=0.51)
    assert medium.size == (100, 200) and overlay.dtype == np.uint8
    assert use("expert", "is there a mass?", on, run="runs/cxr") == Shown("mass: no")
    assert use("expert", "everything", on, run="runs/cxr", words="probabilities").text.endswith(
        "effusion: 0.80\nmass: 0.20"
    )
    assert only(use("expert", "square", on, run="runs/cxr"))[0].member != medium.member
    with pytest.raises(DataError, match="the expert knows effusion, mass, square, nothing"):
        use("expert", "pneumonia", on, run="runs/cxr")
    deep = replace(scene(GREY.astype(np.uint16) * 200), open_expert=on.open_expert)
    assert only(use("expert", "", deep, run="runs/cxr"))[1].max() == 255


VOLUME = np.arange(8 * 100 * 200, dtype=np.uint16).reshape(8, 100, 200)
"""Each voxel says where it is."""
AFFINE = ((0.0, 0.0, 0.25, 5.0), (0.0, 0.5, 0.0, -3.0), (3.0, 0.0, 0.0, 1.0))


def two(canvas: Any) -> Scene:
    """A film, and a volume whose slices the model sees half as many of."""
    media = (
        Medium("film", "0.png", GREY.shape, (0.5, 0.25)),
        Medium("volume", "1.npy", VOLUME.shape, (3.0, 0.5, 0.25), "raw", affine=AFFINE),
    )
    files = {"0.png": encode_png(GREY), "1.npy": encode_npy(VOLUME)}
    return Scene(Sample("k", "s", "test", media), files, 2, lambda: canvas, Writing(), no_expert)


SEEN = join_canvases([resize((100, 200), (64, 64)), resize((8, 100, 200), (4, 64, 64))])
BOX = "[250, 250, 500, 750]"


def test_further_images_and_slices_are_looked_at_by_their_numbers() -> None:
    on = two(SEEN)
    medium, shown = only(use("zoom", f"image 2 slices 2-3 {BOX}", on, least_px=1))
    np.testing.assert_array_equal(shown, VOLUME[3:6, 25:75, 50:100])  # the middles of the seen slices are 3 and 5
    assert medium.kind == "volume" and medium.spacing_mm == (3.0, 0.5, 0.25)
    corner = np.array(AFFINE) @ (3, 25, 50, 1)
    assert medium.affine is not None and (np.array(medium.affine) @ (0, 0, 0, 1)).tolist() == corner.tolist()
    _, marked = only(use("mark", f"Image 2, slice 4: {BOX}", on, line_px=3))
    expected = VOLUME[7:8].copy()
    expected[:, 25:75, 50:100] = expected.max()
    expected[:, 28:72, 53:97] = VOLUME[7:8, 28:72, 53:97]
    np.testing.assert_array_equal(marked, expected)
    text = use("measure", f"image 2 slices 2 to 3 {BOX}", on).text
    assert text == "width 12.5 mm, height 25.0 mm, diagonal 28.0 mm, depth 9.0 mm"
    assert "depth" not in use("measure", f"image 2 slice 2 {BOX}", on).text
    _, windowed = only(use("window", "image 2 slice 1 0 65535", on))
    assert windowed.shape == (1, 100, 200) and only(use("window", "image 2 0 65535", on))[1].shape == VOLUME.shape
    np.testing.assert_array_equal(only(use("zoom", BOX, on, least_px=1))[1], GREY[25:75, 50:100])
    members = {use("zoom", f"image 2 slice {n} {BOX}", on).media[0].member for n in (1, 2)}
    assert len(members) == 2
    on_pictures = two(join_canvases([SEEN, replace(resize((100, 200), (64, 64)), slices=(0, 7))]))
    np.testing.assert_array_equal(
        only(use("zoom", f"image 2 slice 2 {BOX}", on_pictures, least_px=1))[1], VOLUME[7:8, 25:75, 50:100]
    )


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (f"image 3 {BOX}", "there is no image 3, but 1 to 2"),
        (f"image 0 {BOX}", "there is no image 0, but 1 to 2"),
        (f"image 2 {BOX}", "there is a volume; say which slice, as in slice 3"),
        (f"image 2 slice 5 {BOX}", "expected slices from 1 to 4"),
        (f"image 2 slices 3-2 {BOX}", "expected slices from 1 to 4"),
        (f"slice 1 {BOX}", "there is an image, and no slices"),
        (f"slice 0 {BOX}", "there is an image, and no slices"),
        (f"image 2 slice 0 {BOX}", "expected slices from 1 to 4"),
        (f"image 2 slices 2-0 {BOX}", "expected slices from 1 to 4"),
        ("image 2 slice 1", r"expected boxes, as in zoom slice 1 \[250, 250, 500, 500\]"),
    ],
)
def test_what_there_is_not_is_refused(asked: str, why: str) -> None:
    with pytest.raises(DataError, match=why):
        use("zoom", asked, two(SEEN))


def test_a_volume_that_is_shown_in_another_plane_has_no_slices_to_name() -> None:
    with pytest.raises(DataError, match="not shown as they are stored"):
        use("zoom", f"image 2 slice 1 {BOX}", two(join_canvases([resize((100, 200), (64, 64)), None])))


@pytest.mark.parametrize("kind", ["mark", "measure", "zoom"])
def test_an_expert_names_the_image_or_slice_of_its_box(kind: str) -> None:
    module = component("tools", kind)
    config = module.Config(kind=kind)
    box: dict[str, Any] = {"boxes": ((50.0, 25.0, 100.0, 75.0),), "label": "mark"}
    task = find_task("indexed_boxes")
    named: list[tuple[dict[str, Any], str]] = [
        ({"numbers": (2,)}, "image 2"),
        ({"numbers": (5,), "of": "slice"}, "slice 3"),
    ]
    for own, expected in named:
        call = module.write_call(config, make_truth("indexed_boxes", **box, **own))
        canvas = SEEN if own["numbers"] == (2,) else SEEN and SEEN.of_medium(1)
        said = task.write(task.place(call, canvas, Writing()))
        assert config.read(said).startswith(expected) and find_call(Environment(tools=(config,)), said) is not None
