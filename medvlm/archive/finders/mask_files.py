"""Images or volumes with a mask for each: `images/1.png` and `masks/1.png`, `1.png` and `1_mask.png`, nnU-Net's
`imagesTr/1_0000.nii.gz` and `labelsTr/1.nii.gz`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medvlm.archive.finders._folder import Folder, Found, ask_about_objects, count_of
from medvlm.archive.finders._masks import MaskValues, Pairs, find_pairs, name_class, read_values
from medvlm.archive.finders._slides import describe_slides
from medvlm.archive.finders._volumes import IN_MM, describe_volumes

ORDER = 3


def find(folder: Folder) -> Iterator[Found]:
    for kind, names in folder.of_kind.items():
        pairs = find_pairs(folder, names)
        if pairs is None:
            continue
        values = read_values(folder.root, pairs.mask_files)
        needs = (describe_volumes if kind == "volume" else describe_slides)(folder.root, pairs.listed)
        marked, unknown = _read_marks(pairs, values, kind)
        reader: dict[str, Any] = {
            "kind": "folder",
            "images": pairs.images,
            "medium": kind,
            **needs.options,
            **marked,
        }
        yield Found(
            f"{count_of(pairs.of, kind)} with masks ({pairs.masks})",
            reader,
            pairs.of,
            kind,
            unknown=(*unknown, *needs.unknown),
            window=needs.window,
        )


def _read_marks(pairs: Pairs, values: MaskValues, kind: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Keys of the reader, and what only the user can know."""
    name = name_class(pairs)
    if kind == "image" and (values.is_binary or values.is_objects):
        holds = "labels" if values.is_objects else "parts"
        reader = {
            **ask_about_objects([name], name),
            "masks": [{"of": name, "files": pairs.masks, "holds": holds, "threshold": values.threshold}],
        }
        told = "each value of a mask is taken as an object" if values.is_objects else "parts that touch count as one"
        return reader, (f"what the masks mark: it is called {name!r}; {told}",)
    if values.is_binary:
        return _read_label_map(pairs, {name: []}, name, values.threshold), (
            f"what the masks mark: it is called {name!r}",
        )
    classes = {f"label {value}": value for value in values.values}
    listed = ", ".join(map(str, values.values[:8]))
    return _read_label_map(pairs, classes, "regions"), (
        f"what the values of the masks mean ({listed}): they are called {', '.join(classes)}; rename them in"
        " reader.mask_file.values",
    )


def _read_label_map(
    pairs: Pairs, values: dict[str, Any], template: str, threshold: int | None = None
) -> dict[str, Any]:
    more = {} if threshold is None else {"threshold": threshold}
    nifti = IN_MM if pairs.masks.endswith((".nii", ".nii.gz")) else {}
    return {"mask_file": {"file": pairs.masks, "values": values, **more, "template": template, **nifti}}
