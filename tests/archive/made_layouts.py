"""Small made copies of archives that cannot be had here, in the layout in which they are published: what cards are
tried on.

Names of files and columns are those of the publication; all contents are made. Each function fills a folder. cases:
how many times the samples of the smallest archive. zoom: sides of its pictures, in those of 6 x 8 pixels.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medvlm.io.images import encode_npy, encode_png


def film(number: int, zoom: int = 1, *, bits: int = 8, colour: bool = False) -> bytes:
    """A picture that differs from that of every other number."""
    rng = np.random.default_rng(number)
    shape = (6 * zoom, 8 * zoom, 3) if colour else (6 * zoom, 8 * zoom)
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


def picture(number: int, zoom: int = 1) -> dict[str, Any]:
    return {"bytes": film(number, zoom, colour=True), "path": f"{number}.png"}


def path_in(value: Any) -> Path:
    """Of what stands in RawSample.files: a path, or a functools.partial of a function of one."""
    return value if isinstance(value, Path) else next(each for each in value.args if isinstance(each, Path))


# --- one function a card --------------------------------------------------------------------------


def slake(root: Path, cases: int = 1, zoom: int = 1) -> None:
    for number, name in enumerate(("train", "validation", "test")):
        asked = []
        for case in range(number * cases, (number + 1) * cases):
            image = f"xmlab{case}/source.jpg"
            put(root, f"imgs/{image}", film(case, zoom))
            is_ct = (case - number * cases) % 2 == 0
            common = {"img_name": image, "modality": ("CT", "MRI", "CT", "X-Ray")[(case - number * cases) % 4]}
            closed = {**common, "answer_type": "CLOSED", "content_type": "Modality"}
            asked += [
                {**closed, "question": "Is this CT?", "answer": "Yes" if is_ct else "No", "q_lang": "en"},
                {**closed, "question": "这是CT吗?", "answer": "是的" if is_ct else "不是", "q_lang": "zh"},
                {
                    **common,
                    "question": "Which organ?",
                    "answer": "Liver" if is_ct else "Lung",
                    "q_lang": "en",
                    "answer_type": "OPEN",
                    "content_type": "Organ",
                },
            ]
        put(root, f"{name}.json", json.dumps(asked))


def path_vqa(root: Path, cases: int = 1, zoom: int = 1) -> None:
    for number, name in enumerate(("train", "validation", "test")):
        rows = []
        for case in range(number * cases, (number + 1) * cases):
            shown, is_one = picture(case, zoom), (case - number * cases) % 2 == 0
            rows += [
                {"image": shown, "question": "is this a tumor?", "answer": "yes" if is_one else "no"},
                {"image": shown, "question": "what is present?", "answer": "lymph node" if is_one else "mucosa"},
            ]
        put_hf(root, f"data/{name}-00000-of-00001.parquet", rows)


def pmc_vqa(root: Path, cases: int = 1, zoom: int = 1) -> None:
    for number, name in enumerate(("train", "test_clean")):
        rows = []
        for case in range(number * cases, (number + 1) * cases):
            put(root, f"images/PMC{case}_F1.jpg", film(case, zoom))
            choices = {f"Choice {letter}": f" {letter}:Pattern {letter} " for letter in "ABCD"}
            label = "BDAC"[(case - number * cases) % 4]
            asked = {"Figure_path": f"PMC{case}_F1.jpg", "Question": "What is the uptake pattern?"}
            rows.append({**asked, "Answer": f"Pattern {label}", **choices, "Answer_label": label})
        put_csv(root, f"{name}.csv", rows)


def omnimedvqa(root: Path, cases: int = 1, zoom: int = 1) -> None:
    """Two of its data sets: questions with four options, and with two."""
    for number, (name, modality, options) in enumerate(
        (
            ("ACRIMA", "Fundus Photography", ("Glaucoma", "Healthy eye", "Cataract", "Retinal detachment")),
            ("Chest CT Scan", "CT(Computed Tomography)", ("No", "Yes")),
        )
    ):
        records = []
        for case in range(2 * cases):
            file = f"Images/{name}/{case}.png"
            put(root, file, film(2 * number * cases + case, zoom))
            right = options[case % len(options)]
            asked = {"dataset": name, "question_id": f"{name}_{case:04d}", "question_type": "Disease Diagnosis"}
            shown = {f"option_{letter}": text for letter, text in zip("ABCD", options, strict=False)}
            records.append(
                {
                    **asked,
                    "question": "Which is it?",
                    "gt_answer": right,
                    "image_path": file,
                    **shown,
                    "modality_type": modality,
                }
            )
        put(root, f"QA_information/Open-access/{name}.json", json.dumps(records))
    put(root, "QA_information/Restricted-access/AIDA.json", "[]")


def medxpertqa_mm(root: Path, cases: int = 1, zoom: int = 1) -> None:
    for name, first in (("dev", 0), ("test", 2 * cases)):
        lines = []
        for case in range(first, first + 2 * cases):
            images = [f"MM-{case}-{letter}.jpeg" for letter in ("ab" if case % 2 else "a")]
            for number, image in enumerate(images):
                put(root, f"images/{image}", film(2 * case + number, zoom))
            options = dict(zip("ABCDE", ("Reduction", "Casting", "Observation", "Arthroscopy", "Fusion"), strict=True))
            listed = " ".join(f"({letter}) {text}" for letter, text in options.items())
            record = {
                "id": f"MM-{case}",
                "question": f"A young patient falls. What is the next step?\nAnswer Choices: {listed}",
                "options": options,
                "label": "ABCDE"[case % 5],
                "images": images,
                "medical_task": "Treatment",
                "body_system": "Skeletal",
                "question_type": "Reasoning",
            }
            lines.append(json.dumps(record) + "\n")
        put(root, f"MM/{name}.jsonl", "".join(lines))


OBSERVATIONS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip


def chexpert(root: Path, cases: int = 1, zoom: int = 1) -> None:
    """In train every value of a label: present, absent, uncertain, not mentioned; in valid the first two."""
    number = 0
    for name, values in (("train", ("1.0", "0.0", "-1.0", "")), ("valid", ("1.0", "0.0"))):
        rows = []
        for case in range(4 * cases):
            folder = f"CheXpert-v1.0-small/{name}/patient{number // 2:05d}/study1"
            shown = "Lateral" if case % 4 == 3 else "Frontal"
            path = f"{folder}/view{case % 4 + 1}_{shown.lower()}.jpg"
            put(root, path, film(number, zoom))
            said = {"Path": path, "Sex": "Female", "Age": 60, "Frontal/Lateral": shown, "AP/PA": "AP"}
            labels = {label: values[(case + at) % len(values)] for at, label in enumerate(OBSERVATIONS)}
            rows.append({**said, **labels})
            number += 1
        put_csv(root, f"CheXpert-v1.0-small/{name}.csv", rows)


def pmc_oa(root: Path, cases: int = 1, zoom: int = 1) -> None:
    for number, name in enumerate(("train", "valid", "test")):
        lines = []
        for case in range(number * cases, (number + 1) * cases):
            figure, shown = f"PMC{case}_Fig3_4.jpg", f" in the lung of case {case}" if cases > 1 else ""
            put(root, f"images/{figure}", film(case, zoom))
            record = {"image": figure, "caption": f"Translocation{shown}.", "pmcid": f"PMC{case}", "url_name": "x.jpg"}
            lines.append(json.dumps(record) + "\n")
        put(root, f"{name}.jsonl", "".join(lines))


def rocov2(root: Path, cases: int = 1, zoom: int = 1) -> None:
    for number, name in enumerate(("train", "validation", "test")):
        rows = [
            {
                "image": picture(case, zoom),
                "image_id": f"ROCOv2_2023_{name}_{case:06d}",
                "caption": ("CT of the chest.", "MR of the head.")[(case - number * cases) % 2],
                "cui": ["C0040405", "C0817096"],
            }
            for case in range(number * cases, (number + 1) * cases)
        ]
        put_hf(root, f"data/{name}-00000-of-00001.parquet", rows)


def llava_med_instruct(root: Path, cases: int = 1, zoom: int = 1) -> None:
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
        for n in range(4 * cases)
    ]
    put(root, "llava_med_instruct_60k_inline_mention.json", json.dumps(records))
    for n in range(4 * cases):
        put(root, f"images/2660109{n}_F2.jpg", film(n, zoom))


MIMIC: list[tuple[Any, ...]] = [  # subject, study, dicom, split, view, date, time
    (10000032, 50414267, "02aa804e", "train", "PA", 21800506, 213014.531),
    (10000032, 50414267, "174413ec", "train", "LATERAL", 21800506, 213014.531),
    (10000032, 53189527, "2a2277a9", "train", "AP", 21800626, 165500.312),
    (11000011, 51029426, "e084de3b", "validate", "AP", 21500101, 80556.875),
    (12000012, 52000001, "68b5c4b1", "test", "PA", 21600101, 1.0),
    (12000012, 52000002, "096052b7", "test", "PA", 21600102, 2.0),
]


def mimic_cxr(root: Path, cases: int = 1, zoom: int = 1) -> None:
    names = ("subject_id", "study_id", "dicom_id", "split", "ViewPosition", "StudyDate", "StudyTime")
    found = [
        (subject + case, study + 10 * case, f"{dicom}{case or ''}", *others)
        for case in range(cases)
        for subject, study, dicom, *others in MIMIC
    ]
    rows = [dict(zip(names, row, strict=True)) for row in found]
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
    # Every other patient has the opposite, so that there is something to tell.
    firsts = {subject + case for case in range(0, cases, 2) for subject, *_ in MIMIC}
    opposite = {name: {"1.0": "0.0", "0.0": "1.0"}.get(value, value) for name, value in labels.items()}
    put_csv(
        root,
        "mimic-cxr-2.0.0-chexpert.csv",
        [
            {"subject_id": a, "study_id": b, **(labels if a in firsts else opposite)}
            for a, b in dict.fromkeys(row[:2] for row in found)
        ],
    )
    for number, (subject, study, dicom, *_) in enumerate(found):
        folder = f"files/p{str(subject)[:2]}/p{subject}/s{study}"
        put(root, f"{folder}/{dicom}.jpg", film(number, zoom))
        report = f"FINAL REPORT\n INDICATION: ___\n\n FINDINGS:\n Film {number} is clear.\n\n IMPRESSION: Normal.\n"
        put(root, f"mimic-cxr-reports/{folder}.txt", report if study != 52000002 else "No heading at all.")


def chest_imagenome(root: Path, cases: int = 1, zoom: int = 1) -> None:
    """As mimic_cxr, with a graph of each frontal film but the first: boxes in pixels of the film, and the same in those
    of a square of 224 x 224."""
    mimic_cxr(root, cases, zoom)
    names = (
        "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture",
        "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax",
        "Support Devices",
    )  # fmt: skip
    studies = [(subject + case, study + 10 * case) for case in range(cases) for subject, study, *_ in MIMIC]
    labels = ("1.0", "0.0", "", "-1.0", "")
    rows = [
        {"subject_id": a, "study_id": b, **{name: labels[(n + i) % 5] for i, name in enumerate(names)}}
        for n, (a, b) in enumerate(dict.fromkeys(studies))
    ]
    put_csv(root, "mimic-cxr-2.0.0-chexpert.csv", rows)
    for number, ((subject, study), (*_, dicom, _, view, _, _)) in enumerate(zip(studies, MIMIC * cases, strict=True)):
        of = number // len(MIMIC)
        report = (
            f"FINAL REPORT\n FINDINGS: The cardiac silhouette is {('normal', 'enlarged')[number % 2]} in film {number}."
            f" No opacity in the left lung. {('The trachea is midline.', 'The aortic arch is calcified.')[of % 2]}\n"
        )
        put(root, f"mimic-cxr-reports/files/p{str(subject)[:2]}/p{subject}/s{study}.txt", report)
        if number and view != "LATERAL":
            places = {"cardiac silhouette": (3, 2, 6, 5), "left lung": (4, 0, 8, 5), "right lung": (0, 0, 4, 5)}
            found = [
                {
                    "object_id": f"{dicom}{of or ''}_{name}",
                    **dict(zip(("x1", "y1", "x2", "y2"), (28 * side for side in box), strict=True)),
                    "bbox_name": name,
                    **{f"original_{k}": zoom * v for k, v in zip(("x1", "y1", "x2", "y2"), box, strict=True)},
                }
                for name, box in (*places.items(), ("right lung base", (0, 3, 4, 5)))
            ]
            graph = {"image_id": f"{dicom}{of or ''}", "objects": found, "attributes": [], "relationships": []}
            put(root, f"silver_dataset/scene_graph/{dicom}{of or ''}_SceneGraph.json", json.dumps(graph))


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


def iu_xray(root: Path, cases: int = 1, zoom: int = 1) -> None:
    projections, reports = [], []
    said = {"MeSH": "normal", "Problems": "normal", "image": "Xray Chest PA and Lateral", "indication": "XXXX"}
    ill = {"MeSH": "Cardiomegaly", "Problems": "Cardiomegaly", "image": "Chest", "indication": ""}
    for case in range(cases):
        uid = 2 * case + 1
        for name, projection in (("0001-4001", "Frontal"), ("0001-3001", "Lateral")):
            projections.append({"uid": uid, "filename": f"{uid}_IM-{name}.dcm.png", "projection": projection})
        projections.append({"uid": uid + 1, "filename": f"{uid + 1}_IM-0652-1001.dcm.png", "projection": "Frontal"})
        reports += [
            {"uid": uid, **said, "comparison": "None.", "findings": "Clear.", "impression": "Normal."},
            {"uid": uid + 1, **ill, "comparison": "", "findings": "", "impression": "Large heart."},
        ]
    put_csv(root, "indiana_projections.csv", projections)
    put_csv(root, "indiana_reports.csv", reports)
    for number, row in enumerate(projections):
        put(root, f"images/images_normalized/{row['filename']}", film(number, zoom))


CT_RATE_LABELS = (
    "Medical material", "Arterial wall calcification", "Cardiomegaly", "Pericardial effusion",
    "Coronary artery wall calcification", "Hiatal hernia", "Lymphadenopathy", "Emphysema", "Atelectasis",
    "Lung nodule", "Lung opacity", "Pulmonary fibrotic sequela", "Pleural effusion", "Mosaic attenuation pattern",
    "Peribronchial thickening", "Consolidation", "Bronchiectasis", "Interlobular septal thickening",
)  # fmt: skip


def ct_rate(root: Path, cases: int = 1, make: Callable[[str], bytes] = str.encode) -> None:
    """make: the contents of a volume of a name."""
    for name, volumes in (
        ("train", ("train_{}_a_1", "train_{}_a_2", "train_{}_b_1")),
        ("validation", ("valid_{}_a_1",)),
    ):
        named = [volume.format(2 * case + 1 + volume.endswith("b_1")) for case in range(cases) for volume in volumes]
        rows = [
            {
                "VolumeName": f"{v}.nii.gz",
                "ClinicalInformation_EN": "",
                "Technique_EN": "",
                "Findings_EN": f"Findings {v}.",
                "Impressions_EN": "Clear.",
            }
            for v in named
        ]
        put_csv(root, f"dataset/radiology_text_reports/{name}_reports.csv", rows)
        labels = [{"VolumeName": f"{v}.nii.gz", **dict.fromkeys(CT_RATE_LABELS, int(v.endswith("2")))} for v in named]
        part = "train" if name == "train" else "valid"
        put_csv(root, f"dataset/multi_abnormality_labels/{part}_predicted_labels.csv", labels)
        for v in named:
            part, case_, scan, _ = v.split("_")
            put(root, f"dataset/{part}_fixed/{part}_{case_}/{part}_{case_}_{scan}/{v}.nii.gz", make(v))


def merlin(root: Path, cases: int = 1, make: Callable[[str], bytes] = str.encode) -> None:
    """make: the contents of a volume of a name."""
    reports, codes = [], []
    for case in range(cases):
        for number, split in enumerate(("train", "validation", "test")):
            name = f"AC42{case:03d}{number}"
            put(root, f"merlin_data/{name}.nii.gz", make(name))
            texts = f"Liver and biliary tree: A cyst of {4 + len(reports)} mm. Spleen: Normal. IMPRESSION: Not acute."
            reports.append({"study id": name, "Findings": texts, "Split": split, "Few Shot": 0})
            if split != "test":  # whose diagnoses are not known
                listed = "none" if number else f"8.5;250.2;{999 if case else 401.1}"
                codes.append({"study id": name, "phecodes": listed})
    put_csv(root, "reports_final.csv", reports)
    put_csv(root, "phecodes.csv", codes)


def vocomni(root: Path, cases: int = 1, make: Callable[[str], bytes] = str.encode) -> None:
    """make: the contents of a volume of a name, or of its mask, which is named *_mask."""
    for case in range(2 * cases):
        put(root, f"imagesTr/VoComni_{case}_0000.nii.gz", make(f"VoComni_{case}"))
        put(root, f"labelsTr/VoComni_{case}.nii.gz", make(f"VoComni_{case}_mask"))


def m3d_cap(root: Path, cases: int = 1, make: Callable[[str], bytes] = str.encode) -> None:
    """make: the contents of a volume of a name."""
    index = {}
    for number, name in enumerate(("train", "validation", "test")):
        index[name] = []
        for each in range(number * cases, (number + 1) * cases):
            case = f"ct_quizze/{each:06d}"
            put(root, f"{case}/text.txt", f"Findings of case {each}.")
            put(root, f"{case}/Axial_non_contrast.npy", make(case))
            index[name].append({"image": f"{case}/Axial_non_contrast.npy", "text": f"{case}/text.txt"})
    put(root, "M3D_Cap.json", json.dumps(index))


def med_multi_points(root: Path, cases: int = 1, zoom: int = 1) -> None:
    def row(number: int, boxes: list[list[int]], label: str, organ: str) -> dict[str, Any]:
        boxes = [[zoom * side for side in box] for box in boxes]
        points = [{"x": (a + c) / 2, "y": (b + d) / 2} for a, b, c, d in boxes]
        return {
            "image": picture(number, zoom),
            "image_sha256": "0",
            "img_size": [8 * zoom, 6 * zoom],
            "points": points,
            "bbox": boxes,
            "count": len(boxes),
            "label": label,
            "collection_method": "counting",
            "classification": "x",
            "organ": organ,
        }

    polyps = [(3 * case, [[1, 1, 4, 3]]) for case in range(cases)] + [(3 * case + 1, []) for case in range(cases)]
    put_hf(
        root,
        "kvasir-points_datasets_script-train-00000-of-00002.arrow",
        [row(number, boxes, "polyps", "Lower GI") for number, boxes in polyps],
    )
    put_hf(
        root,
        "kvasir-points_datasets_script-train-00001-of-00002.arrow",
        [row(3 * case + 2, [[0, 0, 2, 2], [4, 1, 8, 6]], "sperm", "Microscopy") for case in range(cases)],
    )
    put(root, "dataset_info.json", "{}")


def medtrinity(root: Path, cases: int = 1, zoom: int = 1) -> None:
    rows = [{"image": picture(n, zoom), "id": f"id{n}", "caption": f"An image {n}."} for n in range(3 * cases)]
    put_hf(root, "25M_demo/train-00000-of-00001.parquet", rows)


def quilt_1m(root: Path, cases: int = 1, zoom: int = 1) -> None:
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
    rows = []
    for case in range(cases):
        of = f" {case}" if case else ""
        rows += [
            (3 * case, f"A gland{of}.", f"a{of}.jpg", "quilt", "train"),
            (3 * case + 1, f"A duct{of}.", f"a{of}.jpg", "quilt", "train"),
            (3 * case + 2, f"Stroma{of}.", f"b{of}.jpg", "openpath", "val"),
        ]
        put(root, f"quilt_1m/a{of}.jpg", film(2 * case, zoom, colour=True))
        put(root, f"quilt_1m/b{of}.jpg", film(2 * case + 1, zoom, colour=True))
    put_csv(root, "quilt_1M_lookup.csv", [dict(zip(names, (*row, *[""] * 8), strict=True)) for row in rows])


def _medmnist(root: Path, name: str, shape: tuple[int, ...], labels: int, columns: int = 1, cases: int = 1) -> None:
    rng = np.random.default_rng(labels)
    arrays: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (3 * cases, *shape)).astype(np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, labels, (3 * cases, columns)).astype(np.uint8)
    np.savez(root / f"{name}.npz", **arrays)


def medmnist_path(root: Path, cases: int = 1) -> None:
    _medmnist(root, "pathmnist", (28, 28, 3), 9, cases=cases)


def medmnist_pneumonia(root: Path) -> None:
    _medmnist(root, "pneumoniamnist", (28, 28), 2)


def medmnist_chest(root: Path, cases: int = 1) -> None:
    _medmnist(root, "chestmnist", (28, 28), 2, columns=14, cases=cases)


def vindr_cxr(root: Path, cases: int = 1, zoom: int = 1) -> None:
    """As table; the films are DICOM."""
    from tests.io.dicom.series import image

    nothing = {"class_name": "No finding", "x_min": "", "y_min": "", "x_max": "", "y_max": ""}
    for first, (split, agreed) in enumerate((("train", False), ("test", True))):
        (root / split).mkdir()
        rows: list[dict[str, Any]] = []
        for case in range(cases):
            of = case or ""
            for number, name in enumerate((f"{split}a{of}", f"{split}b{of}"), 4 * case + 2 * first):
                stored = np.random.default_rng(number).integers(0, 4096, (8 * zoom, 10 * zoom))
                image(stored, modality="DX", PatientName="", PatientAge="040Y").save_as(
                    root / split / f"{name}.dicom", enforce_file_format=True
                )
            found = [("Pleural effusion", f"R{n}", (n, 2, 5, 6)) for n in (range(1) if agreed else range(3))]
            others = [("Clavicle fracture", "R0", (0, 0, 3, 3)), ("Pneumothorax", "R0", (6, 1, 9, 4))]
            for label, reader, box in [*found, *others]:
                corners = dict(zip(("x_min", "y_min", "x_max", "y_max"), (zoom * side for side in box), strict=True))
                rows.append({"image_id": f"{split}a{of}", "rad_id": reader, "class_name": label, **corners})
            rows.append({"image_id": f"{split}b{of}", "rad_id": "R0", **nothing})
        put_csv(root, f"annotations/annotations_{split}.csv", rows)


def med_sg(root: Path, cases: int = 1, zoom: int = 1) -> None:
    """Each image is of 24 x 32 pixels at least, so that boxes have some."""
    zoom = max(zoom, 4)
    for number in range(4 * cases):
        put(root, f"Task1/{number}.png", film(number, zoom))
    records = []
    for n in range(2 * cases):
        x, y = 2 * (n % 5), 3 * (n % 3)
        box = f"<|box_start|>({x},{y}),({x + 12},{y + 9})<|box_end|>"
        named = "<|object_ref_start|>Spleen<|object_ref_end|>"
        asked = (
            ("registered_diff", "Where do they differ?", box),
            (
                "referring",
                f"Identify the bounding box of {named}.",
                f"It's in the {('first', 'second')[n % 2]} image. {box}",
            ),
        )[n % 2]
        turns = [{"from": "human", "value": f"<image>\n<image>\n{asked[1]}"}, {"from": "gpt", "value": asked[2]}]
        images = [f"Task1/{2 * n}.png", f"Task1/{2 * n + 1}.png"]
        records.append({"id": f"{asked[0]}/{n}", "task": asked[0], "images": images, "conversations": turns})
    put(root, "MedSG-188K.json", json.dumps(records))


def bimed_v(root: Path, cases: int = 1, zoom: int = 1, stage: int = 2) -> None:
    """Every other record in Arabic; in the second stage, every fifth without an image."""
    said = [
        ("<image>\nWhat is shown?", "A chest film.", "Is it normal?", "It seems to be."),
        ("<image>\nما الذي يظهر في الصورة؟", "صورة أشعة للصدر.", "هل هي طبيعية؟", "يبدو أنها كذلك."),
    ]
    records = []
    for number in range(10 * cases):
        has_image, texts = stage == 1 or number % 5 != 4, said[number % 2]
        turns = [
            {"from": ("human", "gpt")[at % 2], "value": text if has_image else text.replace("<image>\n", "")}
            for at, text in enumerate(texts[: 2 if stage == 1 else 4])
        ]
        name = f"2660{number}_F2.jpg"
        if has_image:
            put(root, f"images/{name}", film(number, zoom))
        records.append({"id": f"{number}", **({"image": name} if has_image else {}), "conversations": turns})
    put(root, f"BiMed-V_stage{stage}.json", json.dumps(records, ensure_ascii=False))


def mmxu(root: Path, cases: int = 1, zoom: int = 1) -> None:
    """The films are those of MIMIC-CXR-JPG, two of each subject."""
    lines = []
    for case in range(4 * cases):
        subject, side = f"p10{case:06d}", ("left", "right")[case % 2]
        films = [f"files/p10/{subject}/s5{visit}{case:06d}/{visit}a.jpg" for visit in (1, 2)]
        for visit, name in enumerate(films):
            put(root, name, film(2 * case + visit, zoom))
        record = {
            "id": case,
            "content_type": ("progression", "comparison")[case // 2 % 2],
            "related_region_name": f"{side} lower lung zone",
            "question": f"How has the opacity in the {side} lower lung zone changed?",
            "options": {"A": "It is larger.", "B": "It is smaller.", "C": "It is unchanged.", "D": "It is gone."},
            "answer": "ABCD"[case % 4],
            "explanation": "The report says so.",
            "cur_image_path": films[1],
            "cur_report": "The opacity is larger.",
            "cur_region_report": "The opacity is larger.",
            "cur_image_bboxs": {f"{side} lower lung zone": [1, 2, 3, 4]},
            "prior_image_path": films[:1],
            "prior_report": f"The heart is of normal size. An opacity is seen in the {side} lung.",
            "prior_image_bboxs": {},
        }
        lines.append(json.dumps(record) + "\n")
    put(root, "MMXU-dev.jsonl", "".join(lines))


def medvision(root: Path, cases: int = 1, zoom: int = 1) -> None:
    """As build_parquet_ds of the authors writes it: rows of all tasks, with the fields of each in `extra_info`."""
    system = "Think in steps, then answer in <answer> tags."
    names = {
        "tl": ("landmark_P1_wh", "landmark_P2_wh", "landmark_P3_wh", "landmark_P4_wh"),
        "distance": ("landmark_1_wh", "landmark_2_wh"),
        "angle": ("line_1_point_1_wh", "line_1_point_2_wh", "line_2_point_1_wh", "line_2_point_2_wh"),
    }
    every = [name for group in names.values() for name in group]
    for part, file in enumerate(("train", "validation")):
        rows = []
        for case in range(3 * cases):
            number, ability = part * 3 * cases + case, list(names)[case % 3]
            rng = np.random.default_rng(number)
            points = {name: [round(float(x), 3) for x in rng.uniform(0, 1, 2)] for name in names[ability]}
            values = [f"{value:.3f}" for value in rng.uniform(10, 60, 2 if ability == "tl" else 1)]
            asked = f"Measure it. The pixel size for this image is 0.{500 + number} mm (width) x 0.500 mm (height)."
            prompt = [
                {"role": "system", "content": [{"type": "text", "text": system}]},
                {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": asked}]},
            ]
            rows.append(
                {
                    "prompt": prompt,
                    "images": [picture(number, zoom)],
                    "ground_truth": ", ".join(values),
                    "data_source": "medvision-tl" if ability == "tl" else "medvision-ad",
                    "ability": f"medvision-{ability}",
                    "extra_info": {**dict.fromkeys(every), **points},
                }
            )
        put_hf(root, f"{file}_verl.parquet", rows)


def medreg_instruct(root: Path, cases: int = 1, zoom: int = 1) -> None:
    turns = [
        {"from": "human", "value": "<image>\nWhere is the liver?"},
        {"from": "gpt", "value": "<ref>liver</ref><box>[[100, 200, 500, 600]]</box>"},
    ]
    size = {"width": 8 * zoom, "height": 6 * zoom}
    lines = []
    for number in range(2 * cases):
        put(root, f"ct/{number}.png", film(number, zoom))
        lines.append(json.dumps({"id": number, "image": f"ct/{number}.png", **size, "conversations": turns}) + "\n")
    put(root, "MedRegInstruct.jsonl", "".join(lines))


def med_mat(root: Path, cases: int = 1, zoom: int = 1) -> None:
    """Twenty collections, or as many as there are cases, and the table of them."""
    kinds = [("CT", "X-Ray"), ("Lung", "Brain"), ("Cancer", "COVID")]
    table = [
        {
            "data-no": f"{2 + n}",
            "modality": kinds[0][n % 2],
            "area": kinds[1][n // 2 % 2],
            "purpose": kinds[2][n // 4 % 2],
        }
        for n in range(20)
    ]
    put_csv(root, "collections.csv", table)
    for number, name in enumerate(("train", "test")):
        rows = []
        for case in range(cases):
            file = f"med-mat/CT (1)/{name} ({561 + case}).jpg"
            put(root, file, film(number * cases + case, zoom))
            asked = {
                "Question": "What is it?",
                "Answer": "Cyst",
                "Question-choice": "What is it?\nA: Stone\nB: Cyst",
                "Answer-choice": "B",
                "data-no": f"{2 + case % 20}",
                "caption": "Cyst",
            }
            rows.append({"id": case + 1, "image": file, **asked})
        put(root, f"{name}.json", json.dumps(rows))


def medmcqa(root: Path, cases: int = 1, zoom: int = 1) -> None:
    """Without images. The right choice is a class label, stored as its number."""
    import pyarrow as pa
    import pyarrow.parquet

    labels = {"names": ["a", "b", "c", "d"], "_type": "ClassLabel"}
    metadata = {b"huggingface": json.dumps({"info": {"features": {"cop": labels}}}).encode()}
    for part, name in enumerate(("train", "validation")):
        rows = [
            {
                "id": f"q{case}",
                "question": f"How many lobes has lung {case}?",
                **{f"op{letter}": f"{number} lobes" for number, letter in enumerate("abcd")},
                "cop": case % 4,
                "choice_type": "single",
                "exp": f"Lungs have {case % 4} lobes." if case % 3 else None,
                "subject_name": "Anatomy",
            }
            for case in range(part * cases, (part + 1) * cases)
        ]
        (root / "data").mkdir(exist_ok=True)
        table = pa.Table.from_pylist(rows).replace_schema_metadata(metadata)
        pa.parquet.write_table(table, root / f"data/{name}-00000-of-00001.parquet")


def m3cotbench(root: Path, cases: int = 1, zoom: int = 1) -> None:
    """Its two tables as CSV. Each case is a question of one choice, of true or false, of several choices, and a short
    one without further analysis."""
    asked, types = [], []
    for number in range(1, 4 * cases + 1):
        put(root, f"images/{number}.png", film(number, zoom, colour=True))
        kind = number % 4
        text = (
            "What grows here?",
            "Select one option. A. Cyst B. Stone",
            "True or false: a cyst?",
            "Select all that apply. A, B, C",
        )
        steps = {"modality": "Ultrasound", "feature": f"A dark round area of size {number}", "key_conclusion": "A cyst"}
        analysis = {"additional_analysis": "" if kind == 0 else "Cysts hold fluid."}
        answer = ("Cyst", "A", "True", "A, C")[kind]
        asked.append({"index": number, "question": text[kind], "answer": answer, **steps, **analysis})
        types.append({"index": number, "analysis_type": ("Diagnosis", "Recognition")[number % 2]})
    put_csv(root, "M3CoTBench.csv", asked)
    put_csv(root, "type.csv", types)


def _put_rationales(
    root: Path, folder: str, names: dict[str, str], cases: int, own: Callable[[int], dict[str, str]]
) -> None:
    """JSON objects, and the lists that the card's command makes of them. names: file -> list."""
    for part, (name, made) in enumerate(names.items()):
        asked: dict[str, dict[str, Any]] = {
            str(case): {
                "question": "Is there a mass?",
                "choices": ["yes", "no"],
                "answer": case % 2,
                "solution": f"The area {case} is {'bright' if case % 2 else 'dark'}.",
                **own(case),
            }
            for case in range(part * cases, (part + 1) * cases)
        }
        put(root, f"{folder}/{name}.json", json.dumps(asked))
        listed = [{**each, "answer": each["choices"][each["answer"]]} for each in asked.values()]
        put(root, f"{folder}/{made}.json", json.dumps(listed))


def medthink_rad(root: Path, cases: int = 1, zoom: int = 1) -> None:
    for case in range(2 * cases):
        put(root, f"R-RAD/images/synpic{100 + case}.jpg", film(case, zoom))
    names = {"trainset": "train-list", "testset": "test-list"}
    _put_rationales(root, "R-RAD/closed-end", names, cases, lambda case: {"image": f"synpic{100 + case}.jpg"})


def medthink_slake(root: Path, cases: int = 1, zoom: int = 1) -> None:
    for case in range(2 * cases):
        put(root, f"R-SLAKE/images/xmlab{case}/source.jpg", film(case, zoom))
    names = {"train": "train-list", "test": "test-list"}
    _put_rationales(root, "R-SLAKE/closed-end", names, cases, lambda case: {"img_id": str(case)})


def vqa_rad(root: Path, cases: int = 1, zoom: int = 1) -> None:
    rows = []
    for case in range(cases):
        image = f"synpic{54610 + case}.jpg"
        put(root, f"VQA_RAD Image Folder/{image}", film(case, zoom))
        phrase = "test_freeform" if case % 4 == 3 else "freeform"
        asked = {"image_name": image, "image_organ": "HEAD", "phrase_type": phrase}
        closed = ("Are regions of the brain infarcted?", ("Yes", "No")[case % 2], "CLOSED", "PRES")
        for question, answer, answer_type, kind in (closed, ("Which side?", "the left side", "OPEN", "POS")):
            said = {"question": question, "answer": answer, "answer_type": answer_type, "question_type": kind}
            rows.append({"qid": str(len(rows)), **asked, **said})
    put(root, "VQA_RAD Dataset Public.json", json.dumps(rows))


def bccd(root: Path, cases: int = 1, zoom: int = 1) -> None:
    for case in range(cases):
        put(root, f"BCCD/JPEGImages/BloodImage_{case:05d}.jpg", film(case, zoom, colour=True))
        cells = [("RBC", 0, 0, 2 + case % 3, 3), ("WBC", 3, 1, 7, 5), ("Platelets", 6, 0, 8, 2)][: 1 + case % 3]
        boxes = [
            f"<object><name>{name}</name><bndbox><xmin>{zoom * a}</xmin><ymin>{zoom * b}</ymin><xmax>{zoom * c}</xmax>"
            f"<ymax>{zoom * d}</ymax></bndbox></object>"
            for name, a, b, c, d in cells
        ]
        size = f"<size><width>{8 * zoom}</width><height>{6 * zoom}</height><depth>3</depth></size>"
        name = f"<filename>BloodImage_{case:05d}.jpg</filename>"
        put(
            root,
            f"BCCD/Annotations/BloodImage_{case:05d}.xml",
            f"<annotation>{name}{size}{''.join(boxes)}</annotation>",
        )


def btcv(root: Path, cases: int = 1, make: Callable[[str], bytes] = str.encode) -> None:
    """make: the contents of a volume of a name; that of labels begins with `label`."""
    for case in range(1, 5 * cases + 1):
        put(root, f"RawData/Training/img/img{case:04d}.nii.gz", make(f"img{case:04d}"))
        put(root, f"RawData/Training/label/label{case:04d}.nii.gz", make(f"label{case:04d}"))


def kvasir_seg(root: Path, cases: int = 1, zoom: int = 1) -> None:
    """Polyps are squares of a corner."""
    for case in range(5 * cases):
        mask = np.zeros((6 * zoom, 8 * zoom), np.uint8)
        mask[zoom : (2 + case % 3) * zoom, zoom : 4 * zoom] = 255
        put(root, f"Kvasir-SEG/images/case{case:03d}.jpg", film(case, zoom, colour=True))
        put(root, f"Kvasir-SEG/masks/case{case:03d}.png", encode_png(mask))


def busi(root: Path, cases: int = 1, zoom: int = 1) -> None:
    """A lesion in a corner; every third image has two of them, in files of their own. Those without one are empty."""
    for case in range(6 * cases):
        kind = ("benign", "malignant", "normal")[case % 3]
        name = f"Dataset_BUSI_with_GT/{kind}/{kind} ({case + 1})"
        put(root, f"{name}.png", film(case, zoom))
        for number in range(1 + (case % 3 == 1)):
            mask = np.zeros((6 * zoom, 8 * zoom), np.uint8)
            if kind != "normal":
                mask[zoom : 3 * zoom, (1 + 3 * number) * zoom : (3 + 3 * number) * zoom] = 255
            put(root, f"{name}_mask{f'_{number}' if number else ''}.png", encode_png(mask))


def chaos_mr(root: Path, cases: int = 1, zoom: int = 1) -> None:
    """Slices of patients, each with a square of each organ; the last slice shows none."""
    for patient in range(1, 3 * cases + 1):
        folder = f"Train_Sets/MR/{patient}/T2SPIR"
        for number, data in enumerate(_make_slices("MR", patient, zoom), 1):
            mask = np.zeros((16 * zoom, 16 * zoom), np.uint8)
            for organ in range(4 * (number < 3)):
                y, x = (2 + 7 * (organ // 2)) * zoom, (2 + 7 * (organ % 2)) * zoom
                mask[y : y + 5 * zoom, x : x + 5 * zoom] = 63 * (organ + 1)
            name = f"IMG-{patient:04d}-{number:05d}"
            put(root, f"{folder}/DICOM_anon/{name}.dcm", data)
            put(root, f"{folder}/Ground/{name}.png", encode_png(mask))


def chaos_ct(root: Path, cases: int = 1, zoom: int = 1) -> None:
    """The same with the liver alone."""
    for patient in range(1, 3 * cases + 1):
        folder = f"Train_Sets/CT/{patient}"
        for number, data in enumerate(_make_slices("CT", patient, zoom)):
            mask = np.zeros((16 * zoom, 16 * zoom), np.uint8)
            mask[2 * zoom : 9 * zoom, 3 * zoom : (8 + number) * zoom] = 255
            put(root, f"{folder}/DICOM_anon/i{number:04d},0000b.dcm", data)
            put(root, f"{folder}/Ground/liver_GT_{number:03d}.png", encode_png(mask))


def _make_slices(modality: str, patient: int, zoom: int) -> Iterator[bytes]:
    """Three files in DICOM without a name."""
    from io import BytesIO

    from tests.io.dicom.series import slices

    header: dict[str, Any] = {
        "PatientIdentityRemoved": "YES",
        "PatientName": "",
        "PatientID": "",
        "AccessionNumber": "",
    }
    size = (3, 16 * zoom, 16 * zoom)
    if modality == "CT":  # air beside a body
        made = slices(
            size=size, offset=patient, field=lambda lps: np.where(lps[..., 0] < 10, -1000, lps[..., 1]), **header
        )
    else:
        made = slices(modality=modality, size=size, offset=patient + 900, signed=False, **header)
    for each in made:
        file = BytesIO()
        each.save_as(file, enforce_file_format=True)
        yield file.getvalue()


def dsb2018_boxes(root: Path, cases: int = 1, zoom: int = 1) -> None:
    """Two nuclei in each image."""
    for case in range(6 * cases):
        folder = f"stage1_train/{case:064x}"
        put(root, f"{folder}/images/{case:064x}.png", film(case, zoom, colour=True))
        for number in range(2):
            mask = np.zeros((6 * zoom, 8 * zoom), np.uint8)
            mask[zoom : 3 * zoom, (1 + 3 * number) * zoom : (3 + 3 * number) * zoom] = 255
            put(root, f"{folder}/masks/{number:064x}.png", encode_png(mask))


def paxray(root: Path, cases: int = 1, zoom: int = 1) -> None:
    """Each structure is a square that overlaps with the next one."""
    from medvlm.core.card import load_card

    names = load_card(Path(__file__).parents[2] / "data_cards" / "paxray.yaml").reader.mask.planes
    listed: dict[str, Any] = {"label_dict": {str(number): name for number, name in enumerate(names)}}
    for split in ("train", "val", "test"):
        listed[split] = []
        for case in range(cases):
            planes = np.zeros((len(names), 6 * zoom, 8 * zoom), bool)
            for number in range(len(names)):
                at = number % (4 * zoom)
                planes[number, at : at + 2 * zoom, at : at + 3 * zoom] = True
            image, target = f"images/{split}{case}.png", f"labels/{split}{case}.npy"
            put(root, image, film(case + 10 * len(split), zoom))
            put(root, target, encode_npy(planes))
            listed[split].append({"image": image, "target": target})
    put(root, "paxray.json", json.dumps(listed))


def puma(root: Path, cases: int = 1, zoom: int = 1) -> None:
    """A square of tumor in stroma, with nuclei, two of which touch. Images are of 1024 x 1024 pixels."""
    import tifffile

    def outline(name: str, x: int, y: int, side: int) -> dict[str, Any]:
        ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        return {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": name}}}

    for case in range(2 * cases):
        name, rng = f"training_set_{('primary', 'metastatic')[case % 2]}_roi_{case:03d}", np.random.default_rng(case)
        (root / "01_training_dataset_tif_ROIs").mkdir(exist_ok=True)
        small = rng.integers(0, 256, (32, 32, 3), np.uint8)
        region = small.repeat(32, 0).repeat(32, 1)
        tifffile.imwrite(root / "01_training_dataset_tif_ROIs" / f"{name}.tif", region, photometric="rgb")
        tissue = [outline("tissue_stroma", 0, 0, 900), outline("tissue_tumor", 200, 200, 300 + 20 * case)]
        nuclei = [
            outline("nuclei_tumor", 250, 250, 40),
            outline("nuclei_tumor", 290, 250, 40),
            outline("nuclei_lymphocyte", 600, 600, 30),
            outline("nuclei_stroma", 700, 100, 30),
        ]
        for kind, features in (("tissue", tissue), ("nuclei", nuclei)):
            content = json.dumps({"type": "FeatureCollection", "features": features})
            put(root, f"01_training_dataset_geojson_{kind}/{name}_{kind}.geojson", content)
