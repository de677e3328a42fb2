"""`medvlm plan --fingerprint`: a recipe for masks of a data set, from the sizes, spacings and intensities of its
training samples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from medvlm.core.errors import DataError, RecipeError

if TYPE_CHECKING:
    import numpy as np

    from medvlm.core.sample import Medium, Question, Sample
    from medvlm.preflight.fingerprint import Proposal

READ = 32
"""Volumes of which intensities are looked at."""
CLIPPED = (0.5, 99.5)
"""Percentiles of marked voxels between which CT is not clipped, as in nnU-Net."""
SOURCE = "masks"
Found = tuple["Sample", "Question", int]
"""A training sample, its question for a mask, and its number."""


def propose_recipe(place: str, gpu_gib: float | None, say: Callable[[str], None]) -> str:
    """YAML. place: a folder of shards, or CARD=ROOT, which is packed for this alone. gpu_gib: by default 8, as of
    nnU-Net's own plans. Raises DataError for a data set without masks, or with volumes without a spacing, RecipeError
    for an impossible memory."""
    import numpy as np
    import yaml

    from medvlm.preflight.fingerprint import BUDGET_GIB, Shapes, propose

    gpu_gib = BUDGET_GIB if gpu_gib is None else gpu_gib
    if not 0 < gpu_gib < math.inf:
        raise RecipeError(f"--gpu-gib {gpu_gib:g}: expected the memory of one GPU in GiB, more than 0")
    with _open(place, say) as (shards, where):
        found = list(_read_masks(shards))
        if not found:
            raise DataError(
                f"{place}: no training sample has a mask; keep masks with `mask` or `mask_file` in the card"
            )
        kind = Counter(sample.media[0].kind for sample, _, _ in found).most_common(1)[0][0]
        found = [each for each in found if each[0].media[0].kind == kind]
        media = [sample.media[0] for sample, _, _ in found]
        is_known = _require_spacings(media, place)
        truths: list[Any] = [question.truth for _, question, _ in found]
        classes = tuple(dict.fromkeys(name for truth in truths for name in truth.classes))
        channels, before = _describe_intensities(shards, found[:: max(1, len(found) // READ)][:READ])
        spacings = [each.spacing_mm if is_known else (1.0,) * len(each.size) for each in media]
        shapes = Shapes(
            np.array([each.size for each in media], float), np.array(spacings, float), channels, len(classes) + 1
        )
        made = propose(shapes, gpu_gib)
        recipe = _write(made, kind, found[0][1].template, classes, is_known, channels, before, where)
    said = f"{len(found)} training samples of {kind}, median {_say(made.median)} pixels"
    said += f" at {_say(made.spacing_mm)} mm" if is_known else ""
    lines = [f"# {said}. By the rules of nnU-Net for {gpu_gib:g} GiB of GPU memory."]
    if "augment" not in recipe["data"][SOURCE] and any(
        a < b for a, b in zip(made.network.patch, made.median, strict=True)
    ):
        why = "its percentiles are those of a whole volume" if is_known else "its spacing is unknown"
        lines.append(f"# A medium is larger than the input, but cannot be cut into patches: {why}.")
    return "\n".join([*lines, yaml.safe_dump(recipe, sort_keys=False, default_flow_style=None, width=110).rstrip()])


def _write(
    made: Proposal,
    kind: str,
    template: str,
    classes: tuple[str, ...],
    is_known: bool,
    channels: int,
    before: dict[str, Any],
    where: dict[str, str],
) -> dict[str, Any]:
    import yaml

    fixed = yaml.safe_load((Path(__file__).parent / "first" / "proposal.yaml").read_text(encoding="utf-8"))
    network = made.network
    preprocess: dict[str, Any] = {"size": list(network.patch), **before}
    if is_known:
        preprocess |= {"spacing_mm": [round(mm, 4) for mm in made.spacing_mm], "fit": "crop"}
    if channels == 1:
        preprocess = {"channels": 1, "mean": [0.5], "std": [0.5], **preprocess}
    args = {
        "kernel_size": [list(each) for each in network.kernels],
        "strides": [list(each) for each in network.strides],
        "upsample_kernel_size": [list(each) for each in network.strides[1:]],
        "filters": list(network.widths),
    }
    source: dict[str, Any] = dict(where)
    if is_known and "percentiles" not in before:
        source["augment"] = fixed["augment"]
    stage = {**fixed["stage"], "mix": {SOURCE: 1}, "losses": {template: fixed["losses"]}, "batch": made.batch}
    return {
        "name": "proposal",
        "seed": 0,
        "model": {
            "encoders": {kind: {**fixed["input"], "preprocess": preprocess}},
            "decoders": {template: {**fixed["decoder"], "classes": list(classes), "args": args}},
        },
        "data": {SOURCE: source},
        "stages": [stage],
        "evaluate": {"on": [f"{SOURCE}:test"]},
        "export": fixed["export"],
    }


def _describe_intensities(shards: Any, found: list[Found]) -> tuple[int, dict[str, Any]]:
    """Channels, and how intensities are scaled: CT by the percentiles of what is marked, 8 and 16 bits by their range,
    others by the percentiles of each medium."""
    import numpy as np

    from medvlm.io.images import decode
    from medvlm.io.masks import decode_mask

    marked: list[np.ndarray] = []
    channels, is_unsigned = 1, True
    for sample, question, number in found:
        truth: Any = question.truth
        medium, (_, files) = sample.media[0], shards.read("train", number)
        array = decode(files[medium.member], medium.member)
        channels = max(channels, array.shape[-1] if array.ndim > len(medium.size) else 1)
        is_unsigned &= array.dtype.kind == "u"
        mask = decode_mask(files[truth.members[0]], truth.members[0])
        is_marked = (mask > 0) & (mask != truth.unmarked)
        is_marked = is_marked if mask.ndim == len(medium.size) else is_marked.any(0)
        if medium.unit == "HU":
            marked.append(array[is_marked])
    values = np.concatenate(marked) if marked else np.empty(0)
    if len(values):
        low, high = np.percentile(values, CLIPPED)
        if low < high:
            scaled = (np.clip(values, low, high) - low) / (high - low)
            of = {"mean": [round(float(scaled.mean()), 4)], "std": [round(float(scaled.std()), 4)]}
            return channels, {"window": [round(float(low), 1), round(float(high), 1)], **of}
    return channels, {} if is_unsigned else {"percentiles": list(CLIPPED)}


def _require_spacings(media: list[Medium], place: str) -> bool:
    """Whether spacings are known. Raises DataError for volumes without one, and if only some media have one."""
    known = sum(each.spacing_mm is not None for each in media)
    if known == len(media) or (not known and len(media[0].size) == 2):
        return bool(known)
    raise DataError(f"{place}: {len(media) - known} of {len(media)} media have no spacing; set it in the card")


def _read_masks(shards: Any) -> Iterator[Found]:
    for number in range(shards.count("train")):
        sample, _ = shards.read("train", number)
        question = next((q for q in sample.questions if q.truth.members), None)
        if question is not None:
            yield sample, question, number


@contextmanager
def _open(place: str, say: Callable[[str], None]) -> Iterator[tuple[Any, dict[str, str]]]:
    """The shards, and what a recipe says of the source."""
    from medvlm.commands.pack import pack
    from medvlm.io.opening import open_shards

    card, is_card, root = place.partition("=")
    if not is_card:
        yield open_shards(place), {"card": f"{place.rstrip('/')}/card.yaml", "shards": place}
        return
    with TemporaryDirectory(prefix="medvlm-fingerprint-") as folder:
        out = Path(folder) / "shards"
        pack(card, Path(root), out, None, 0.01, None, say)
        yield open_shards(out), {"card": card, "root": root}


def _say(numbers: tuple[float, ...]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)
