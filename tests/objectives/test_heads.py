"""Losses of decoders against torch and MONAI, forward and gradient, with labels that are missing."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from medvlm.core.config import component, kinds, permit
from medvlm.core.decoder_config import MISSING, UNCERTAIN, PromptedConfig, join_background
from medvlm.core.mask_sets import pack

N, K = 5, 3
CLASSES = ("edema", "effusion", "fracture")
SEED = torch.Generator()
SIZES: list[tuple[int, ...]] = [(), (6, 7), (3, 4, 5)]


def decoder_of(exclusive: bool) -> Any:
    return component("decoders", "linear").Config(kind="linear", classes=CLASSES, exclusive=exclusive)


def loss_of(kind: str, logits: torch.Tensor, labels: torch.Tensor, exclusive: bool, **settings: Any) -> torch.Tensor:
    module, decoder = component("objectives.heads", kind), decoder_of(exclusive)
    config = module.Config(kind=kind, **settings)
    total: torch.Tensor = module.add_up(config, logits, labels, decoder)
    return total / module.weigh(config, labels, decoder)


def drawn(size: tuple[int, ...], exclusive: bool, missing: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels; `missing` is the share of labels that are not there."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(N, K, *size, generator=generator)
    shape = (N, *size) if exclusive else (N, K, *size)
    labels = torch.randint(0, K if exclusive else 2, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < missing] = MISSING
    return logits.requires_grad_(), labels


def check_same(
    logits: torch.Tensor, ours: Callable[[torch.Tensor], torch.Tensor], theirs: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Value and gradient to 1e-6; theirs in float64."""
    mine, other = (logits.detach().clone().to(dtype).requires_grad_() for dtype in (torch.float32, torch.float64))
    value, expected = ours(mine), theirs(other)
    value.backward()
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), abs=1e-6, rel=1e-6)
    assert mine.grad is not None and other.grad is not None
    torch.testing.assert_close(mine.grad.double(), other.grad, atol=1e-6, rtol=0)
    assert mine.grad.any()


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_cross_entropy_is_torchs_over_the_labels_that_are_there(size: tuple[int, ...], missing: float) -> None:
    logits, labels = drawn(size, True, missing)
    check_same(
        logits,
        lambda x: loss_of("cross_entropy", x, labels, True),
        lambda x: cross_entropy(x, labels, ignore_index=MISSING),
    )


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_binary_cross_entropy_is_torchs_over_the_labels_that_are_there(size: tuple[int, ...], missing: float) -> None:
    logits, labels = drawn(size, False, missing)
    known = labels != MISSING
    check_same(
        logits,
        lambda x: loss_of("binary_cross_entropy", x, labels, False),
        lambda x: binary_cross_entropy_with_logits(x[known], labels[known].double()),
    )


@pytest.mark.parametrize("smooth", [1e-5, 1.0])
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("size", SIZES[1:], ids=str)
def test_dice_is_monais(size: tuple[int, ...], background: bool, smooth: float) -> None:
    from monai.losses import DiceLoss

    logits, labels = drawn(size, True)
    theirs = DiceLoss(include_background=background, to_onehot_y=True, softmax=True, smooth_nr=smooth, smooth_dr=smooth)
    check_same(
        logits,
        lambda x: loss_of("dice", x, labels, True, background=background, smooth=smooth),
        lambda x: theirs(x, labels[:, None]),
    )
    logits, labels = drawn(size, False)
    each = DiceLoss(sigmoid=True, smooth_nr=smooth, smooth_dr=smooth)
    check_same(logits, lambda x: loss_of("dice", x, labels, False, smooth=smooth), lambda x: each(x, labels.double()))


@pytest.mark.parametrize("exclusive", [True, False])
def test_dice_with_ignored_pixels_is_the_dice_of_the_other_pixels(exclusive: bool) -> None:
    """The same columns are ignored in all samples, so that what is left is an image again."""
    logits, labels = drawn((6, 7), exclusive)
    ignored = labels.clone()
    ignored[..., 4:] = MISSING
    check_same(
        logits,
        lambda x: loss_of("dice", x, ignored, exclusive),
        lambda x: loss_of("dice", x[..., :4], labels[..., :4], exclusive),
    )


def test_dice_of_a_class_that_nobody_predicts_and_nobody_marked_is_no_loss() -> None:
    logits = torch.full((1, 2, 4, 4), -20.0)
    nothing = torch.zeros(1, 2, 4, 4, dtype=torch.long)
    assert loss_of("dice", logits, nothing, False).item() == pytest.approx(0, abs=1e-6)
    assert loss_of("dice", -logits, nothing, False).item() == pytest.approx(1 - 1 / 17, abs=1e-6)


# --- classes that are rare, uncertain or easy --------------------------------------------------------


OPEN = [(None, -1.0), (1.0, 1.0), (0.0, 0.0), (0.7, 0.7)]
"""Setting -> what an uncertain label counts as; -1: nothing."""


@pytest.mark.parametrize(("setting", "share"), OPEN)
@pytest.mark.parametrize("size", SIZES[:2], ids=str)
def test_uncertain_labels_count_as_the_recipe_says(size: tuple[int, ...], setting: Any, share: float) -> None:
    logits, labels = drawn(size, False, 0.3)
    labels[labels == 1] -= 3 * (torch.rand(labels[labels == 1].shape, generator=SEED.manual_seed(1)) < 0.5).long()
    assert (labels == UNCERTAIN).any() and (labels == MISSING).any()
    wanted = torch.where(labels == UNCERTAIN, share, labels.double())
    known = wanted >= 0
    check_same(
        logits,
        lambda x: loss_of("binary_cross_entropy", x, labels, False, uncertain=setting),
        lambda x: binary_cross_entropy_with_logits(x[known], wanted[known]),
    )
    check_same(
        logits,
        lambda x: loss_of("focal", x, labels, False, uncertain=setting),
        lambda x: focal_of_sigmoids(x[known], wanted[known], 2.0),
    )


def test_uncertain_labels_count_differently_in_each_class() -> None:
    """U-Ones for one class, U-Zeros for another, ignored for the third."""
    logits, labels = torch.randn(4, 3, generator=SEED.manual_seed(0)), torch.full((4, 3), UNCERTAIN)
    found = loss_of("binary_cross_entropy", logits, labels, False, uncertain={"edema": 1.0, "effusion": 0.0})
    wanted = torch.tensor([[1.0, 0.0]]).expand(4, 2)
    torch.testing.assert_close(found, binary_cross_entropy_with_logits(logits[:, :2], wanted))


def test_labels_are_smoothed_as_torch_does() -> None:
    logits, labels = drawn((), True, 0.4)
    check_same(
        logits,
        lambda x: loss_of("cross_entropy", x, labels, True, smoothing=0.2),
        lambda x: cross_entropy(x, labels, ignore_index=MISSING, label_smoothing=0.2),
    )
    logits, labels = drawn((), False, 0.4)
    known = labels != MISSING
    check_same(
        logits,
        lambda x: loss_of("binary_cross_entropy", x, labels, False, smoothing=0.2),
        lambda x: binary_cross_entropy_with_logits(x[known], labels[known].double() * 0.8 + 0.1),
    )


COUNTS = (10, 100, 1000)
EFFECTIVE = [(1 - 0.99**n) / 0.01 for n in COUNTS]


@pytest.mark.parametrize(("beta", "sizes"), [(None, COUNTS), (0.99, EFFECTIVE)])
@pytest.mark.parametrize("size", SIZES[:2], ids=str)
def test_rare_classes_weigh_more(size: tuple[int, ...], beta: float | None, sizes: Any) -> None:
    """As torch weighs them: the mean is over the weights, so a factor on all of them changes nothing."""
    logits, labels = drawn(size, True, 0.3)
    names = CLASSES if not size else ("background", *CLASSES)
    counts = dict(zip(names, (*COUNTS, 5), strict=False))
    sizes = [*sizes, 5.0 if beta is None else (1 - 0.99**5) / 0.01][: len(names)]
    logits = torch.cat([logits, logits[:, :1].flip(0)], 1).detach() if size else logits
    weights = 1 / torch.tensor(sizes, dtype=torch.float64)
    balance = {"counts": counts, "beta": beta}
    check_same(
        logits,
        lambda x: loss_of("cross_entropy", x, labels, True, balance=balance),
        lambda x: cross_entropy(x, labels, weight=weights, ignore_index=MISSING),
    )


def test_rare_findings_weigh_more_where_they_are_there() -> None:
    logits, labels = drawn((), False, 0.3)
    counts = {name: (n, 1000) for name, n in zip(CLASSES, COUNTS, strict=True)}
    known = labels != MISSING
    weights = torch.tensor([1000 / n for n in COUNTS], dtype=torch.float64)
    check_same(
        logits,
        lambda x: loss_of("binary_cross_entropy", x, labels, False, balance={"counts": counts}),
        lambda x: binary_cross_entropy_with_logits(
            x, labels.clamp(min=0).double(), pos_weight=weights, reduction="none"
        )[known].mean(),
    )


@pytest.mark.parametrize("gamma", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("size", SIZES[:2], ids=str)
def test_focal_is_that_of_torchvision_and_of_its_equation(size: tuple[int, ...], gamma: float) -> None:
    from torchvision.ops import sigmoid_focal_loss

    logits, labels = drawn(size, False, 0.3)
    known = labels != MISSING
    check_same(
        logits,
        lambda x: loss_of("focal", x, labels, False, gamma=gamma),
        lambda x: sigmoid_focal_loss(x[known], labels[known].double(), alpha=-1, gamma=gamma, reduction="mean"),
    )
    logits, labels = drawn(size, True, 0.3)
    there = labels != MISSING

    def reference(x: torch.Tensor) -> torch.Tensor:
        share = x.softmax(1).movedim(1, -1)[there].gather(1, labels[there][:, None])
        return (-((1 - share) ** gamma) * share.log()).mean()

    check_same(logits, lambda x: loss_of("focal", x, labels, True, gamma=gamma), reference)


def test_focal_of_certain_predictions_has_a_finite_gradient() -> None:
    logits = torch.tensor([[300.0, -300.0, 0.0]], requires_grad=True)
    loss_of("focal", logits, torch.tensor([[1, 0, 1]]), False, gamma=1.0).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    logits = torch.tensor([[300.0, -300.0, 0.0]], requires_grad=True)
    loss_of("focal", logits, torch.tensor([0]), True, gamma=1.0).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def focal_of_sigmoids(x: torch.Tensor, wanted: torch.Tensor, gamma: float) -> torch.Tensor:
    p = x.sigmoid()
    losses = -wanted * (1 - p) ** gamma * p.log() - (1 - wanted) * p**gamma * (1 - p).log()
    return losses.mean()


@pytest.mark.parametrize(
    ("kind", "exclusive", "settings", "message"),
    [
        ("binary_cross_entropy", False, {"uncertain": {"edemas": 1.0}}, "uncertain has 'edemas', did you mean 'edema'"),
        ("focal", True, {"uncertain": 1.0}, "labels of exclusive classes are never uncertain"),
        ("cross_entropy", True, {"balance": {"counts": {"edema": 3}}}, "counts lacks 'effusion'; expected a count of"),
        (
            "cross_entropy",
            True,
            {"balance": {"counts": dict.fromkeys((*CLASSES, "fractur"), 3)}},
            "has 'fractur', did you mean 'fracture'",
        ),
        (
            "focal",
            False,
            {"balance": {"counts": dict.fromkeys(CLASSES, 3)}},
            r"counts\.edema: expected \[how many have it, how many do not\]",
        ),
    ],
)
def test_settings_that_do_not_fit_the_classes_are_refused(
    kind: str, exclusive: bool, settings: dict[str, Any], message: str
) -> None:
    module = component("objectives.heads", kind)
    assert re.search(message, module.refuse(module.Config(kind=kind, **settings), decoder_of(exclusive), "scores"))


# --- what every loss keeps ----------------------------------------------------------------------------


def draw_for(decoder: Any, output: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of a decoder. Some labels are missing, if those of this form can be; those of the first row
    are. Of exclusive masks, one does not speak of all classes."""
    count = len(decoder.classes)
    if output in ("scores", "maps", "conditional_scores"):
        logits, labels = drawn((6, 7) if output == "maps" else (), decoder.exclusive, missing=0.3)
        labels[0] = MISSING
        if output == "maps" and decoder.exclusive:  # the mask of the second row speaks of the first class alone
            labels[1][(labels[1] == 0) | (labels[1] == 2)] = join_background([1])
        return logits, labels
    generator = torch.Generator().manual_seed(0)
    shape = component("decoders", decoder.kind).facts(decoder, None, None, None).shape
    if output == "anchors":  # four of 8 pixels in a row; the first row has no object
        anchors = torch.tensor([[0.0, 8 * n, 8, 8 * n + 8] for n in range(4)])
        found = torch.cat([torch.randn(N, 4, count + 4, generator=generator), anchors.expand(N, -1, -1)], 2)
        objects = torch.full((N, 3, 5), float(MISSING))
        objects[1:, 0] = torch.tensor([1.0, 0, 1, 7, 9])
        objects[2:, 2] = torch.tensor([0.0, 1, 18, 8, 25])
        return found.requires_grad_(), objects
    if output == "box_set":  # boxes in shares of 32 x 40 pixels
        size = torch.tensor([32.0, 40]).expand(N, 4, 2)
        boxes = torch.rand(N, 4, 4, generator=generator)
        found = torch.cat([torch.randn(N, 4, count, generator=generator), boxes, size], 2)
        objects = torch.full((N, 3, 5), float(MISSING))
        objects[1:, 0] = torch.tensor([1.0, 0, 1, 7, 9])
        objects[2:, 2] = torch.tensor([0.0, 1, 18, 8, 25])
        return found.requires_grad_(), objects
    if output == "mask_set":  # as of masks, with maps of half the size
        _, labels = draw_for(decoder, "maps")
        told = torch.randn(N, 4, count + decoder.exclusive + 1, generator=generator)
        return pack(told, torch.randn(N, 4, 3, 3, generator=generator), (6, 7)).requires_grad_(), labels
    logits = torch.randn(N, *shape, generator=generator)
    if output == "vectors":
        return torch.nn.functional.normalize(logits, dim=-1).requires_grad_(), torch.tensor([MISSING, 0, 1, 0, 1])
    logits.requires_grad_()
    if decoder.exclusive:
        return logits, torch.randint(0, count, (N,), generator=generator)
    if output == "quantities":
        return logits, torch.randn(N, 1, generator=generator)
    times = torch.tensor([2.0, 2.0, 5.0, 1.0, 4.0])
    return logits, torch.stack([times, torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0])], 1)


DECODERS: list[tuple[str, dict[str, Any]]] = [
    ("linear", {"classes": CLASSES}),
    ("linear", {"classes": CLASSES, "exclusive": False}),
    ("conv_mask", {"classes": CLASSES[:2]}),
    ("conv_mask", {"classes": CLASSES, "exclusive": False}),
    ("fpn", {"classes": CLASSES[:2]}),
    ("monai", {"classes": CLASSES[:2], "net": "SegResNet"}),
    ("module", {"classes": CLASSES, "exclusive": False, "path": "monai.networks.nets.BasicUNet"}),
    ("segformer", {"classes": CLASSES[:2]}),
    ("dual_attention", {"classes": CLASSES[:2]}),
    ("mamba_unet", {"classes": CLASSES[:2]}),
    ("guided_attention", {"classes": CLASSES[:2]}),
    ("mask2former", {"classes": CLASSES[:2], "queries": 4}),
    ("mask2former", {"classes": CLASSES, "exclusive": False, "queries": 4}),
    ("retina", {"classes": CLASSES}),
    ("co_seg", {"classes": CLASSES, "second": CLASSES[:1]}),
    ("grounded", {"classes": CLASSES, "text": {"kind": "transformers", "config": {"model_type": "bert"}}}),
    ("ordinal", {"classes": CLASSES}),
    ("quantity", {"classes": ["age"], "std": 3.0}),
    ("proportional_hazards", {"classes": ["death"]}),
    ("interval_hazards", {"classes": ["death"], "edges": [2.0, 3.0, 4.5]}),
    ("hierarchy", {"classes": CLASSES, "parents": {"effusion": "edema"}}),
    ("unit_vector", {"classes": CLASSES, "width": 4}),
    ("subspaces", {"classes": CLASSES, "width": 4, "learners": 2}),
]


def list_fitting(kind: str) -> list[tuple[Any, str]]:
    """The decoders that a loss suits, with the form of their outputs."""
    module, found = component("objectives.heads", kind), []
    permit(["monai"])
    for name, settings in DECODERS:
        decoder, output = component("decoders", name).Config(kind=name, **settings), component("decoders", name).OUTPUT
        if not module.refuse(module.Config(kind=kind), decoder, output):
            found.append((decoder, output))
    return found


def test_every_decoder_is_listed_here() -> None:
    """But for those that read hidden states of a language model, which are tried in test_draws.py, and those that take
    prompts, in test_prompted_runs.py."""
    others = {kind for kind in kinds("decoders") if getattr(component("decoders", kind), "READS_TOKENS", False)}
    others |= {kind for kind in kinds("decoders") if issubclass(component("decoders", kind).Config, PromptedConfig)}
    assert {name for name, _ in DECODERS} | others == set(kinds("decoders"))


@pytest.mark.parametrize("kind", kinds("objectives.heads"))
def test_a_batch_in_parts_adds_up_to_the_whole(kind: str) -> None:
    """However samples are dealt to ranks and micro-batches, and whatever is missing of them."""
    module, parts = component("objectives.heads", kind), [slice(0, 1), slice(1, 4), slice(4, 5), slice(5, 5)]
    for decoder, output in list_fitting(kind):
        config = module.Config(kind=kind)
        logits, labels = draw_for(decoder, output)
        weights = [module.weigh(config, labels[part], decoder) for part in parts]
        if getattr(module, "JOINT", False):
            totals = [module.add_up(config, logits, labels, decoder, part) for part in parts]
            whole = module.add_up(config, logits, labels, decoder, slice(None))
        else:
            totals = [module.add_up(config, logits[part], labels[part], decoder) for part in parts]
            whole = module.add_up(config, logits, labels, decoder)
        assert weights[3] == totals[3].item() == 0
        assert sum(weights) == pytest.approx(module.weigh(config, labels, decoder))
        torch.testing.assert_close(sum(totals), whole)
        (mine,) = torch.autograd.grad(sum(totals), logits, retain_graph=True)
        torch.testing.assert_close(mine, torch.autograd.grad(whole, logits)[0])
        assert mine[1:].any()
        if output in ("scores", "maps", "mask_set"):
            assert weights[0] == totals[0].item() == 0 and not mine[0].any()


@pytest.mark.parametrize("kind", kinds("objectives.heads"))
def test_every_loss_suits_some_decoder_and_says_what_it_does_not_suit(kind: str) -> None:
    assert 0 < len(list_fitting(kind)) < len(DECODERS)
