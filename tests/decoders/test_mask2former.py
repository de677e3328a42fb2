"""A set of masks: network, losses and answers against the class of transformers, and that it learns a mask."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medvlm.core.contracts import Features, Level
from medvlm.core.decoder_config import MISSING, join_background
from medvlm.core.errors import ShapeError
from medvlm.core.mask_sets import pack, unpack
from medvlm.decoders import mask2former
from medvlm.objectives.heads import set_classes, set_masks

CLASSES = ("nodule", "clip")
SIZE = (64, 96)
GRIDS = ((16, 24), (8, 12), (4, 6), (2, 3))
LEVELS = tuple(Level(width, grid) for width, grid in zip((8, 16, 32, 64), GRIDS, strict=True))
SMALL = {"width": 32, "heads": 2, "layers": 2, "mlp": 16, "pixel_layers": 1, "pixel_mlp": 16, "queries": 5}


def config_of(**settings: Any) -> Any:
    return mask2former.Config.model_validate({"kind": "mask2former", "classes": CLASSES, **SMALL, **settings})


def build(config: Any, levels: tuple[Level, ...] = LEVELS) -> Any:
    torch.manual_seed(0)
    return mask2former.build(config, 8, levels[0].grid, (3, *SIZE), levels)


def see(levels: tuple[Level, ...] = LEVELS, count: int = 2) -> Features:
    generator = torch.Generator().manual_seed(1)
    maps = tuple(torch.randn(count, each.width, *each.grid, generator=generator).requires_grad_() for each in levels)
    return Features(maps[0].flatten(2).transpose(1, 2), maps[0].flatten(2).mean(2), levels[0].grid, maps)


def make_labels() -> torch.Tensor:
    """The first image shows both classes, the second one none. Blocks of 4 pixels, as those of the masks."""
    labels = torch.zeros(2, *SIZE, dtype=torch.long)
    labels[0, 8:32, 16:40], labels[0, 40:60, 60:92] = 1, 2
    return labels


def make_published(config: Any) -> Any:
    """transformers' model with our levels in place of its encoder, and its loss over all places of the masks."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    stages = [f"stage{number}" for number in range(1, 5)]
    swin = SwinConfig(embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, out_features=stages)
    W, places = config.width, GRIDS[0][0] * GRIDS[0][1]
    settings = Mask2FormerConfig(
        backbone_config=swin, feature_size=W, mask_feature_size=W, hidden_dim=W, num_attention_heads=2,
        encoder_layers=1, encoder_feedforward_dim=16, decoder_layers=3, dim_feedforward=16, num_queries=5,
        num_labels=3, train_num_points=places, oversample_ratio=1.0, importance_sample_ratio=1.0,
    )  # fmt: skip
    torch.manual_seed(2)
    return Mask2FormerForUniversalSegmentation(settings)


def copy_weights(decoder: Any, published: Any) -> None:
    decoder.pixels.load_state_dict(published.model.pixel_level_module.decoder.state_dict())
    decoder.queries.load_state_dict(published.model.transformer_module.state_dict())
    decoder.classify.load_state_dict(published.class_predictor.state_dict())


def test_masks_losses_and_gradients_are_those_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The points that the library draws by chance are the centres of all places here."""
    config = config_of()
    decoder, published = build(config).train(), make_published(config)
    copy_weights(decoder, published)
    ours, theirs = see(), see()
    found = decoder(ours)
    backbone = published.model.pixel_level_module
    seen = SimpleNamespace(feature_maps=theirs.levels)
    monkeypatch.setattr(backbone.encoder, "forward", lambda pixels, **_: seen)
    y, x = ((torch.arange(n) + 0.5) / n for n in GRIDS[0])
    centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(1, -1, 2)
    monkeypatch.setattr(torch, "rand", lambda count, points, two, **_: centres[:, :points].repeat(count, 1, 1))
    labels = make_labels()
    small = labels[:, ::4, ::4]
    of = [own.unique() for own in small]
    truth = [(own == own.unique()[:, None, None]).float() for own in small]
    expected = published(torch.zeros(2, 3, *SIZE), mask_labels=truth, class_labels=of)
    told, masks, size = unpack(found[0], 3)
    assert size == SIZE
    torch.testing.assert_close(told, expected.class_queries_logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(masks, expected.masks_queries_logits, rtol=1e-4, atol=1e-5)
    total = torch.zeros(())
    for output in found:
        wide = unpack(output, 3)
        packed = pack(wide.told, wide.masks, GRIDS[0])  # labels at the size of the masks, as the library has them
        for module in (set_classes, set_masks):
            loss = module.Config(kind=module.__name__.rpartition(".")[2])
            total = total + loss.weight * module.add_up(loss, packed, small, config) / module.weigh(loss, small, config)
    torch.testing.assert_close(total, expected.loss.squeeze(), rtol=1e-5, atol=1e-5)
    for mine, other in zip(
        torch.autograd.grad(total, [*ours.levels, *decoder.parameters()]),
        torch.autograd.grad(
            expected.loss.squeeze(),
            [
                *theirs.levels,
                *backbone.decoder.parameters(),
                *published.model.transformer_module.parameters(),
                *published.class_predictor.parameters(),
            ],
        ),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4 * max(1.0, float(other.abs().max())))


def test_answers_are_those_of_the_librarys_semantic_segmentation() -> None:
    from transformers import Mask2FormerImageProcessor

    config = config_of()
    decoder = build(config).eval()
    packed = decoder(see())
    told, masks, _ = unpack(packed, 3)
    answers = mask2former.to_answers(config, packed)
    large = torch.nn.functional.interpolate(masks, size=SIZE, mode="bilinear", align_corners=False)
    expected = torch.einsum("nqc,nqhw->nchw", told.softmax(2)[..., :-1], large.sigmoid())
    torch.testing.assert_close(answers, expected / expected.sum(1, keepdim=True))
    outputs = SimpleNamespace(class_queries_logits=told, masks_queries_logits=masks)
    theirs = Mask2FormerImageProcessor().post_process_semantic_segmentation(outputs, [SIZE] * 2)
    same = (answers.argmax(1) == torch.stack(theirs)).float().mean()
    assert same > 0.97, "the library interpolates twice"
    many = mask2former.to_answers(config_of(exclusive=False, classes=("a", "b", "c")), packed)
    assert many.max() <= 1 and mask2former.to_answers(config, packed[:0]).shape[:2] == (0, 3)


def loss_of(labels: torch.Tensor, packed: torch.Tensor, config: Any) -> torch.Tensor:
    values = []
    for module in (set_classes, set_masks):
        loss = module.Config(kind=module.__name__.rpartition(".")[2])
        values.append(module.add_up(loss, packed, labels, config))
    return torch.stack(values)


def test_what_nobody_labelled_counts_for_nothing() -> None:
    """Pixels without a label; and a query is not told to be nothing where it may be of a class that the mask does not
    speak of, or of the background."""
    config = config_of()
    packed = build(config).eval()(see()).detach().requires_grad_()
    labels = make_labels()
    part = labels.clone()
    part[0, :, 64:] = MISSING
    (slope,) = torch.autograd.grad(loss_of(part, packed, config)[1], packed)
    masks = slope[..., 4:-4].unflatten(2, GRIDS[0])
    assert masks[0, :, :, :15].any() and not masks[0, :, :, 17:].any() and masks[1, :, :, 17:].any()
    assert not loss_of(torch.full_like(labels, MISSING), packed, config).any()
    open_one = labels.clone()
    open_one[0][labels[0] != 1] = join_background([1])
    told = unpack(packed, 3).told[0].detach()
    one = open_one[:1]
    assert set_masks.weigh(set_masks.Config(kind="set_masks"), one, config) == 1
    found = set_classes.add_up(set_classes.Config(kind="set_classes"), packed[:1], one, config)
    by_hand = []
    for query in range(5):  # whichever query is matched
        sure = told.log_softmax(1)
        rest = [each for each in range(5) if each != query]
        by_hand.append(-sure[query, 1] - 0.1 * sure[rest][:, [0, 2, 3]].logsumexp(1).sum())
    assert any(torch.allclose(found, each) for each in by_hand)


def test_of_planes_that_overlap_each_is_a_segment() -> None:
    config = config_of(exclusive=False)
    decoder = build(config).eval()
    packed = decoder(see())
    planes = torch.zeros(2, 2, *SIZE, dtype=torch.long)
    planes[0, 0, 8:32, 16:40] = planes[0, 1, 20:40, 20:50] = 1
    planes[1, 1] = MISSING
    masks, classes = set_masks.Config(kind="set_masks"), set_classes.Config(kind="set_classes")
    assert set_masks.weigh(masks, planes, config) == 2
    assert set_classes.weigh(classes, planes, config) == pytest.approx(2 + 0.1 * 3 + 0.1 * 5)
    free = unpack(packed, 2).told[1].log_softmax(1)[:, [1, 2]].logsumexp(1)
    none = set_classes.add_up(classes, packed[1:], planes[1:], config)
    torch.testing.assert_close(none, -0.1 * free.sum())


def test_all_layers_are_side_outputs_and_every_parameter_is_reached() -> None:
    for levels in (LEVELS, LEVELS[1:]):
        config = config_of()
        decoder = build(config, levels).train()
        out = decoder(see(levels))
        assert len(out) == 1 + len(decoder.sides) == 3
        torch.stack([loss_of(make_labels(), each, config).sum() for each in out]).sum().backward()
        without = [name for name, p in decoder.named_parameters() if p.grad is None]
        assert not without, without
    with pytest.raises(ShapeError, match="at least three levels"):
        build(config_of(), LEVELS[2:])
    with pytest.raises(ValueError, match="2 masks are fewer than the 3 segments"):
        config_of(queries=2)
    config_of(queries=2, exclusive=False)
    with pytest.raises(ShapeError, match="takes volumes"):
        mask2former.facts(config_of(), 8, (2, 4, 4), (1, 8, 32, 32))


def test_a_published_decoder_is_read(tmp_path: Any) -> None:
    config = config_of()
    published = make_published(config)
    published.save_pretrained(tmp_path)
    found = build(config_of(model=str(tmp_path))).eval()
    expected = build(config).eval()
    copy_weights(expected, published)
    expected.classify.load_state_dict(found.classify.state_dict())
    torch.testing.assert_close(found(see()), expected(see()))


@pytest.mark.slow
def test_it_learns_where_a_nodule_is() -> None:
    """Disks of two brightnesses on levels that are means of the pixels. A network that gives one mask for all, or the
    same class to all, stays below."""
    config = config_of(pixel_layers=1, layers=2)
    grids = ((16, 16), (8, 8), (4, 4))
    levels = tuple(Level(1, grid) for grid in grids)
    torch.manual_seed(0)
    decoder = mask2former.build(config, 1, grids[0], (1, 64, 64), levels).train()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=2e-3)
    rng = np.random.default_rng(0)

    def draw(count: int) -> tuple[Features, torch.Tensor]:
        labels = torch.zeros(count, 64, 64, dtype=torch.long)
        y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
        for own in labels:
            for number in (1, 2):
                at, radius = rng.integers(12, 52, 2), rng.integers(6, 12)
                own[(y - at[0]) ** 2 + (x - at[1]) ** 2 < radius**2] = number
        pixels = torch.tensor([0.0, 1.0, -1.0])[labels][:, None] + 0.1 * torch.from_numpy(
            rng.standard_normal((count, 1, 64, 64))
        )
        maps = tuple(torch.nn.functional.adaptive_avg_pool2d(pixels.float(), grid) for grid in grids)
        return Features(maps[0].flatten(2).transpose(1, 2), maps[0].flatten(2).mean(2), grids[0], maps), labels

    for _ in range(120):
        seen, labels = draw(4)
        weights = torch.tensor([2 / (3 + 0.2), 1 / 3])  # of a sample with three segments and two queries of nothing
        total = torch.stack([(weights * loss_of(labels, each, config)).sum() for each in decoder(seen)]).sum() / 4
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    seen, labels = draw(16)
    found = mask2former.to_answers(config, decoder.eval()(seen)).argmax(1)
    for number in (1, 2):
        there, marked = labels == number, found == number
        dice = 2 * (there & marked).sum() / (there.sum() + marked.sum())
        assert dice > 0.75, (number, dice)
