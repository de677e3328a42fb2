"""Properties of a data set's images and volumes: sizes, spacing, intensities and boxes.

Axes: H W height, width; D depth.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from medvlm.core.sample import Medium, Sample
from medvlm.io.images import decode
from medvlm.report import numbers
from medvlm.report.histogram import draw_histogram
from medvlm.report.markup import Child, Html, tag
from medvlm.report.page import Section, make_section, make_table
from medvlm.report.sample_card import draw, list_boxes

if TYPE_CHECKING:
    import numpy as np

Stored = tuple[Sample, dict[str, bytes]]
VALUES = 4096
"""Number of an image's pixels in the histogram, at equal distances."""
TIMES = f" {chr(0xD7)} "
AXES = {2: ("height", "width"), 3: ("slices", "height", "width")}


@dataclass
class MediaKind:
    """Media of one kind, modality and unit. values: split -> pixels above the lowest value of their image. lowest:
    number of pixels with the lowest value. pixels: number of all."""

    media: list[Medium] = field(default_factory=list)
    types: Counter[str] = field(default_factory=Counter)
    values: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    lowest: int = 0
    pixels: int = 0


def make_media_sections(
    samples: Sequence[Sample], decoded: Sequence[Stored], splits: Sequence[str], said: str, said_decoded: str
) -> list[Section | None]:
    """Sections about media. samples: used for their metadata. decoded: samples whose pixels are read. said,
    said_decoded: the numbers of both in words.

    Raises DataError for a damaged image.
    """
    kinds: dict[tuple[str, str, str], MediaKind] = {}
    for sample in samples:
        for medium in sample.media:
            kinds.setdefault((medium.kind, medium.modality, medium.unit), MediaKind()).media.append(medium)
    for sample, files in decoded:
        for medium in sample.media:
            _add_pixels(kinds[medium.kind, medium.modality, medium.unit], sample.split, medium, files[medium.member])
    if not kinds:
        return []
    ordered = dict(sorted(kinds.items(), key=lambda item: (-len(item[1].media), item[0])))
    return [
        make_section(
            "Media",
            "media",
            _make_table(ordered),
            *_draw_sizes(ordered),
            about=f"Sizes and spacing are from {said}; pixel types from {said_decoded}.",
        ),
        _make_intensities_section(ordered, splits, said_decoded),
        _make_boxes_section(samples, splits, said),
    ]


def _add_pixels(kind: MediaKind, split: str, medium: Medium, data: bytes) -> None:
    import numpy as np

    pixels = decode(data, medium.member)
    colours = pixels.shape[-1] if pixels.ndim == len(medium.size) + 1 else 1
    kind.types[f"{pixels.dtype} {'colour' if colours == 3 else 'grey'}"] += 1
    flat = pixels.reshape(-1, colours).mean(1) if colours > 1 else pixels.reshape(-1)
    flat = flat[:: max(1, len(flat) // VALUES)][: 2 * VALUES].astype(np.float32)
    above = flat[flat > flat.min()]
    kind.pixels, kind.lowest = kind.pixels + len(flat), kind.lowest + len(flat) - len(above)
    kind.values[split].append(above)


def _make_table(kinds: dict[tuple[str, str, str], MediaKind]) -> Html:
    rows: list[list[Child]] = []
    for (kind, modality, unit), found in kinds.items():
        size, spacing = (
            _describe_commonest([m.size for m in found.media]),
            _describe_commonest([m.spacing_mm for m in found.media]),
        )
        rows.append(
            [
                kind,
                modality or "not stated",
                numbers.format_whole(len(found.media)),
                size,
                spacing,
                ", ".join(found.types) or "not read",
                unit,
            ]
        )
    columns = ["kind", "modality", "media", "most common size", "most common spacing, mm", "stored as", "unit"]
    return make_table("Media by kind, modality and unit", columns, rows, {2})


def _describe_commonest(values: Sequence[tuple[float, ...] | None]) -> str:
    """`512 x 512 (12 %)`, width first."""
    value, n = Counter(values).most_common(1)[0]
    share = "all" if n == len(values) else f"{100 * n / len(values):.0f} %"
    return f"{TIMES.join(f'{x:g}' for x in reversed(value)) if value else 'unknown'} ({share})"


def _draw_sizes(kinds: dict[tuple[str, str, str], MediaKind]) -> list[Html]:
    """Histograms of the sizes and spacings that differ between media."""
    import numpy as np

    blocks = []
    for names, found in kinds.items():
        figures = []
        for num_axes, axes in AXES.items():
            some = [m for m in found.media if len(m.size) == num_axes]
            for i, axis in enumerate(axes):
                sizes = np.array([m.size[i] for m in some])
                spacing = np.array([m.spacing_mm[i] for m in some if m.spacing_mm])
                figures += [draw_histogram(axis, {"": sizes}, "pixels")] if len(set(sizes.tolist())) > 1 else []
                figures += (
                    [draw_histogram(f"spacing, {axis}", {"": spacing}, "mm")] if len(set(spacing.tolist())) > 1 else []
                )
        if figures:
            blocks.append(tag("h3", _name_kind(names)))
            blocks.append(tag("div", *figures, class_="curves"))
    return blocks


def _make_intensities_section(
    kinds: dict[tuple[str, str, str], MediaKind], splits: Sequence[str], said: str
) -> Section | None:
    import numpy as np

    figures, lowest = [], []
    for names, found in kinds.items():
        values = {split: np.concatenate(found.values[split]) for split in splits if found.values.get(split)}
        figure = draw_histogram(
            _name_kind(names), values, {"HU": "HU", "raw": "raw values"}.get(names[2], "grey levels")
        )
        if figure:
            figures.append(figure)
            lowest.append(f"{_name_kind(names)} {100 * found.lowest / found.pixels:.0f} %")
    about = (
        f"Stored intensities by split, for {said}; for colors, their mean. If the outlines of splits differ, their"
        " images come from different scanners or were processed differently."
    )
    left = tag(
        "p",
        f"Not drawn: pixels with the lowest value of their image, mostly background ({'; '.join(lowest)}).",
        class_="muted small",
    )
    return (
        make_section("Intensities", "intensities", tag("div", *figures, class_="curves"), left, about=about)
        if figures
        else None
    )


def _make_boxes_section(samples: Sequence[Sample], splits: Sequence[str], said: str) -> Section | None:
    import numpy as np

    per_image: dict[str, list[int]] = {split: [] for split in splits}
    areas: dict[str, list[float]] = defaultdict(list)
    images: Counter[str] = Counter()
    for sample in samples:
        boxes = list_boxes(sample)
        if all(draw(q.truth).boxes is None for q in sample.questions) or not sample.media:
            continue
        per_image[sample.split].append(len(boxes))
        images.update({label for label, _ in boxes})
        height, width = sample.media[0].size[-2:]
        for label, (x1, y1, x2, y2) in boxes:
            areas[label].append(100 * (x2 - x1) * (y2 - y1) / (height * width))
    if not areas:
        return None
    rows: list[list[Child]] = [
        [
            label,
            numbers.format_whole(len(areas[label])),
            numbers.format_whole(images[label]),
            *(f"{x:.2g} %" for x in np.percentile(areas[label], (5, 50, 95))),
        ]
        for label in sorted(areas, key=lambda label: -len(areas[label]))
    ]
    columns = ["label", "number of boxes", "images", "area, 5th percentile", "median", "95th percentile"]
    figures = [
        draw_histogram("boxes in an image", {split: np.array(n) for split, n in per_image.items()}),
        *(draw_histogram(label, {"": np.array(areas[label])}, "% of the image") for label in list(areas)[:5]),
    ]
    shown = make_table(
        "Boxes by label, with the share of the image that they cover", columns, rows, set(range(1, len(columns)))
    )
    return make_section("Boxes", "boxes", shown, tag("div", *figures, class_="curves"), about=f"Counted over {said}.")


def _name_kind(names: tuple[str, str, str]) -> str:
    kind, modality, _ = names
    return f"{kind}, {modality}" if modality else kind
