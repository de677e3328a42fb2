"""Radiographs and photographs: stored values become shades and colours as computed here from the formulas of PS3.3."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from medvlm.core.errors import DataError
from medvlm.core.sample import Decoded
from medvlm.io.dicom.header import CONCERNS, read_image_header
from medvlm.io.dicom.image import NAMED, load_file
from tests.io.dicom.series import SECONDARY_CAPTURE, as_syntax, change, image, save, slices, to_enhanced

STEPS = np.array([[0, 1, 999, 1000], [1001, 2047, 2048, 4095]])
"""Values of 12 bits."""
COLOURS = np.random.default_rng(11).integers(0, 256, (32, 40, 3))


def save_and_load(ds: Dataset, folder: Path, **how: Any) -> Decoded:
    return load_file(save([ds], folder)[0], **how)


def film(stored: np.ndarray = STEPS, **header: Any) -> Dataset:
    return image(stored, modality="DX", bits=12, **header)


def window(centre: Any, width: Any, function: str | None = None) -> dict[str, Any]:
    return {"WindowCenter": centre, "WindowWidth": width, "VOILUTFunction": function}


def lut(first: int, entries: list[int], bits: int) -> list[Dataset]:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [len(entries), first, bits], np.array(entries, "<u2").tobytes()
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "OW"
    return [table]


# --- shades --------------------------------------------------------------------------------------------


def test_without_a_window_the_full_range_of_bits_stored_is_shown(tmp_path):
    shown = save_and_load(film(), tmp_path)
    assert (str(shown.unit), shown.modality, shown.pixels.dtype.name) == ("display", "DX", "uint16")
    np.testing.assert_array_equal(shown.pixels, np.rint(STEPS / 4095 * 65535))


def test_monochrome1_is_inverted(tmp_path):
    np.testing.assert_array_equal(
        save_and_load(film(PhotometricInterpretation="MONOCHROME1"), tmp_path).pixels,
        np.rint((1 - STEPS / 4095) * 65535),
    )


@pytest.mark.parametrize("modality", ["CT", "MR", "PT", "NM"])
def test_a_quantity_is_never_inverted_nor_windowed(modality, tmp_path):
    stored = STEPS - 1000
    ds = image(
        stored,
        modality=modality,
        signed=True,
        PhotometricInterpretation="MONOCHROME1",
        **window(40, 400),
        RescaleSlope=1,
        RescaleIntercept=0,
    )
    shown = save_and_load(ds, tmp_path)
    np.testing.assert_array_equal(shown.pixels, stored)
    assert shown.unit == ("HU" if modality == "CT" else "raw")


def test_a_linear_window_follows_c_11_2_1_2(tmp_path):
    """Centre 2048, width 4096 is the identity for 12 bits; centre 1000, width 3 spans 998.5 to 1000.5."""
    np.testing.assert_array_equal(
        save_and_load(film(**window(2048, 4096)), tmp_path / "a").pixels, np.rint(STEPS / 4095 * 65535)
    )
    narrow = save_and_load(film(**window(1000, 3)), tmp_path / "b").pixels
    np.testing.assert_array_equal(narrow, np.rint(np.array([[0, 0, 0.25, 0.75], [1, 1, 1, 1]]) * 65535))
    step = save_and_load(film(**window(1000, 1)), tmp_path / "c").pixels
    np.testing.assert_array_equal(step, np.array([[0, 0, 0, 1], [1, 1, 1, 1]]) * 65535)


def test_linear_exact_and_sigmoid_windows_follow_c_11_2_1_3(tmp_path):
    exact = save_and_load(film(**window(1000, 4, "LINEAR_EXACT")), tmp_path / "a").pixels
    np.testing.assert_array_equal(exact, np.rint(np.array([[0, 0, 0.25, 0.5], [0.75, 1, 1, 1]]) * 65535))
    bent = save_and_load(film(**window(1000, 4, "SIGMOID")), tmp_path / "b").pixels
    np.testing.assert_array_equal(bent, np.rint(65535 / (1 + np.exp(-4 * np.clip(STEPS - 1000.0, -150, 150) / 4))))


def test_the_first_window_is_used_and_monochrome1_is_inverted_after_it(tmp_path):
    ds = film(**window([1000, 40], [3, 80]), PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(
        save_and_load(ds, tmp_path).pixels, np.rint(np.array([[1, 1, 0.75, 0.25], [0, 0, 0, 0]]) * 65535)
    )


def test_a_window_applies_to_rescaled_values(tmp_path):
    ds = film(RescaleSlope=2, RescaleIntercept=-500, **window(1500, 3))
    np.testing.assert_array_equal(
        save_and_load(ds, tmp_path).pixels, np.rint(np.array([[0, 0, 0, 0.75], [1, 1, 1, 1]]) * 65535)
    )


def test_a_negative_slope_inverts_the_shades(tmp_path):
    ds = film(RescaleSlope=-1, RescaleIntercept=4095)
    np.testing.assert_array_equal(save_and_load(ds, tmp_path).pixels, np.rint((1 - STEPS / 4095) * 65535))


def test_a_voi_table_uses_its_first_and_last_entry_outside_its_range(tmp_path):
    ds = film(VOILUTSequence=lut(1000, [10, 20, 255], 8))
    np.testing.assert_array_equal(save_and_load(ds, tmp_path).pixels, [[10, 10, 10, 10], [20, 255, 255, 255]])


def test_a_voi_table_takes_precedence_over_a_window(tmp_path):
    ds = film(VOILUTSequence=lut(0, list(range(4095, -1, -1)), 12), **window(40, 400))
    np.testing.assert_array_equal(save_and_load(ds, tmp_path).pixels, np.rint((4095 - STEPS) / 4095 * 65535))


def test_a_table_for_signed_pixels_can_start_below_zero(tmp_path):
    ds = image(np.array([[-3, -2], [-1, 5]]), modality="CR", signed=True, VOILUTSequence=lut(0x10000 - 2, [7, 8, 9], 8))
    np.testing.assert_array_equal(save_and_load(ds, tmp_path).pixels, [[7, 7], [8, 9]])


def test_a_modality_table_is_applied_before_the_window(tmp_path):
    ds = image(
        np.array([[0, 1], [2, 3]]),
        modality="CR",
        bits=8,
        ModalityLUTSequence=lut(0, [0, 100, 1000, 1001], 12),
        **window(1000, 3),
    )
    np.testing.assert_array_equal(save_and_load(ds, tmp_path).pixels, np.rint(np.array([[0, 0], [0.75, 1]]) * 65535))


def test_tables_read_the_same_in_big_endian(tmp_path):
    def ds() -> Dataset:
        return film(VOILUTSequence=lut(0, list(range(4096)), 12))

    swapped = ds()
    swapped.VOILUTSequence[0].LUTData = np.arange(4096).astype(">u2").tobytes()
    np.testing.assert_array_equal(
        save_and_load(as_syntax(swapped, ExplicitVRBigEndian), tmp_path / "a").pixels,
        save_and_load(ds(), tmp_path / "b").pixels,
    )


def test_eight_bits_stay_eight_bits(tmp_path):
    shown = save_and_load(image(np.array([[0, 7], [128, 255]]), modality="US", bits=8), tmp_path).pixels
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown, [[0, 7], [128, 255]])


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black(photometric, tmp_path):
    ds = film(PhotometricInterpretation=photometric, PixelPaddingValue=999, PixelPaddingRangeLimit=1001)
    ds["PixelPaddingValue"].VR = ds["PixelPaddingRangeLimit"].VR = "US"
    shown = save_and_load(ds, tmp_path).pixels
    assert shown[0, 2] == shown[0, 3] == shown[1, 0] == 0 and shown[1, 1] > 0


def test_ct_values_below_air_become_air(tmp_path):
    ds = image(np.array([[-2000, -1024], [0, 60]]), modality="CT", signed=True, RescaleSlope=1, RescaleIntercept=-100)
    np.testing.assert_array_equal(save_and_load(ds, tmp_path).pixels, [[-1024, -1024], [-100, -40]])


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"}, "contradict each other"),
        ({"PresentationLUTShape": "INVERSE"}, "contradict each other"),
        (window(1000, 0), "window is impossible"),
        (window(1000, 0.5), "window is impossible"),
        (window(1000, -4, "LINEAR_EXACT"), "window is impossible"),
        (window(1000, 4, "GAMMA"), "window is impossible"),
        ({"VOILUTSequence": lut(0, [1, 2, 3], 8), "PixelData": bytes(16)}, "the same value"),
        ({"VOILUTSequence": [change(lut(0, [1, 2, 3], 8)[0], LUTDescriptor=[4, 0, 8])]}, "3 entries but declares 4"),
        ({"VOILUTSequence": [change(lut(0, [1, 2, 3], 8)[0], LUTDescriptor=[3, 0, 0])]}, "impossible depth"),
        ({"VOILUTSequence": [change(lut(0, [1, 2, 3], 8)[0], LUTDescriptor=None)]}, "no LUTDescriptor"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "slope is 0"),
        ({"PixelRepresentation": 2}, "PixelRepresentation"),
        ({"BitsAllocated": 12}, "12 bits per pixel"),
        ({"Rows": 3}, "PixelData has 16 bytes"),
    ],
)  # fmt: skip
def test_a_radiograph_with_undefined_shades_is_refused(header, why, tmp_path):
    for table in header.get("VOILUTSequence", ()):
        if "LUTDescriptor" in table:
            table["LUTDescriptor"].VR = "US"
    with pytest.raises(DataError, match=why):
        save_and_load(film(**header), tmp_path)


# --- what is refused unless it is accepted -------------------------------------------------------------


def test_raw_detector_values_and_cine_must_be_accepted(tmp_path):
    raw = save([film(PresentationIntentType="FOR PROCESSING")], tmp_path / "raw")[0]
    run = save([image(np.arange(24).reshape(6, 4), modality="US", bits=8, NumberOfFrames=3, Rows=2)], tmp_path / "run")[
        0
    ]
    for path, concern in ((raw, "for_processing"), (run, "cine")):
        with pytest.raises(DataError, match=rf"accept: \[{concern}\]"):
            load_file(path)
    assert load_file(raw, NAMED | {"for_processing"}).pixels.shape == (2, 4)
    np.testing.assert_array_equal(load_file(run, NAMED | {"cine"}).pixels, np.arange(24).reshape(3, 2, 4))


def test_derived_images_and_captures_are_accepted_for_a_named_file(tmp_path):
    capture = image(
        np.arange(16).reshape(4, 4),
        modality="OT",
        bits=8,
        Modality="",
        SOPClassUID=SECONDARY_CAPTURE,
        ImageType=["DERIVED", "SECONDARY"],
    )
    shown = save_and_load(capture, tmp_path)
    assert (shown.modality, shown.unit) == ("OT", "display")
    with pytest.raises(DataError, match="secondary capture"):
        save_and_load(capture, tmp_path, accept=frozenset())


def test_ultrasound_frames_with_positions_are_still_cine(tmp_path):
    made = to_enhanced(slices(modality="MR", bits=16))
    made.Modality = "US"
    path = save([made], tmp_path)[0]
    assert all(frame.concerns >= {"cine"} for frame in read_image_header(path).frames)


def test_a_file_with_one_volume_is_read_and_one_with_two_is_refused(tmp_path):
    assert save_and_load(to_enhanced(slices()), tmp_path / "one").pixels.shape == (8, 20, 24)
    two = slices(modality="MR") + slices(modality="MR", turn=(-90, 0, 0))
    for part, k in zip(two, range(16), strict=True):
        part.TemporalPositionIdentifier = 1 + k // 8
    made = to_enhanced(two)
    for group, part in zip(made.PerFrameFunctionalGroupsSequence, two, strict=True):
        group.PlaneOrientationSequence = [change(Dataset(), ImageOrientationPatient=part.ImageOrientationPatient)]
    with pytest.raises(DataError, match="2 volumes"):
        save_and_load(made, tmp_path / "two")


def test_every_concern_has_a_one_line_reason():
    assert all(text and "\n" not in text for text in CONCERNS.values())


# --- size in mm ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "spacing_mm"),
    [
        ({"PixelSpacing": [0.2, 0.1], "ImagerPixelSpacing": [0.3, 0.3]}, (0.2, 0.1)),
        ({"ImagerPixelSpacing": [0.3, 0.4]}, (0.3, 0.4)),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.3, 0.4]}, (0.3, 0.4)),
        ({"NominalScannedPixelSpacing": [0.5, 0.5]}, (0.5, 0.5)),
        ({"PixelSpacing": [0, 0]}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_spacing_in_the_patient_takes_precedence_over_that_at_the_detector(header, spacing_mm, tmp_path):
    assert save_and_load(film(**header), tmp_path).spacing_mm == spacing_mm


# --- colours -------------------------------------------------------------------------------------------


def picture(**header: Any) -> Dataset:
    return image(COLOURS, modality="US", **header)


def test_rgb_is_read_in_both_planar_configurations_and_byte_orders(tmp_path):
    by_plane = picture(PlanarConfiguration=1, PixelData=np.moveaxis(COLOURS, -1, 0).astype(np.uint8).tobytes())
    for ds in (picture(), by_plane, as_syntax(picture(), ExplicitVRBigEndian)):
        shown = save_and_load(ds, tmp_path)
        assert shown.unit == "display" and shown.pixels.dtype == np.uint8
        np.testing.assert_array_equal(shown.pixels, COLOURS)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_losslessly_compressed_rgb_is_exact(syntax, tmp_path):
    np.testing.assert_array_equal(save_and_load(as_syntax(picture(), syntax), tmp_path).pixels, COLOURS)


def to_ybr(rgb: np.ndarray) -> np.ndarray:
    """PS3.3 C.7.6.3.1.2."""
    matrix = np.array([[0.2990, 0.5870, 0.1140], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
    return np.clip(np.rint(rgb @ matrix.T + [0, 128, 128]), 0, 255).astype(np.uint8)


def test_ybr_becomes_rgb(tmp_path):
    full = picture(PhotometricInterpretation="YBR_FULL", PixelData=to_ybr(COLOURS).tobytes())
    assert np.abs(save_and_load(full, tmp_path).pixels.astype(int) - COLOURS).max() <= 2
    pairs = np.repeat(COLOURS[:, ::2], 2, axis=1)
    ybr = to_ybr(pairs)
    halved = np.stack([ybr[:, ::2, 0], ybr[:, 1::2, 0], ybr[:, ::2, 1], ybr[:, ::2, 2]], axis=-1)
    half = image(pairs, modality="US", PhotometricInterpretation="YBR_FULL_422", PixelData=halved.tobytes())
    assert np.abs(save_and_load(half, tmp_path).pixels.astype(int) - pairs).max() <= 2


def test_a_usual_baseline_jpeg_becomes_rgb(tmp_path):
    smooth = np.stack(
        np.broadcast_arrays(np.linspace(20, 230, 48)[None], np.linspace(200, 40, 32)[:, None], 90.0), axis=-1
    ).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(smooth).save(out, "JPEG", quality=95, subsampling=0)
    ds = image(smooth, modality="US", PhotometricInterpretation="YBR_FULL_422")
    ds.PixelData = encapsulate([out.getvalue()])
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    assert np.abs(save_and_load(ds, tmp_path).pixels.astype(int) - smooth).max() <= 6


def palette(entries: np.ndarray, bits: int, **header: Any) -> Dataset:
    """entries: [N, 3]."""
    ds = image(
        np.arange(16).reshape(4, 4) % len(entries),
        modality="US",
        bits=8,
        PhotometricInterpretation="PALETTE COLOR",
        **header,
    )
    for i, name in enumerate(("Red", "Green", "Blue")):
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [len(entries), 0, bits])
        ds[f"{name}PaletteColorLookupTableDescriptor"].VR = "US"
        setattr(ds, f"{name}PaletteColorLookupTableData", entries[:, i].astype("<u1" if bits == 8 else "<u2").tobytes())
    return ds


TABLE = np.array([[0, 10, 20], [255, 0, 3], [9, 200, 7], [1, 2, 99]])


def test_palettes_of_8_and_16_bits_become_rgb(tmp_path):
    expected = TABLE[np.arange(16).reshape(4, 4) % 4]
    for ds in (palette(TABLE, 8), palette(TABLE * 257, 16), palette(TABLE, 16)):
        np.testing.assert_array_equal(save_and_load(ds, tmp_path).pixels, expected)


def test_a_dark_image_with_a_16_bit_palette_stays_dark(tmp_path):
    """The entries that its pixels use are all below 256; only the whole table shows that entries have 16 bits."""
    ds = palette(np.array([[0, 0, 0], [200, 200, 200], [255, 100, 0], [65535, 65535, 65535]]), 16)
    ds.PixelData = (np.arange(16) % 3).astype(np.uint8).tobytes()
    with pytest.raises(DataError, match="the same value"):
        save_and_load(ds, tmp_path)


@pytest.mark.parametrize(
    ("ds", "why"),
    [
        (lambda: picture(BitsAllocated=16, BitsStored=16, PixelData=bytes(32 * 40 * 3 * 2)), "more than 8 bits"),
        (
            lambda: picture(SamplesPerPixel=4, PhotometricInterpretation="ARGB"),
            "PhotometricInterpretation with 4 samples",
        ),
        (lambda: picture(PhotometricInterpretation="YBR_PARTIAL_420"), "PhotometricInterpretation with 3 samples"),
        (lambda: picture(PhotometricInterpretation="MONOCHROME2"), "PhotometricInterpretation with 3 samples"),
        (lambda: change(palette(TABLE, 8), RedPaletteColorLookupTableData=b"\0\0"), "its palette is damaged"),
        (lambda: change(palette(TABLE, 8), BluePaletteColorLookupTableData=None), "its palette is damaged"),
        (lambda: change(palette(TABLE, 8), PixelRepresentation=1), "signed"),
        (lambda: image(np.full((4, 4, 3), 8), modality="US"), "the same value"),
    ],
)
def test_unsupported_colours_are_refused(ds, why, tmp_path):
    with pytest.raises(DataError, match=why):
        save_and_load(ds(), tmp_path)


def test_a_jpeg_whose_size_differs_from_the_header_is_not_decoded(tmp_path):
    out = io.BytesIO()
    Image.new("L", (5000, 4000), 9).save(out, "JPEG")
    ds = image(np.arange(16).reshape(4, 4), modality="US", bits=8, PixelData=encapsulate([out.getvalue()]))
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    with pytest.raises(DataError, match="a different size than its header says"):
        save_and_load(ds, tmp_path)
