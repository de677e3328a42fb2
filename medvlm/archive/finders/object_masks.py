"""A folder for each image, with a mask file for each of its objects: `ID/images/x.png` and `ID/masks/*.png`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from medvlm.archive.finders._folder import Folder, Found, ask_about_objects, count_of, folder_of, one_of, suffix_of
from medvlm.archive.finders._masks import is_mask_word, read_values

ORDER = 3
LEAST = 3


def find(folder: Folder) -> Iterator[Found]:
    images: dict[tuple[str, str], dict[str, list[str]]] = {}
    masks: dict[tuple[str, str], dict[str, list[str]]] = {}
    for name in folder.of_kind["image"]:
        parent, _, last = folder_of(name).rpartition("/")
        above, _, sample = parent.rpartition("/")
        if sample:
            kept = masks if is_mask_word(last) else images
            kept.setdefault((above, last), {}).setdefault(sample, []).append(name)
    for (above, last), of_sample in images.items():
        for (mask_above, mask_last), masks_of in masks.items():
            both = [each for each in of_sample if each in masks_of and len(of_sample[each]) == 1]
            if above != mask_above or len(both) < LEAST or not any(len(masks_of[each]) > 1 for each in both):
                continue
            under = f"{above}/" if above else ""
            suffixes = one_of(sorted({suffix_of(of_sample[each][0]) for each in both}))
            files = [masks_of[each][0] for each in both]
            reader = {
                "kind": "folder",
                "images": f"{re.escape(under)}(?P<id>[^/]+)/{re.escape(last)}/[^/]+(?i:{suffixes})",
                "medium": "image",
                **ask_about_objects(["object"], "object"),
                "masks": [
                    {
                        "of": "object",
                        "files": f"{under}{{id}}/{mask_last}/*",
                        "holds": "object",
                        "threshold": read_values(folder.root, files).threshold,
                    }
                ],
            }
            what = f"{count_of(len(both), 'image')} with a mask for each object ({under}ID/{mask_last})"
            yield Found(what, reader, len(both), unknown=("what the masks mark: it is called 'object'",))
