"""Queries of anatomical regions against formulas in float64, with loops over images, regions and clauses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, logsigmoid

from medvlm.core.geometry import resize
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.core.terminology import Terminology
from medvlm.objectives.joint import anatomy
from medvlm.objectives.joint._base import Ranks, stack_read
from medvlm.stages._joint_terms import find_boxes
from tests.objectives.test_joint import ALONE, CONCEPTS, N, item, make, see

REGIONS = Terminology(
    version="1", entries={"heart": ("cardiac silhouette",), "lung": ("lungs",), "spine": ("vertebrae",)}
)
FINDINGS = Terminology(version="1", entries={"edema": ("wet lungs on both sides",), "mass": ("a mass in one lung",)})
NAMES = ("places", "clauses", "whole")
TEXTS = [
    "The heart is large. Lungs are clear. No fracture of the spine.",
    "lungs are clear.",
    "Nothing is seen.",
    "The vertebrae are intact; the heart and the lungs are fine.",
]


def build(**settings: Any) -> anatomy.Anatomy:
    small = {"width": 8, "layers": 1, "heads": 2, "most": 2, "clause_tokens": 9, "opposed": 0.5, "of": "state"}
    return make(anatomy, regions=REGIONS, findings=FINDINGS, **{**small, **settings})  # type: ignore[no-any-return]


def read_all(term: anatomy.Anatomy) -> dict[str, torch.Tensor]:
    read = stack_read([term.read(item(text, seed=n)) for n, text in enumerate(TEXTS)])
    if "places" in read:
        read["places"][1, 1] = torch.tensor([0.5, 0.0, 0.9, 0.2])
        read["places"][3] = -1
    if "wanted" in read:
        read["wanted"] = torch.tensor([[1, -1], [-1, -1], [0, 1], [-2, 0]])
    return read


def decode(term: Any, patches: torch.Tensor) -> torch.Tensor:
    """The regions of one image."""
    x, memory = term.queries, term.patches(patches)
    for layer in term.decoder.layers:
        x = x + layer.self_attn(*3 * (layer.norm1(x),), need_weights=False)[0]
        x = x + layer.multihead_attn(layer.norm2(x), memory, memory, need_weights=False)[0]
        x = x + layer.linear2(layer.linear1(layer.norm3(x)).relu())
    return term.decoder.norm(x)  # type: ignore[no-any-return]


def expect_boxes(term: Any, seen: Any, read: dict[str, torch.Tensor]) -> torch.Tensor:
    from torchvision.ops import generalized_box_iou

    losses = []
    for n in range(N):
        told = term.place(decode(term, seen.patches_NRE[n])).sigmoid()
        for q in range(3):
            x1, y1, x2, y2 = box = read["places"][n, q].double()
            if x2 < 0:
                continue
            cx, cy, w, h = told[q]
            corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
            right = torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
            giou = generalized_box_iou(corners[None], box[None])[0, 0]
            losses.append(5 * (told[q] - right).abs().sum() + 2 * (1 - giou))
    return torch.stack(losses).mean()


def expect_clauses(term: Any, seen: Any, read: dict[str, torch.Tensor]) -> torch.Tensor:
    def embed(ids: torch.Tensor) -> torch.Tensor:
        known = torch.where(ids < 0, 0, ids)
        return term.clause(seen.embed(known[None], (ids >= 0)[None].long())[0])  # type: ignore[no-any-return]

    regions, clauses, said, wrong = [], [], [], []
    for n in range(N):
        told, mean = decode(term, seen.patches_NRE[n]), seen.patches_NRE[n].mean(0)
        for k, region in enumerate(read["whose"][n].tolist()):
            if read["is_opposed"][n, k]:
                wrong.append(embed(read["opposites"][n, k]))
            if region >= 0:
                regions.append(term.region(torch.cat([told[region], mean])))
                clauses.append(embed(read["clauses"][n, k]))
                said.append(int(read["said"][n, k]))
    scale, total = term.log_scale.exp()[0], torch.zeros((), dtype=torch.float64)

    def compare(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return scale * cosine_similarity(a, b, dim=0)

    for i in range(len(said)):
        right = [j for j in range(len(said)) if said[j] == said[i]]
        rows = torch.stack([compare(regions[i], text) for text in [*clauses, *wrong]]).log_softmax(0)
        columns = torch.stack([compare(region, clauses[i]) for region in regions]).log_softmax(0)
        total = total - sum(rows[j] + columns[j] for j in right) / len(right) / 2
    return total / len(said)


def expect_labels(term: Any, seen: Any, read: dict[str, torch.Tensor]) -> torch.Tensor:
    findings, losses = term.finding(seen.embed(term.ids_FT, term.mask_FT)), []
    for n in range(N):
        for f in range(2):
            if read["wanted"][n, f] >= 0:
                cosine = cosine_similarity(term.image(seen.pooled_NE[n]), findings[f], dim=0)
                logit = term.label_scale.exp()[0] * cosine + term.label_bias[0]
                losses.append(-logsigmoid(logit if read["wanted"][n, f] else -logit))
    return torch.stack(losses).mean()


@pytest.mark.parametrize(
    ("name", "expect"), [("places", expect_boxes), ("clauses", expect_clauses), ("whole", expect_labels)]
)
def test_a_loss_and_its_gradient_are_those_of_loops(name: str, expect: Any) -> None:
    term, seen = build(), see()
    read = read_all(term)
    weights = term.weigh(read, N)
    loss = term.add_up(ALONE, term(seen, read), CONCEPTS)[name] / weights[name]
    expected = expect(term, seen, read)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    inputs = [seen.patches_NRE, seen.pooled_NE, *term.parameters()]
    slopes: list[Any] = [torch.autograd.grad(x, inputs, allow_unused=True) for x in (loss, expected)]
    assert any(slope is not None and slope.abs().max() > 0 for slope in slopes[1])
    for a, b in zip(*slopes, strict=True):
        zero = torch.zeros(1, dtype=torch.float64)
        a, b = (zero if each is None else each for each in (a, b))
        torch.testing.assert_close(a, b.expand_as(a) if not b.any() else b, rtol=1e-5, atol=1e-8)


def test_two_ranks_add_up_to_the_loss_of_the_joint_batch() -> None:
    """What they would gather is given to each by hand."""
    term, seen = build(), see()
    read = read_all(term)
    outputs = term(seen, read)
    whole = term.add_up(ALONE, outputs, CONCEPTS)
    parts = []
    for rank in (0, 1):
        own = {k: v.chunk(2)[rank] if v.ndim else v for k, v in outputs.items()}
        every = iter([outputs[k] for k in ("region", "clause", "opposite", "is_clause", "is_opposed", "said")])
        ranks = Ranks(rank, lambda *tensors: tuple(next(every) for _ in tensors), lambda n: n)  # noqa: B023
        parts.append(term.add_up(ranks, own, CONCEPTS[:2]))
    for name in NAMES:
        assert sum(part[name].item() for part in parts) == pytest.approx(whole[name].item(), rel=1e-9)


def test_clauses_are_of_the_regions_that_they_name() -> None:
    term, drawn = build(opposed=0.0), set()
    for seed in range(40):
        read = term.read(item(TEXTS[0], seed=seed))
        assert read["whose"].unique().numel() == 2, "each of another region"
        drawn |= set(zip(read["whose"].tolist(), read["said"].tolist(), strict=True))
    clauses = ["The heart is large.", "Lungs are clear.", "No fracture of the spine."]
    assert drawn == {(n, anatomy.hash_text(text)) for n, text in enumerate(clauses)}
    last = term.read(item(TEXTS[3]))
    assert sorted(last["whose"].tolist()) in ([0, 1], [0, 2], [1, 2])
    assert term.read(item(TEXTS[2]))["whose"].tolist() == [-1, -1]
    assert anatomy.hash_text(" lungs  ARE clear.") == anatomy.hash_text("Lungs are clear.")


def test_opposites_of_clauses() -> None:
    assert anatomy.oppose("No fracture of the spine.") == "fracture of the spine."
    assert anatomy.oppose("The heart is not large.") == "The heart is large."
    assert anatomy.oppose("Lungs are clear.") == "no Lungs are clear."
    assert anatomy.cut([1, 5, 6, 7, 2], 4) == [1, 5, 6, 2] and anatomy.cut([1, 2], 4) == [1, 2]


def test_a_batch_without_anything_to_tell_has_no_loss_but_a_gradient_of_zeros() -> None:
    term, seen = build(), see()
    read = stack_read([term.read(item("Nothing is seen."))] * N)
    read["places"][:] = -1
    losses = term.add_up(ALONE, term(seen, read), CONCEPTS)
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(not loss.any() for loss in losses.values()) and set(term.weigh(read, N).values()) == {0}
    assert all(p.grad is not None and not p.grad.any() for p in term.parameters())


def test_a_loss_that_does_not_count_is_left_out_with_its_parts() -> None:
    for name, part in (("places", "place"), ("clauses", "region"), ("whole", "image")):
        term = build(**{name: 0.0})
        read = read_all(term)
        assert name not in term.weigh(read, N) and name not in term.add_up(ALONE, term(see(), read), CONCEPTS)
        assert hasattr(build(), part) and not hasattr(term, part)
    with pytest.raises(ValueError, match="whole needs `findings` and `of`"):
        anatomy.Config(kind="anatomy", regions=REGIONS)


def test_boxes_are_shares_of_what_the_encoder_sees() -> None:
    boxes = ((10.0, 20.0, 30.0, 60.0),)
    truths = [
        make_truth("boxes", boxes=boxes, label="heart"), make_truth("count", "1", count=1, boxes=boxes, label="heart"),
        make_truth("boxes", boxes=((0.0, 0.0, 5.0, 5.0),), label="lung"),
        make_truth("choice", "yes", choices=("yes", "no")),
    ]  # fmt: skip
    questions = tuple(Question("?", truth, f"t{n}") for n, truth in enumerate(truths))
    sample = Sample("k", "s", "train", (Medium("film", "0.png", (80, 40)),), questions=questions)
    found = find_boxes(sample, resize((80, 40), (16, 16)), "heart")
    assert np.allclose(found, [(0.25, 0.25, 0.75, 0.75)]) and len(found) == 1
    assert find_boxes(sample, None, "heart") == [] and find_boxes(sample, resize((80, 40), (16, 16)), "spine") == []
    read = build().read(item("x"))
    assert read["places"][0].tolist() == pytest.approx([0.3, 0.4, 0.7, 0.9]), "the heart"
    assert (read["places"][1:] == -1).all(), "two boxes of the lung: which one is meant is not known"
