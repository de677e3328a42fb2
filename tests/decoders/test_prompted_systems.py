"""Decoders of one paper each on the parts of SAM (CC-SAM, MCP-MedSAM, FLanS): their formulas, and the terms of their
recipes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from medvlm.core.config import component
from medvlm.core.contracts import Features
from medvlm.core.errors import ShapeError
from medvlm.core.mask_prompts import ABOUT, ASKED, Prompts, ReadTexts, TextWidth
from medvlm.data.prompts import Prompt, say, stack_prompts
from medvlm.decoders import cc_sam, flans, mcp_sam
from medvlm.recipe.load import load

SIDE, TEXT = 64, 12
NET = {"net": "test_resnet", "pretrained": False, "allow_unexpected": ()}
SMALL = {"model": "", "width": 32, "heads": 2, "mlp": 16, "layers": 1}


def shrink(tower: Any) -> Any:
    before = tower.preprocess.model_copy(update={"size": (SIDE, SIDE)})
    return tower.model_copy(update={**NET, "preprocess": before})


def read_cc_sam(**settings: Any) -> Any:
    decoder = load("systems/cc_sam.yaml").recipe.model.decoders["lesion"]
    return decoder.model_copy(update={**SMALL, "cnn": shrink(decoder.cnn), **settings})


def read_flans(**settings: Any) -> Any:
    decoder = load("systems/flans.yaml").recipe.model.decoders["organs"]
    return decoder.model_copy(update={**SMALL, "tower": shrink(decoder.tower), "rate_width": 4, **settings})


def read_texts(count: int, seed: int = 5) -> ReadTexts:
    pooled = torch.randn(count, TEXT, generator=torch.Generator().manual_seed(seed))
    return ReadTexts(pooled, pooled[:, None], torch.ones(count, 1))


def ask(forms: list[Prompt], rows: list[int], **read: ReadTexts) -> Prompts:
    return replace(stack_prompts(forms), rows_S=torch.tensor(rows), read=read)


BOXES = [Prompt(0, ("box",), box=(8.0, 8, 40, 30)), Prompt(0, ("box",), box=(20.0, 30, 50, 60))]
MASKS = torch.zeros(2, 1, SIDE, SIDE, dtype=torch.long)
MASKS[0, 0, 8:30, 8:40] = MASKS[1, 0, 30:60, 20:50] = 1


def see(seed: int = 1) -> Features:
    generator = torch.Generator().manual_seed(seed)
    patches, pixels = torch.randn(2, 16, 24, generator=generator), torch.randn(2, 3, SIDE, SIDE, generator=generator)
    return Features(patches, patches.mean(1), (4, 4), pixels=pixels)


def build_cc_sam(config: Any) -> Any:
    torch.manual_seed(0)
    given = {"text_width": TextWidth(TEXT, TEXT)} if config.list_texts() else {}
    made = cc_sam.build(config, 24, (4, 4), (3, SIDE, SIDE), **given)
    if made.fuse is not None:
        torch.nn.init.normal_(made.fuse.close.weight, std=0.2)  # it begins with nothing heard
    return made


def learn_cc_sam(config: Any) -> float:
    torch.manual_seed(7)
    decoder = build_cc_sam(config).train()
    read = {ABOUT: read_texts(2)} if config.about else {}
    prompts = ask(BOXES, [0, 1], **read)
    found = decoder(see(), prompts)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(found[""], MASKS.float())
    terms = [cc_sam.add_up_term(config, name, found, MASKS, prompts) for name in cc_sam.list_terms(config)]
    return float((loss + sum(terms)).detach())


@pytest.mark.parametrize("off", [{}, {"cnn": None}, {"divergence": 0.0}, {"about": {}}])
def test_cc_sam_is_another_without_each_of_its_terms(off: dict[str, Any]) -> None:
    whole = read_cc_sam()
    assert whole.cnn is not None and whole.divergence and whole.about
    assert (learn_cc_sam(whole) == learn_cc_sam(whole.model_copy(update=off))) == (not off)


def test_what_tokens_hear_is_a_gaussian_with_its_divergence() -> None:
    """The KL of torch, the mean in evaluation, and a draw in training with its variance."""
    from torch.distributions import Normal, kl_divergence

    torch.manual_seed(0)
    fuse = cc_sam.VariationalAttention(6, 5)
    torch.nn.init.eye_(fuse.close.weight)
    tokens, places = torch.randn(2, 3, 6), torch.randn(2, 7, 5)
    out, apart = fuse.eval()(tokens, places)
    asked, keys = fuse.ask(fuse.norm(tokens)), fuse.key(fuse.norm_other(places))
    heard = (asked @ keys.transpose(1, 2) / 6**0.5).softmax(2) @ fuse.value(fuse.norm_other(places))
    mean, spread = fuse.mean(heard), (fuse.log_variance(heard) / 2).exp()
    torch.testing.assert_close(out, tokens + mean)
    expected = kl_divergence(Normal(mean, spread), Normal(0.0, 1.0)).flatten(1).mean(1)
    torch.testing.assert_close(apart, expected)
    drawn = torch.stack([fuse.train()(tokens, places)[0] for _ in range(400)])
    torch.testing.assert_close(drawn.mean(0), out, atol=0.25, rtol=0)
    torch.testing.assert_close(drawn.std(0), spread, atol=0.25, rtol=0.2)


def test_cc_sam_reads_each_image_once_and_reaches_all_of_it() -> None:
    config = read_cc_sam()
    decoder = build_cc_sam(config).eval()
    prompts = ask([BOXES[0], BOXES[1], BOXES[1]], [1, 0, 1], **{ABOUT: read_texts(3)})
    found = decoder(see(), prompts)
    assert found[""].shape == (3, 1, SIDE, SIDE) and found["divergence"].shape == (3,)
    seen = see()
    one = Features(seen.patches[1:], seen.pooled[1:], (4, 4), pixels=seen.pixels[1:])  # type: ignore[index]
    alone = replace(prompts.take([2]), rows_S=torch.tensor([0]))
    torch.testing.assert_close(decoder(one, alone)[""], found[""][2:], rtol=1e-4, atol=1e-4)
    (found[""].sum() + found["divergence"].sum()).backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())
    with pytest.raises(ShapeError, match="of both alike"):
        cc_sam.build(config, 24, (4, 4), (3, SIDE, 2 * SIDE), TextWidth(TEXT, TEXT))


# --- MCP-MedSAM ------------------------------------------------------------------------------------------


def read_mcp(**settings: Any) -> Any:
    decoder = load("systems/mcp_medsam.yaml").recipe.model.decoders["organs"]
    return decoder.model_copy(update={**SMALL, "crop": shrink(decoder.crop), **settings})


def build_mcp(config: Any) -> Any:
    torch.manual_seed(0)
    return mcp_sam.build(config, 24, (4, 4), (3, SIDE, SIDE), TextWidth(TEXT, TEXT))


def ask_mcp() -> Prompts:
    prompts = ask(BOXES, [0, 1], **{ABOUT: read_texts(2)})
    return replace(prompts, kinds_S=torch.tensor([0, 1]))


def learn_mcp(config: Any) -> float:
    decoder, prompts = build_mcp(config).train(), ask_mcp()
    torch.manual_seed(3)
    found = decoder(see(), prompts)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(found[""], MASKS.float())
    names = set(mcp_sam.list_terms(config))
    terms = [mcp_sam.add_up_term(config, name, found, MASKS, prompts) for name in names - {"content"}]
    terms += [mcp_sam.add_up_joint_term(config, name, found, slice(None)) for name in names & {"content"}]
    return float((loss + sum(terms)).detach())


@pytest.mark.parametrize("off", [
    {}, {"modality_prompt": False}, {"content_prompt": False}, {"modality": 0.0}, {"content": 0.0}, {"iou": 0.0},
])  # fmt: skip
def test_mcp_medsam_is_another_without_each_of_its_terms(off: dict[str, Any]) -> None:
    whole = read_mcp()
    assert whole.modality_prompt and whole.content_prompt and whole.modality and whole.content and whole.iou
    assert (learn_mcp(whole) == learn_mcp(whole.model_copy(update=off))) == (not off)
    stage = load("systems/mcp_medsam.yaml").recipe.stages[0]
    assert len(set(stage.mix.values())) == 1, "modalities are drawn alike"


def test_its_masks_are_those_of_the_librarys_decoder_with_more_prompts() -> None:
    """The library gives masks alone, of the same prompts in the same order."""
    decoder = build_mcp(read_mcp()).eval()
    generator = torch.Generator().manual_seed(4)
    image, sparse = torch.randn(2, 32, 4, 4, generator=generator), torch.randn(2, 1, 5, 32, generator=generator)
    masks, iou, tokens = decoder._draw_and_read(image, sparse)
    position = decoder._locate_patches().expand(2, -1, -1, -1)
    theirs, their_iou = decoder.mask_decoder(image, position, sparse, torch.zeros_like(image), multimask_output=False)
    torch.testing.assert_close(masks, theirs[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(iou, their_iou[:, 0])
    assert tokens.shape == (2, 2, 32)


def test_what_is_cut_out_is_the_box() -> None:
    pixels = torch.arange(SIDE * SIDE * 1.0).reshape(1, 1, SIDE, SIDE)
    box = torch.tensor([[8.0, 16.0, 24.0, 32.0]])
    torch.testing.assert_close(mcp_sam.cut_boxes(pixels, box, (16, 16)), pixels[..., 16:32, 8:24])
    half = torch.nn.functional.avg_pool2d(pixels[..., 16:32, 8:24], 2)
    torch.testing.assert_close(mcp_sam.cut_boxes(pixels, box, (8, 8)), half)


def test_the_terms_of_mcp_medsam_are_those_of_their_formulas() -> None:
    config, prompts = read_mcp(content=0.5, modality=2.0), ask_mcp()
    own, seen = torch.randn(2, 6), torch.randn(2, 6)
    told = torch.randn(2, 2)
    found = {"content": own, "seen": seen, "modality": told}
    cosines = torch.nn.functional.cosine_similarity(own[:, None], seen[None], dim=2)
    rows, columns = (each.diagonal().sum() for each in (cosines.log_softmax(1), cosines.log_softmax(0)))
    shares = [mcp_sam.add_up_joint_term(config, "content", found, slice(n, n + 1)) for n in range(2)]
    torch.testing.assert_close(sum(shares), -(rows + columns) / 4)
    expected = -2 * (told.log_softmax(1)[0, 0] + told.log_softmax(1)[1, 1])
    torch.testing.assert_close(mcp_sam.add_up_term(config, "modality", found, MASKS, prompts), expected)


def test_prompts_know_the_kind_of_their_medium() -> None:
    config = read_mcp()
    said = [say(box, config, "", kind, lambda text: [len(text)]) for box, kind in zip(BOXES, config.about, strict=True)]
    stacked = stack_prompts([*said, said[0]])
    assert stacked.kinds_S is not None and stacked.kinds_S.tolist() == [0, 1, 0]
    taken = stacked.take([1, 2]).kinds_S
    assert taken is not None and taken.tolist() == [1, 0]


def test_mcp_medsam_reaches_all_of_it_and_needs_to_know_the_kinds() -> None:
    decoder = build_mcp(read_mcp()).train()
    found = decoder(see(), ask_mcp())
    found[""].sum().backward()  # its own terms may be off
    without = [name for name, parameter in decoder.named_parameters() if parameter.grad is None]
    assert not without, without
    plain = read_mcp().model_dump()
    with pytest.raises(ValueError, match="say of each kind of medium what it is"):
        mcp_sam.Config.model_validate({**plain, "about": {}})
    with pytest.raises(ShapeError, match=r"crop takes 3 channels and the encoder gives 1; set preprocess.channels"):
        mcp_sam.build(read_mcp(), 24, (4, 4), (1, SIDE, SIDE), TextWidth(TEXT, TEXT))


@pytest.mark.parametrize("read", [read_mcp, read_flans])
def test_a_box_that_is_not_filled_in_is_not_accepted(read: Any) -> None:
    """Its factor would be trained by nothing."""
    with pytest.raises(ValueError, match=r"fill_box: .* remove it"):
        type(read()).model_validate({**read().model_dump(), "fill_box": True})


# --- FLanS -----------------------------------------------------------------------------------------------


def test_orientations_are_a_group_and_are_turned_back() -> None:
    x = torch.arange(12.0).reshape(1, 1, 3, 4)[..., :3]
    all_of_it = [flans.turn(x, number) for number in range(8)]
    assert len({tuple(each.flatten().tolist()) for each in all_of_it}) == 8
    for number, each in enumerate(all_of_it):
        assert torch.equal(flans.turn_back(each, number), x)
        again = {tuple(flans.turn(each, other).flatten().tolist()) for other in range(8)}
        assert again == {tuple(one.flatten().tolist()) for one in all_of_it}


def build_flans(config: Any) -> Any:
    torch.manual_seed(0)
    return flans.build(config, 1, (1, 1), (3, SIDE, SIDE), TextWidth(TEXT, TEXT))


def ask_flans(**read: ReadTexts) -> Prompts:
    return ask([Prompt(1, ("text",)), Prompt(3, ("text",))], [0, 1], **read)


@pytest.mark.parametrize("number", [1, 3, 4, 6])
def test_a_turned_image_has_the_turned_mask_whatever_was_learnt(number: int) -> None:
    prompts = ask_flans(**{ASKED: read_texts(2)})
    for canonical, same in ((True, True), (False, False)):
        decoder = build_flans(read_flans(canonical=canonical)).eval()
        seen = see()
        turned = replace(seen, pixels=flans.turn(seen.pixels, number))  # type: ignore[arg-type]
        masks, other = decoder(seen, prompts)[""], decoder(turned, prompts)[""]
        apart = (flans.turn(masks, number) - other).abs().max()
        assert (apart < 1e-4) == same, apart


def learn_flans(config: Any) -> float:
    decoder = build_flans(config).train()
    prompts = ask_flans(**{ASKED: read_texts(2)})
    torch.manual_seed(3)
    found = decoder(see(), prompts)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(found[""], MASKS.float())
    terms = [flans.add_up_term(config, name, found, MASKS, prompts) for name in flans.list_terms(config)]
    return float((loss + sum(terms)).detach())


@pytest.mark.parametrize("off", [{}, {"canonical": False}, {"symmetry": 0.0}, {"intention": 0.0}])
def test_flans_is_another_without_each_of_its_terms(off: dict[str, Any]) -> None:
    whole = read_flans()
    assert whole.canonical and whole.symmetry and whole.intention
    assert (learn_flans(whole) == learn_flans(whole.model_copy(update=off))) == (not off)


def test_the_terms_of_flans_are_those_of_their_formulas() -> None:
    config = read_flans(symmetry=2.0, intention=0.5)
    decoder = build_flans(config).eval()
    read = read_texts(2)
    prompts = ask_flans(**{ASKED: read})
    found = decoder(see(), prompts)
    pixels = see().pixels
    assert pixels is not None
    small = torch.nn.functional.adaptive_avg_pool2d(pixels, flans.RATED)
    rates = torch.stack([decoder.rate.net(flans.turn_back(small, n))[:, 0] for n in range(8)], 1).softmax(1)
    usual = sum(rates[:, n].view(2, 1, 1, 1) * flans.turn_back(pixels, n) for n in range(8))
    expected = 2 * ((usual - pixels) ** 2).mean((1, 2, 3)).sum()
    torch.testing.assert_close(flans.add_up_term(config, "symmetry", found, MASKS, prompts), expected)
    logits = decoder.intend(read.pooled_SE)
    told = -0.5 * (logits.log_softmax(1)[0, 1] + logits.log_softmax(1)[1, 3])
    torch.testing.assert_close(flans.add_up_term(config, "intention", found, MASKS, prompts), told)


@pytest.mark.slow
def test_its_orientation_is_learnt_by_the_term_of_symmetry() -> None:
    """Images whose left half is bright, turned by chance: after 60 steps most are brought back."""
    config = read_flans()
    rate = build_flans(config).rate
    optimizer = torch.optim.Adam(rate.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> torch.Tensor:
        pixels = 0.1 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
        pixels[..., : SIDE // 2] += 1
        pixels[..., : SIDE // 4, :] += 0.5
        return pixels

    for _ in range(60):
        pixels = draw(8)
        numbers = torch.randint(8, (8,), generator=generator)
        turned = torch.stack([flans.turn(each, int(n)) for each, n in zip(pixels, numbers, strict=True)])
        loss = (rate(turned)[1] - pixels).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    numbers = torch.randint(8, (32,), generator=generator)
    turned = torch.stack([flans.turn(each, int(n)) for each, n in zip(draw(32), numbers, strict=True)])
    assert (rate(turned)[0].argmax(1) == numbers).float().mean() > 0.8


def test_flans_reaches_all_of_it_and_takes_squares_alone() -> None:
    decoder = build_flans(read_flans()).train()
    found = decoder(see(), ask_flans(**{ASKED: read_texts(2)}))
    found[""].sum().backward()  # its own terms may be off
    assert all(parameter.grad is not None for parameter in decoder.parameters())
    with pytest.raises(ShapeError, match="is no square"):
        flans.facts(read_flans(), None, None, (3, 64, 32))
    with pytest.raises(ValueError, match="box cannot be read"):
        component("decoders", "flans").Config.model_validate(
            {**read_flans().model_dump(), "prompts": ["box"], "texts": {}}
        )


@pytest.mark.parametrize("read", [read_cc_sam, read_mcp, read_flans])
def test_an_exported_decoder_builds_its_towers_without_loading_weights(read: Any) -> None:
    config = read()
    (key,) = {"cnn", "crop", "tower"} & vars(config).keys()
    tower = getattr(config, key).model_copy(update={"pretrained": True, "weights": "cnn.safetensors"})
    alone = component("decoders", config.kind).standalone(config.model_copy(update={"model": "x", key: tower}))
    assert alone == config.model_copy(update={key: tower.model_copy(update={"pretrained": False, "weights": ""})})
    other = {"kind": "transformers", "model": "a/b"}
    with pytest.raises(ValueError, match="builds its network by name"):
        type(config).model_validate({**config.model_dump(), key: other})
