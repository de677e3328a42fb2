"""Every file of the broken ones, packed as users pack: one verdict each, and the good ones beside them are packed.

What those that are read hold is tested where each format is.
"""

import csv
import io
import json
import resource

import numpy as np
import pytest
from PIL import Image, ImageOps

from medvlm.archive.packing.pack import pack
from medvlm.core.card import Card
from medvlm.io.images import decode
from medvlm.io.opening import open_shards

READ = ""
VERDICTS = {
    "not a PNG, JPEG or .npy": [
        "SOURCE.md",
        "bids-examples/2d_mb_pcasl/dataset_description.json",
        "bids-examples/asl001/dataset_description.json",
        "bids-examples/pet002/dataset_description.json",
        "nibabel/COPYING",
        "nibabel/bad_attribute+orig.HEAD",
        "nibabel/bad_datatype+orig.HEAD",
        "nibabel/empty.trk",
        "nibabel/phantom_truncated.PAR",
        "nifti-reader-js/LICENSE",
        "pillow/LICENSE",
        "pillow/cross_scan_line_truncated.tga",
        "pillow/decompression_bomb.ico",
        "pillow/negative_size.ppm",
        "pillow/pngtest_bad.png.bin",
        "pillow_odd/16_bit_binary.pgm",
        "pillow_odd/hopper_16bit.pgm",
        "pydicom/LICENSE",
    ],
    "a damaged BMP": [
        "pillow/badbitcount.bmp",
        "pillow/badheadersize.bmp",
        "pillow/badpalettesize.bmp",
        "pillow/badwidth.bmp",
        "pillow/pal8badindex.bmp",
    ],
    "a run-length encoded BMP": [
        "pillow/badrle.bmp",
        "pillow/hopper_rle8_row_overflow.bmp",
    ],
    "a damaged JPEG2000": [
        "pillow/crash-d2c93af851d3ab9a19e34503626368b2ecde9c03.j2k",
        "pillow/invalid_header_length.jp2",
        "pillow/zero_height.j2k",
    ],
    "colours of more than 8 bits": [
        "pillow/crash-7d4c83eb92150fb8f1653a697703ae06ae7c4998.j2k",
        "pillow/crash-ccca68ff40171fdae983d924e127a721cab2bd50.j2k",
    ],
    "a damaged GIF": [
        "pillow/zero_width.gif",
    ],
    "an empty file": [
        "bids-examples/2d_mb_pcasl/sub-1/anat/sub-1_T1w.nii.gz",
    ],
    "not a NIfTI file": [
        "bids-examples/asl001/sub-Sub103/anat/sub-Sub103_T1w.nii.gz",
        "nifti-reader-js/not-nifti.nii",
    ],
    "a web page": [
        "bids-examples/pet002/sub-01/ses-rescan/anat/sub-01_ses-rescan_T1w.nii",
        "bids-examples/pet002/sub-01/ses-rescan/pet/sub-01_ses-rescan_pet.nii.gz",
    ],
    "a whole slide: set the scale": [
        "histolab/broken.svs",
    ],
    "": [
        "pillow/badbitssize.bmp",
        "pillow/baddens1.bmp",
        "pillow/baddens2.bmp",
        "pillow/badfilesize.bmp",
        "pillow/zero_dpi.jp2",
        "nibabel/slicethickness_empty_string.dcm",
        "pillow/broken_exif_dpi.jpg",
        "pillow/hopper_bad_exif.jpg",
        "pillow/invalid-exif-without-x-resolution.jpg",
        "pillow/invalid-exif.jpg",
        "pillow/palette_negative.png",
        "pillow/sugarshack_bad_mpo_header.jpg",
        "pillow/truncated_exif_dpi.jpg",
        "pillow_odd/12bit.cropped.tif",
        "pillow_odd/12in16bit.tif",
        "pillow_odd/16bit.MM.cropped.tif",
        "pillow_odd/16bit.cropped.tif",
        "pillow_odd/exif_typeerror.jpg",
        "pillow_odd/hopper_orientation_6.jpg",
        "pillow_odd/tiff_16bit_RGB.tiff",
        "pydicom/GDCMJ2K_TextGBR.dcm",
        "pydicom/J2K_pixelrep_mismatch.dcm",
        "pydicom/MR_small_padded.dcm",
        "pydicom/SC_jpeg_no_color_transform.dcm",
        "pydicom/bad_sequence.dcm",
        "pydicom/explicit_VR-UN.dcm",
    ],
    "a damaged PNG": [
        "pillow/broken.png",
        "pillow/broken_data_stream.png",
        "pillow/truncated_end_chunk.png",
        "pillow/truncated_image.png",
    ],
    "a tile or strip is missing or extends beyond the end": [
        "pillow/crash-1152ec2d1a1a71395b6f2ce6721c38924d025bf3.tif",
        "pillow/crash-338516dbd2f0e83caddb8ce256c22db3bd6dc40f.tif",
        "pillow/crash-4f085cc12ece8cde18758d42608bed6a2a2cfb1c.tif",
        "pillow/crash-86214e58da443d2b80820cff9677a38a33dcbbca.tif",
        "pillow/crash-f46f5b2f43c370fe65706c11449f567ecc345e74.tif",
    ],
    "it has 3 pages": [
        "pillow/crash-2020-10-test.tif",
    ],
    "its colours are not grey": [
        "pillow/crash-63b1dffefc8c075ddc606c0a2f5fdc15ece78863.tif",
    ],
    "its compression is not supported": [
        "pillow/crash-74d2a78403a5a59db1fb0a2b8735ac068a75f6e3.tif",
    ],
    "an animated PNG": [
        "pillow/delay_zero_denom.png",
        "pillow/syntax_num_frames_zero_default.png",
    ],
    "not a TIFF file, or damaged": [
        "pillow/oom-225817ca0f8c663be7ab4b9e717b02c661e66834.tif",
    ],
    "a damaged JPEG": [
        "pillow/photoshop-200dpi-broken.jpg",
        "pillow/truncated_app14.jpg",
        "pillow/truncated_jpeg.jpg",
    ],
    "pixel mode CMYK": [
        "pillow_odd/pil_sample_cmyk.jpg",
    ],
    "a DICOMDIR, not an image": [
        "pydicom/DICOMDIR-empty.dcm",
    ],
    "not a DICOM file (no DICM at byte 128)": [
        "pydicom/ExplVR_BigEndNoMeta.dcm",
        "pydicom/no_meta.dcm",
    ],
    "its compressed image has a different size than its header says": [
        "pydicom/JPEG2000-embedded-sequence-delimiter.dcm",
    ],
    "its PixelData has 8,130 bytes, but its header says": [
        "pydicom/MR_truncated.dcm",
    ],
    "it has no Rows and no SOPClassUID": [
        "pydicom/UN_sequence.dcm",
        "pydicom/empty_charset_LEI.dcm",
        "pydicom/no_meta_group_length.dcm",
    ],
    "not an image for viewing: its Modality is not one of": [
        "pydicom/badVR.dcm",
    ],
    "not an image: it has no Rows": [
        "pydicom/reportsi_with_empty_number_tags.dcm",
    ],
}
"""Why files are refused -> which; "" for those that are read."""

CARD = {
    "name": "broken",
    "title": "Broken",
    "summary": "Files of the tests of other projects.",
    "access": "open",
    "media": ["file"],
    "licence": {"id": "custom", "commercial": True},
    "phi": {
        "status": "unknown",
        "note": "Only whether they decode is asked here.",
        "checked": [
            "pseudonyms",
            "identity",
            "patient",
            "dates",
            "descriptions",
            "institution",
            "device",
            "private",
            "pixels",
            "text",
        ],
    },
    "splits": {"by": "image", "ratios": {"train": 1.0, "val": 0.0, "test": 0.0}},
    "reader": {
        "kind": "table",
        "file": "table.csv",
        "key": "{file}",
        "report": "{file}",
        "media": [{"file": "broken/{file}", "kind": "file"}],
    },
}


@pytest.fixture(scope="module")
def packed(real_data, tmp_path_factory):
    """File -> the reason why it was refused; and the sample and its bytes of those that were not."""
    folder, root = real_data / "broken", tmp_path_factory.mktemp("raw")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    (root / "broken").symlink_to(folder)
    with (root / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file"], *([name] for name in names)])
    receipt = pack(Card.model_validate(CARD), root, root / "out", workers=1, max_bad=1.0)
    lines = map(json.loads, (root / "out" / "quarantine.jsonl").read_text().splitlines())
    refused = {names[int(line["where"].split()[1]) - 2]: line["reason"] for line in lines}
    shards = open_shards(root / "out")
    read = {
        sample.report: (sample, files)
        for sample, files in (shards.read("train", i) for i in range(shards.count("train")))
    }
    assert receipt.quarantined == len(refused) and {*refused, *read} == set(names)
    return refused, read


def test_the_table_names_every_file(packed):
    refused, read = packed
    named = [name for names in VERDICTS.values() for name in names]
    assert len(set(named)) == len(named) and set(named) == {*refused, *read}


def test_each_file_has_its_verdict(packed):
    refused, read = packed
    wrong = {
        name: refused.get(name, "is read")
        for reason, names in VERDICTS.items()
        for name in names
        if (reason == READ) != (name in read) or reason not in refused.get(name, "")
    }
    assert not wrong


def test_pictures_that_are_read_are_as_pillow_shows_them(packed, real_data):
    compared = 0
    for name, (sample, files) in packed[1].items():
        if name.endswith((".jpg", ".png")):
            with Image.open(io.BytesIO((real_data / "broken" / name).read_bytes())) as image:
                expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
            found = decode(files[sample.media[0].member], name)
            assert np.array_equal(found if found.ndim == 3 else np.stack([found] * 3, -1), expected), name
            compared += 1
    assert compared >= 9


def test_no_decoder_was_larger_than_2_gb(packed):
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 << 20
