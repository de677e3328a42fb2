"""Small made copies of archives that cannot be had here, in the layout in which they are published: what cards are
tried on.

Names of files and columns are those of the publication; all contents are made. Each function fills a folder.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from medvlm.io.images import encode_png


def film(number: int, *, bits: int = 8, colour: bool = False) -> bytes:
    """A picture that differs from that of every other number."""
    rng = np.random.default_rng(number)
    shape = (6, 8, 3) if colour else (6, 8)
    return encode_png(rng.integers(0, 1 << bits, shape).astype(np.uint16 if bits > 8 else np.uint8))


def put(root: Path, name: str, data: bytes | str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def put_csv(root: Path, name: str, rows: list[dict[str, Any]]) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    with (root / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def put_hf(root: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """As `datasets` does: images as structs, parquet by name or else a stream of arrow."""
    import pyarrow as pa
    import pyarrow.ipc
    import pyarrow.parquet

    (root / name).parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    if name.endswith(".parquet"):
        pa.parquet.write_table(table, root / name)
        return
    with pa.ipc.new_stream(str(root / name), table.schema) as out:
        out.write_table(table)


def picture(number: int) -> dict[str, Any]:
    return {"bytes": film(number, colour=True), "path": f"{number}.png"}


def path_in(value: Any) -> Path:
    """Of what stands in RawSample.files: a path, or a functools.partial of a function of one."""
    return value if isinstance(value, Path) else next(each for each in value.args if isinstance(each, Path))


# --- one function a card --------------------------------------------------------------------------


def slake(root: Path) -> None:
    for number, name in enumerate(("train", "validation", "test")):
        put(root, f"imgs/xmlab{number}/source.jpg", film(number))
        asked = [
            {
                "img_name": f"xmlab{number}/source.jpg",
                "question": "Is this CT?",
                "answer": "Yes",
                "q_lang": "en",
                "modality": "CT",
                "answer_type": "CLOSED",
                "content_type": "Modality",
            },
            {
                "img_name": f"xmlab{number}/source.jpg",
                "question": "这是CT吗?",
                "answer": "是的",
                "q_lang": "zh",
                "modality": "CT",
                "answer_type": "CLOSED",
                "content_type": "Modality",
            },
            {
                "img_name": f"xmlab{number}/source.jpg",
                "question": "Which organ?",
                "answer": "Liver",
                "q_lang": "en",
                "modality": "CT",
                "answer_type": "OPEN",
                "content_type": "Organ",
            },
        ]
        put(root, f"{name}.json", json.dumps(asked))


def path_vqa(root: Path) -> None:
    for number, name in enumerate(("train", "validation", "test")):
        rows = [
            {"image": picture(number), "question": "is this a tumor?", "answer": "yes"},
            {"image": picture(number), "question": "what is present?", "answer": "lymph node"},
        ]
        put_hf(root, f"data/{name}-00000-of-00001.parquet", rows)


def pmc_vqa(root: Path) -> None:
    for number, name in enumerate(("train", "test_clean")):
        put(root, f"images/PMC{number}_F1.jpg", film(number))
        choices = {f"Choice {letter}": f" {letter}:Pattern {letter} " for letter in "ABCD"}
        row = {
            "Figure_path": f"PMC{number}_F1.jpg",
            "Question": "What is the uptake pattern?",
            "Answer": "Pattern B",
            **choices,
            "Answer_label": "B",
        }
        put_csv(root, f"{name}.csv", [row])


def pmc_oa(root: Path) -> None:
    for number, name in enumerate(("train", "valid", "test")):
        put(root, f"images/PMC{number}_Fig3_4.jpg", film(number))
        put(
            root,
            f"{name}.jsonl",
            json.dumps(
                {
                    "image": f"PMC{number}_Fig3_4.jpg",
                    "caption": "Translocation.",
                    "pmcid": f"PMC{number}",
                    "url_name": "x.jpg",
                }
            )
            + "\n",
        )


def rocov2(root: Path) -> None:
    for number, name in enumerate(("train", "validation", "test")):
        row = {
            "image": picture(number),
            "image_id": f"ROCOv2_2023_{name}_{number:06d}",
            "caption": "CT of the chest.",
            "cui": ["C0040405", "C0817096"],
        }
        put_hf(root, f"data/{name}-00000-of-00001.parquet", [row])


def llava_med_instruct(root: Path) -> None:
    turns = [
        ("human", "<image>\nWhat is shown?"),
        ("gpt", "A chest film."),
        ("human", "Is it normal?"),
        ("gpt", "It seems to be."),
    ]
    records = [
        {
            "id": f"2660109{n}_F2",
            "image": f"2660109{n}_F2.jpg",
            "domain": {"chest_xray": True},
            "conversatons": [{"from": who, "value": text} for who, text in turns],
        }
        for n in range(4)
    ]
    put(root, "llava_med_instruct_60k_inline_mention.json", json.dumps(records))
    for n in range(4):
        put(root, f"images/2660109{n}_F2.jpg", film(n))


MIMIC: list[tuple[Any, ...]] = [  # subject, study, dicom, split, view, date, time
    (10000032, 50414267, "02aa804e", "train", "PA", 21800506, 213014.531),
    (10000032, 50414267, "174413ec", "train", "LATERAL", 21800506, 213014.531),
    (10000032, 53189527, "2a2277a9", "train", "AP", 21800626, 165500.312),
    (11000011, 51029426, "e084de3b", "validate", "AP", 21500101, 80556.875),
    (12000012, 52000001, "68b5c4b1", "test", "PA", 21600101, 1.0),
    (12000012, 52000002, "096052b7", "test", "PA", 21600102, 2.0),
]


def mimic_cxr(root: Path) -> None:
    names = ("subject_id", "study_id", "dicom_id", "split", "ViewPosition", "StudyDate", "StudyTime")
    rows = [dict(zip(names, row, strict=True)) for row in MIMIC]
    put_csv(root, "mimic-cxr-2.0.0-metadata.csv", [{k: v for k, v in row.items() if k != "split"} for row in rows])
    put_csv(
        root,
        "mimic-cxr-2.0.0-split.csv",
        [{k: row[k] for k in ("dicom_id", "study_id", "subject_id", "split")} for row in rows],
    )
    labels = {
        "Atelectasis": "1.0",
        "Cardiomegaly": "0.0",
        "Consolidation": "",
        "Edema": "-1.0",
        "Pleural Effusion": "",
        "Pneumothorax": "0.0",
    }
    put_csv(
        root,
        "mimic-cxr-2.0.0-chexpert.csv",
        [{"subject_id": a, "study_id": b, **labels} for a, b in dict.fromkeys(row[:2] for row in MIMIC)],
    )
    for number, (subject, study, dicom, *_) in enumerate(MIMIC):
        folder = f"files/p{str(subject)[:2]}/p{subject}/s{study}"
        put(root, f"{folder}/{dicom}.jpg", film(number))
        report = f"FINAL REPORT\n INDICATION: ___\n\n FINDINGS:\n Film {number} is clear.\n\n IMPRESSION: Normal.\n"
        put(root, f"mimic-cxr-reports/{folder}.txt", report if study != 52000002 else "No heading at all.")


def chexpert_plus(root: Path) -> None:
    rows = [
        {
            "": 0,
            "path_to_image": "train/patient42142/study5/view1_frontal.jpg",
            "frontal_lateral": "Frontal",
            "ap_pa": "AP",
            "deid_patient_id": "patient42142",
            "patient_report_date_order": 5,
            "report": "All.",
            "section_findings": "",
            "section_impression": "No change.",
            "split": "train",
        },
        {
            "": 1,
            "path_to_image": "train/patient42142/study5/view2_lateral.jpg",
            "frontal_lateral": "Lateral",
            "ap_pa": "",
            "deid_patient_id": "patient42142",
            "patient_report_date_order": 5,
            "report": "All.",
            "section_findings": "",
            "section_impression": "No change.",
            "split": "train",
        },
        {
            "": 2,
            "path_to_image": "valid/patient64541/study1/view1_frontal.jpg",
            "frontal_lateral": "Frontal",
            "ap_pa": "PA",
            "deid_patient_id": "patient64541",
            "patient_report_date_order": 1,
            "report": "All.",
            "section_findings": "Clear.",
            "section_impression": "",
            "split": "valid",
        },
    ]
    put_csv(root, "df_chexpert_plus_240401.csv", rows)
    for number, row in enumerate(rows):
        put(root, f"PNG/{str(row['path_to_image'])[:-4]}.png", film(number))


def padchest(root: Path) -> None:
    names = [
        ("216840111366964012283393834152009033102258826_00-059-087.png", "PA"),
        ("216840111366964012283393834152009033140208626_00-059-118.png", "L"),
        ("x.png", "COSTAL"),
    ]
    rows = [
        {
            "": n,
            "ImageID": name,
            "ImageDir": n,
            "StudyDate_DICOM": 20090331,
            "StudyID": f"s{n}",
            "PatientID": f"8466{n}",
            "PatientBirth": 1930,
            "Projection": view,
            "Report": "sin hallazgo patologic",
            "Labels": "['normal']",
        }
        for n, (name, view) in enumerate(names)
    ]
    put_csv(root, "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", rows)
    for n, (name, _) in enumerate(names):
        put(root, f"{n}/{name}", film(n, bits=16))


def iu_xray(root: Path) -> None:
    put_csv(
        root,
        "indiana_projections.csv",
        [
            {"uid": 1, "filename": "1_IM-0001-4001.dcm.png", "projection": "Frontal"},
            {"uid": 1, "filename": "1_IM-0001-3001.dcm.png", "projection": "Lateral"},
            {"uid": 2, "filename": "2_IM-0652-1001.dcm.png", "projection": "Frontal"},
        ],
    )
    put_csv(
        root,
        "indiana_reports.csv",
        [
            {
                "uid": 1,
                "MeSH": "normal",
                "Problems": "normal",
                "image": "Xray Chest PA and Lateral",
                "indication": "XXXX",
                "comparison": "None.",
                "findings": "Clear.",
                "impression": "Normal.",
            },
            {
                "uid": 2,
                "MeSH": "Cardiomegaly",
                "Problems": "Cardiomegaly",
                "image": "Chest",
                "indication": "",
                "comparison": "",
                "findings": "",
                "impression": "Large heart.",
            },
        ],
    )
    for number, name in enumerate(("1_IM-0001-4001", "1_IM-0001-3001", "2_IM-0652-1001")):
        put(root, f"images/images_normalized/{name}.dcm.png", film(number))


def ct_rate(root: Path) -> None:
    for name, volumes in (("train", ("train_1_a_1", "train_1_a_2", "train_2_b_1")), ("validation", ("valid_1_a_1",))):
        rows = [
            {
                "VolumeName": f"{v}.nii.gz",
                "ClinicalInformation_EN": "",
                "Technique_EN": "",
                "Findings_EN": f"Findings {v}.",
                "Impressions_EN": "Clear.",
            }
            for v in volumes
        ]
        put_csv(root, f"dataset/radiology_text_reports/{name}_reports.csv", rows)
        for v in volumes:
            part, case, scan, _ = v.split("_")
            put(root, f"dataset/{part}_fixed/{part}_{case}/{part}_{case}_{scan}/{v}.nii.gz", v)


def m3d_cap(root: Path) -> None:
    index = {}
    for number, name in enumerate(("train", "validation", "test")):
        case = f"ct_quizze/{number:06d}"
        put(root, f"{case}/text.txt", f"Findings of case {number}.")
        put(root, f"{case}/Axial_non_contrast.npy", b"made")
        index[name] = [{"image": f"{case}/Axial_non_contrast.npy", "text": f"{case}/text.txt"}]
    put(root, "M3D_Cap.json", json.dumps(index))


def med_multi_points(root: Path) -> None:
    def row(number: int, boxes: list[list[int]], label: str, organ: str) -> dict[str, Any]:
        points = [{"x": (a + c) / 2, "y": (b + d) / 2} for a, b, c, d in boxes]
        return {
            "image": picture(number),
            "image_sha256": "0",
            "img_size": [8, 6],
            "points": points,
            "bbox": boxes,
            "count": len(boxes),
            "label": label,
            "collection_method": "counting",
            "classification": "x",
            "organ": organ,
        }

    put_hf(
        root,
        "kvasir-points_datasets_script-train-00000-of-00002.arrow",
        [row(0, [[1, 1, 4, 3]], "polyps", "Lower GI"), row(1, [], "polyps", "Lower GI")],
    )
    put_hf(
        root,
        "kvasir-points_datasets_script-train-00001-of-00002.arrow",
        [row(2, [[0, 0, 2, 2], [4, 1, 8, 6]], "sperm", "Microscopy")],
    )
    put(root, "dataset_info.json", "{}")


def medtrinity(root: Path) -> None:
    put_hf(
        root,
        "25M_demo/train-00000-of-00001.parquet",
        [{"image": picture(n), "id": f"id{n}", "caption": f"An image {n}."} for n in range(3)],
    )


def quilt_1m(root: Path) -> None:
    names = (
        "",
        "caption",
        "image_path",
        "subset",
        "split",
        "pathology",
        "roi_text",
        "noisy_text",
        "corrected_text",
        "med_umls_ids",
        "magnification",
        "height",
        "width",
    )
    rows = [
        (0, "A gland.", "a.jpg", "quilt", "train"),
        (1, "A duct.", "a.jpg", "quilt", "train"),
        (2, "Stroma.", "b.jpg", "openpath", "val"),
    ]
    put_csv(root, "quilt_1M_lookup.csv", [dict(zip(names, (*row, *[""] * 8), strict=True)) for row in rows])
    put(root, "quilt_1m/a.jpg", film(0, colour=True))
    put(root, "quilt_1m/b.jpg", film(1, colour=True))


def _medmnist(root: Path, name: str, shape: tuple[int, ...], labels: int, columns: int = 1) -> None:
    rng = np.random.default_rng(labels)
    arrays: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (3, *shape)).astype(np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, labels, (3, columns)).astype(np.uint8)
    np.savez(root / f"{name}.npz", **arrays)


def medmnist_path(root: Path) -> None:
    _medmnist(root, "pathmnist", (28, 28, 3), 9)


def medmnist_pneumonia(root: Path) -> None:
    _medmnist(root, "pneumoniamnist", (28, 28), 2)


def medmnist_chest(root: Path) -> None:
    _medmnist(root, "chestmnist", (28, 28), 2, columns=14)


def vindr_cxr(root: Path) -> None:
    """As table; the films are DICOM."""
    from tests.io.dicom.series import image

    nothing = {"class_name": "No finding", "x_min": "", "y_min": "", "x_max": "", "y_max": ""}
    for first, (split, agreed) in enumerate((("train", False), ("test", True))):
        (root / split).mkdir()
        for number, name in enumerate((f"{split}a", f"{split}b"), 2 * first):
            stored = np.random.default_rng(number).integers(0, 4096, (8, 10))
            image(stored, modality="DX", PatientName="", PatientAge="040Y").save_as(
                root / split / f"{name}.dicom", enforce_file_format=True
            )
        rows = [
            {
                "image_id": f"{split}a",
                "rad_id": f"R{n}",
                "class_name": "Pleural effusion",
                "x_min": n,
                "y_min": 2,
                "x_max": 5,
                "y_max": 6,
            }
            for n in (range(1) if agreed else range(3))
        ]
        rows += [
            {
                "image_id": f"{split}a",
                "rad_id": "R0",
                "class_name": "Clavicle fracture",
                "x_min": 0,
                "y_min": 0,
                "x_max": 3,
                "y_max": 3,
            }
        ]
        put_csv(
            root, f"annotations/annotations_{split}.csv", [*rows, {"image_id": f"{split}b", "rad_id": "R0", **nothing}]
        )


def med_sg(root: Path) -> None:
    turns = [
        {"from": "human", "value": "<image>\n<image>\nWhere do they differ?"},
        {"from": "gpt", "value": "[1, 2, 5, 6]"},
    ]
    for number in range(4):
        put(root, f"Task1/{number}.png", film(number))
    put(
        root,
        "MedSG-188K.json",
        json.dumps(
            [{"images": [f"Task1/{2 * n}.png", f"Task1/{2 * n + 1}.png"], "conversations": turns} for n in range(2)]
        ),
    )


def medreg_instruct(root: Path) -> None:
    turns = [
        {"from": "human", "value": "<image>\nWhere is the liver?"},
        {"from": "gpt", "value": "<ref>liver</ref><box>[[100, 200, 500, 600]]</box>"},
    ]
    for number in range(2):
        put(root, f"ct/{number}.png", film(number))
    put(
        root,
        "MedRegInstruct.jsonl",
        "".join(
            json.dumps({"id": n, "image": f"ct/{n}.png", "width": 8, "height": 6, "conversations": turns}) + "\n"
            for n in range(2)
        ),
    )


def med_mat(root: Path) -> None:
    for number, name in enumerate(("train", "test")):
        put(root, f"med-mat/CT (1)/{name} (561).jpg", film(number))
        asked = {
            "Question": "What is it?",
            "Answer": "Cyst",
            "Question-choice": "What is it?\nA: Stone\nB: Cyst",
            "Answer-choice": "B",
            "data-no": "2",
            "caption": "Cyst",
        }
        put(root, f"{name}.json", json.dumps([{"id": 1, "image": f"med-mat/CT (1)/{name} (561).jpg", **asked}]))
