"""The expected result for each DICOM file of pydicom's collection and each broken one, for test_files.py."""

FOLDERS = {
    "broken": "broken/pydicom",
    "nibabel": "broken/nibabel",
    "dicomdirtests": "dicom_pydicom/dicomdirtests",
    "pydicom-data": "dicom_pydicom/pydicom-data",
    "test_files": "dicom_pydicom/test_files",
}
"""Prefix of the names below -> folder of the data."""

READ: dict[str, dict[str, float]] = {
    "OT display uint8 400 x 400 x 3": {
        "broken/GDCMJ2K_TextGBR.dcm": 124.44,
    },
    "CT HU int16 512 x 512": {
        "broken/J2K_pixelrep_mismatch.dcm": -449.0,
        "broken/bad_sequence.dcm": -76.63,
        "broken/explicit_VR-UN.dcm": -670.96,
    },
    "MR raw int16 64 x 64": {
        "broken/MR_small_padded.dcm": 518.88,
        "test_files/MR_small.dcm": 518.88,
        "test_files/MR_small_RLE.dcm": 518.88,
        "test_files/MR_small_bigendian.dcm": 518.88,
        "test_files/MR_small_expb.dcm": 518.88,
        "test_files/MR_small_implicit.dcm": 518.88,
        "test_files/MR_small_jp2klossless.dcm": 518.88,
        "test_files/MR_small_jpeg_ls_lossless.dcm": 518.88,
    },
    "OT display uint8 256 x 256 x 3": {
        "broken/SC_jpeg_no_color_transform.dcm": 243.97,
        "test_files/SC_rgb_jpeg.dcm": 243.97,
        "test_files/SC_rgb_jpeg_dcmd.dcm": 243.97,
    },
    "MR raw int16 384 x 384": {
        "nibabel/slicethickness_empty_string.dcm": 31.37,
    },
    "CR display uint16 16 x 16": {
        "dicomdirtests/77654033/CR1/6154": 25116.49,
        "dicomdirtests/77654033/CR2/6247": 40514.5,
        "dicomdirtests/77654033/CR3/6278": 27177.44,
    },
    "CT HU int16 16 x 16": {
        "dicomdirtests/77654033/CT2/17106": -618.73,
        "dicomdirtests/98892001/CT5N/2062": -354.29,
        "dicomdirtests/98892001/CT5N/2392": -188.92,
        "dicomdirtests/98892001/CT5N/2693": -42.83,
    },
    "MR raw int16 16 x 16": {
        "dicomdirtests/98892003/MR1/15820": 549.73,
        "dicomdirtests/98892003/MR1/4919": 715.79,
        "dicomdirtests/98892003/MR1/5641": 609.93,
        "dicomdirtests/98892003/MR2/15970": 233.71,
        "dicomdirtests/98892003/MR2/4950": 670.7,
        "dicomdirtests/98892003/MR2/4981": 693.91,
        "dicomdirtests/98892003/MR2/5011": 646.67,
        "dicomdirtests/98892003/MR2/6273": 632.0,
        "dicomdirtests/98892003/MR2/6605": 583.1,
        "dicomdirtests/98892003/MR2/6935": 610.86,
        "dicomdirtests/98892003/MR700/4467": 61.38,
        "dicomdirtests/98892003/MR700/4528": 81.16,
        "dicomdirtests/98892003/MR700/4558": 152.06,
        "dicomdirtests/98892003/MR700/4588": 63.2,
        "dicomdirtests/98892003/MR700/4618": 59.4,
        "dicomdirtests/98892003/MR700/4648": 28.21,
        "dicomdirtests/98892003/MR700/4678": 29.85,
    },
    "MR raw int16 484 x 484": {
        "pydicom-data/MR-SIEMENS-DICOM-WithOverlays.dcm": 119.67,
    },
    "MR raw float32 1024 x 1024": {
        "pydicom-data/MR2_J2KI.dcm": 283.57,
    },
    "US display uint8 600 x 800 x 3": {
        "pydicom-data/OBXXXX1A.dcm": 12.44,
        "pydicom-data/OBXXXX1A_rle.dcm": 12.44,
    },
    "US display uint8 2 x 600 x 800 x 3": {
        "pydicom-data/OBXXXX1A_rle_2frame.dcm": 28.11,
    },
    "CR display uint16 1955 x 1841": {
        "pydicom-data/RG1_J2KI.dcm": 49387.84,
    },
    "OT display uint8 2 x 100 x 100 x 3": {
        "pydicom-data/SC_rgb_2frame.dcm": 127.5,
        "pydicom-data/SC_rgb_expb_2frame.dcm": 127.5,
    },
    "OT display uint8 100 x 100 x 3": {
        "pydicom-data/SC_rgb_dcmtk_ebcr_dcmd.dcm": 127.74,
        "pydicom-data/SC_rgb_dcmtk_ebcyn2_dcmd.dcm": 127.73,
        "pydicom-data/SC_rgb_dcmtk_ebcys2_dcmd.dcm": 127.73,
        "pydicom-data/SC_rgb_dcmtk_ebcys4_dcmd.dcm": 127.73,
        "pydicom-data/SC_rgb_expb.dcm": 127.7,
        "pydicom-data/SC_rgb_gdcm2k_uncompressed.dcm": 127.7,
        "pydicom-data/SC_ybr_full_uncompressed.dcm": 127.73,
        "test_files/SC_rgb_dcmtk_+eb+cr.dcm": 127.74,
        "test_files/SC_rgb_dcmtk_+eb+cy+n1.dcm": 127.55,
        "test_files/SC_rgb_dcmtk_+eb+cy+n2.dcm": 127.73,
        "test_files/SC_rgb_dcmtk_+eb+cy+np.dcm": 127.55,
        "test_files/SC_rgb_dcmtk_+eb+cy+s2.dcm": 127.73,
        "test_files/SC_rgb_dcmtk_+eb+cy+s4.dcm": 127.73,
        "test_files/SC_rgb_gdcm_KY.dcm": 127.7,
        "test_files/SC_rgb_jls_lossy_line.dcm": 128.0,
        "test_files/SC_rgb_jls_lossy_sample.dcm": 128.0,
        "test_files/SC_rgb_jpeg_dcmtk.dcm": 127.73,
        "test_files/SC_rgb_jpeg_gdcm.dcm": 127.7,
        "test_files/SC_rgb_jpeg_lossy_gdcm.dcm": 127.53,
        "test_files/SC_rgb_rle.dcm": 127.7,
        "test_files/SC_ybr_full_422_uncompressed.dcm": 127.73,
    },
    "US display uint8 480 x 640 x 3": {
        "pydicom-data/US1_UNCI.dcm": 34.69,
        "test_files/examples_jpeg2k.dcm": 34.53,
    },
    "US display uint8 120 x 256 x 3": {
        "pydicom-data/color-pl.dcm": 42.66,
    },
    "MR raw int16 10 x 64 x 64": {
        "pydicom-data/emri_small.dcm": 109.7,
        "pydicom-data/emri_small_RLE.dcm": 109.7,
        "pydicom-data/emri_small_jpeg_2k_lossless.dcm": 109.7,
        "pydicom-data/emri_small_jpeg_ls_lossless.dcm": 109.7,
    },
    "OT display uint16 512 x 512": {
        "pydicom-data/mlut_18.dcm": 33177.15,
        "pydicom-data/vlut_04.dcm": 33109.32,
    },
    "CT HU int16 128 x 128": {
        "test_files/CT_small.dcm": -119.07,
    },
    "US display uint8 60 x 80 x 3": {
        "test_files/ExplVR_BigEnd.dcm": 171.58,
    },
    "NM raw int16 1024 x 256": {
        "test_files/JPEG2000.dcm": 13.46,
        "test_files/JPGExtended.dcm": 14.38,
    },
    "OT display uint16 50 x 10": {
        "test_files/JPEGLSNearLossless_16.dcm": 12014.5,
    },
    "OT display uint8 3 x 3 x 3": {
        "test_files/SC_rgb_small_odd.dcm": 128.78,
        "test_files/SC_rgb_small_odd_big_endian.dcm": 128.78,
    },
    "US display uint8 350 x 800 x 3": {
        "test_files/examples_palette.dcm": 20.49,
    },
    "US display uint8 240 x 320 x 3": {
        "test_files/examples_rgb_color.dcm": 34.27,
    },
    "US display uint8 30 x 240 x 320 x 3": {
        "test_files/examples_ybr_color.dcm": 10.49,
    },
    "OT display uint8 512 x 512": {
        "test_files/image_dfl.dcm": 127.12,
    },
}
"""What is read -> the files, with the mean of their values (which lossy decoders change in the second decimal)."""

REFUSED: dict[str, tuple[str, ...]] = {
    "a DICOMDIR, not an image": (
        "broken/DICOMDIR-empty.dcm",
        "dicomdirtests/DICOMDIR",
        "dicomdirtests/DICOMDIR-bigEnd",
        "dicomdirtests/DICOMDIR-empty.dcm",
        "dicomdirtests/DICOMDIR-implicit",
        "dicomdirtests/DICOMDIR-nooffset",
        "dicomdirtests/DICOMDIR-nopatient",
        "dicomdirtests/DICOMDIR-reordered",
    ),
    "not a DICOM file": (
        "broken/ExplVR_BigEndNoMeta.dcm",
        "broken/no_meta.dcm",
        "nibabel/bad_attribute+orig.HEAD",
        "nibabel/bad_datatype+orig.HEAD",
        "nibabel/empty.trk",
        "nibabel/phantom_truncated.PAR",
        "pydicom-data/JLSL_RGB_ILV0.dcm",
        "pydicom-data/JLSL_RGB_ILV2.dcm",
        "pydicom-data/JLSN_RGB_ILV0.dcm",
        "pydicom-data/OT-PAL-8-face.dcm",
        "test_files/rtstruct.dcm",
        "test_files/zipMR.gz",
    ),
    "a different size than its header says": ("broken/JPEG2000-embedded-sequence-delimiter.dcm",),
    "PixelData has 8,130 bytes": ("broken/MR_truncated.dcm",),
    "it has no Rows and no SOPClassUID": (
        "broken/UN_sequence.dcm",
        "broken/empty_charset_LEI.dcm",
        "broken/no_meta_group_length.dcm",
        "test_files/nested_priv_SQ.dcm",
    ),
    "not an image: it has no Rows": (
        "broken/reportsi_with_empty_number_tags.dcm",
        "test_files/rtplan.dcm",
        "test_files/test-SR.dcm",
        "test_files/waveform_ecg.dcm",
    ),
    "not an image for viewing": (
        "broken/badVR.dcm",
        "pydicom-data/liver.dcm",
        "pydicom-data/liver_expb.dcm",
        "pydicom-data/liver_j2k.dcm",
        "pydicom-data/liver_nonbyte_aligned.dcm",
        "pydicom-data/liver_nonbyte_aligned_deflate.dcm",
        "pydicom-data/liver_nonbyte_aligned_j2k.dcm",
        "pydicom-data/liver_nonbyte_aligned_rle.dcm",
        "test_files/liver_expb_1frame.dcm",
        "test_files/rtdose.dcm",
        "test_files/rtdose_1frame.dcm",
        "test_files/rtdose_expb.dcm",
        "test_files/rtdose_expb_1frame.dcm",
        "test_files/rtdose_rle.dcm",
        "test_files/rtdose_rle_1frame.dcm",
    ),
    "no air or lung": (
        "dicomdirtests/77654033/CT2/17136",
        "dicomdirtests/77654033/CT2/17166",
        "dicomdirtests/77654033/CT2/17196",
        "dicomdirtests/98892001/CT2N/6293",
        "dicomdirtests/98892001/CT2N/6924",
        "dicomdirtests/98892001/CT5N/3023",
        "dicomdirtests/98892001/CT5N/3353",
    ),
    "a colour image of more than 8 bits": (
        "pydicom-data/SC_rgb_16bit.dcm",
        "pydicom-data/SC_rgb_16bit_2frame.dcm",
        "test_files/SC_rgb_rle_16bit.dcm",
        "test_files/SC_rgb_rle_16bit_2frame.dcm",
    ),
    "it has no PixelData": ("pydicom-data/parametric_map_double_float.dcm",),
    "cannot be decoded (RuntimeError)": ("test_files/JPEG-lossy.dcm",),
    "32 bits per pixel": (
        "test_files/SC_rgb_rle_32bit.dcm",
        "test_files/SC_rgb_rle_32bit_2frame.dcm",
    ),
}
"""Part of the reason -> the files."""

LEGAL = ("LICENSE", "README", "COPYING", "SOURCE.md")
