"""The fusion encoder and its four losses against the formulas in float64, each pair by itself and without padding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import gelu, logsigmoid

from medvlm.core.contracts import Masking
from medvlm.core.errors import ShapeError
from medvlm.core.joint import Seen
from medvlm.core.terminology import Terminology
from medvlm.objectives.joint import fusion
from medvlm.objectives.joint._base import stack_read
from medvlm.objectives.ssl._base import split_patches
from medvlm.recipe.load import load
from tests.objectives.test_joint import ALONE, CONCEPTS, LENGTHS, TOWERS, N, R, item, make, see

DICTIONARY = Terminology(version="1", entries={"effusion": ("fluid",), "mass": ("big mass",), "rib": ("bone",)})
SMALL = {"width": 8, "layers": 3, "heads": 2, "decoder_width": 4, "decoder_layers": 1, "painted_from": 2, "most": 3}
# As long as the texts of `see`.
TEXTS = ["no effusion or big mass", "clear lungs now", "fluid mass bone rib", "ok"]
TOY = {key: value for key, value in SMALL.items() if key != "painted_from"}
NAMES = ("words", "patches", "match", "entities")


def build(**settings: Any) -> Any:
    return make(fusion, dictionary=DICTIONARY, **{**SMALL, "masked_words": 0.4, "masked_patches": 0.5, **settings})


def read_all(term: Any) -> dict[str, torch.Tensor]:
    return stack_read([term.read(item(text, seed=n)) for n, text in enumerate(TEXTS)])


def decode(layer: Any, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """Pre-norm: self-attention, attention to the other side, two layers."""
    own = layer.norm1(x)
    x = x + layer.self_attn(own, own, own, need_weights=False)[0]
    x = x + layer.multihead_attn(layer.norm2(x), memory, memory, need_weights=False)[0]
    return x + layer.linear2(gelu(layer.linear1(layer.norm3(x))))  # type: ignore[no-any-return]


def fuse(term: Any, words: torch.Tensor, patches: torch.Tensor, read: dict[str, torch.Tensor], n: int) -> Any:
    """The words and patches of one pair after each layer. words: of the text of pair n."""
    entities, found = term.fusion.known(read["entries"][n]), []
    layers = zip(term.fusion.words, term.fusion.patches, term.fusion.entities, strict=True)
    for of_words, of_patches, of_entities in layers:
        entities = decode(of_entities, entities, patches)
        told = words.clone()
        for number, (start, end) in enumerate(read["spans"][n].tolist()):
            if start >= 0:
                told[start:end] = told[start:end] + entities[number]
        words, patches = decode(of_words, told, patches), decode(of_patches, patches, told)
        found.append((words, patches))
    return found


def expect(name: str, term: Any, seen: Seen, read: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean over its items of a loss, by loops."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    words = [term.word(seen.words_NTE[n, : LENGTHS[n]]) for n in range(N)]
    patches = term.patch(seen.patches_NRE)
    for n in range(N):
        if name == "words":
            ids = seen.ids_NT[n].clone()
            shown, asked = read["shown"][n][: LENGTHS[n]], read["asked"][n]
            ids[: len(shown)] = torch.where(shown < 0, ids[: len(shown)], shown)
            told = fuse(term, term.word(seen.read(ids, seen.mask_NT[n]))[: LENGTHS[n]], patches[n], read, n)[-1][0]
            for t in [t for t in asked.tolist() if t >= 0]:
                total, count = total - term.tell_word(told[t]).log_softmax(0)[seen.ids_NT[n, t]], count + 1
        elif name == "patches":
            kept = read["kept"][n].tolist()
            cut = split_patches(seen.pixels, (4, 4))[n]
            left = seen.look(Masking(kept_NK=read["kept"])).patches[n]
            told = term.narrow(fuse(term, words[n], term.patch(left), read, n)[1][1])
            every = torch.stack([told[kept.index(r)] if r in kept else term.hidden_patch for r in range(R)])
            every = every + term.positions_RD
            for block in term.blocks:
                every = block(every[None])[0]
            for r in set(range(R)) - set(kept):
                wanted = (cut[r] - cut[r].mean()) / (cut[r].var() + 1e-6).sqrt()
                total, count = total + (term.paint(every[r]) - wanted).square().mean(), count + 1
        elif name == "match":
            other = (1, 0, 3, 2)[n] if read["is_swapped"][n] else n
            told, seen_of = fuse(term, words[other], patches[n], read, other)[-1]
            logit = term.belongs(torch.cat([told[0], seen_of.mean(0)]))[0]
            total, count = total - logsigmoid(logit if other == n else -logit), count + 1
        else:
            for logits in (term.tell_image(seen.pooled_NE[n]), term.tell_text(seen.texts_NE[n])):
                signs = 2 * read["wanted"][n] - 1
                total = total - logsigmoid(signs * logits).mean()
            count += 1
    return total / count


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_and_its_gradient_are_those_of_each_pair_by_itself(name: str) -> None:
    term, seen = build(), see()
    read = read_all(term)
    read["is_swapped"] = torch.tensor([True, False, False, True])
    weights = term.weigh(read, N)
    loss = term.add_up(ALONE, term(seen, read), CONCEPTS)[name] / weights[name] / term.config.weights[name]
    expected = expect(name, term, seen, read)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    inputs = [seen.patches_NRE, seen.words_NTE, seen.texts_NE, *term.parameters()]
    slopes: list[Any] = [torch.autograd.grad(x, inputs, allow_unused=True) for x in (loss, expected)]
    assert any(slope is not None and slope.abs().max() > 0 for slope in slopes[1])
    for a, b in zip(*slopes, strict=True):
        zeros = torch.zeros(1, dtype=torch.float64)
        a, b = (zeros if each is None else each for each in (a, b))
        torch.testing.assert_close(a, b.expand_as(a) if not b.any() else b, rtol=1e-5, atol=1e-8)


def test_an_image_belongs_to_the_text_of_another_sample_if_that_is_its_own() -> None:
    """Reports without a finding are often the same: what belongs once must not be wrong the next time."""
    term, seen = build(), see()
    read = read_all(term)
    seen.ids_NT[1] = seen.ids_NT[0]
    kept, swapped = (term(seen, {**read, "is_swapped": torch.full((N,), each)})["match"] for each in (False, True))
    assert (kept[:2] == swapped[:2]).all() and all(kept[2:] != swapped[2:])


def test_logits_are_those_of_masked_words_alone() -> None:
    """Of the whole text they would be most of the memory of a step."""
    term, seen, rows = build(), see(), []
    read = read_all(term)
    term.tell_word.register_forward_hook(lambda module, inputs, made: rows.append(made.shape))
    term(seen, read)
    assert rows == [(N, read["asked"].shape[1], TOWERS.vocabulary)] and read["asked"].shape[1] == 2
    text_of_nothing = term.read(item("", seed=0)) | {"asked": torch.empty(0, dtype=torch.long)}
    loss = term(seen, stack_read([text_of_nothing] * N))["words"].sum()
    assert loss == 0 and torch.isfinite(loss) and loss.requires_grad


def test_a_text_tower_without_a_mask_token_tells_no_words() -> None:
    bare = replace(TOWERS, mask_id=None)
    config = fusion.Config(kind="fusion", dictionary=DICTIONARY, **SMALL)
    with pytest.raises(ShapeError, match=r"has no mask token .* or `words: 0`"):
        fusion.build(config, bare)
    without = config.model_copy(update={"words": 0.0})
    assert "words" not in fusion.build(without, bare).weigh({}, 2) and config.hides_words and not without.hides_words


def test_masked_words_are_whole_entities_and_never_the_ends() -> None:
    term, changes, masked = build(masked_words=0.2), 0, 0
    for seed in range(60):
        read = term.read(item("a big mass of fluid here now", seed=seed))
        asked, last = set(read["asked"].tolist()), len(read["shown"]) - 1
        assert not asked & {0, last} and (2 in asked) == (3 in asked), "big mass is one entity"
        assert read["entries"].tolist() == [1, 0, 3] and read["wanted"].tolist() == [1, 1, 0]
        changed = read["shown"] != torch.tensor(item("a big mass of fluid here now").ids)
        assert set(changed.nonzero()[:, 0].tolist()) <= asked and len(asked) == len(read["asked"])
        changes, masked = changes + int(changed.sum()), masked + len(asked)
    assert 60 < masked < 120 and 0.8 < changes / masked < 0.98, "a tenth stays as it is"


def test_a_loss_that_does_not_count_is_left_out_with_its_parts() -> None:
    for name in NAMES:
        term = build(**{name: 0.0})
        read = read_all(term)
        assert name not in term.weigh(read, N) and name not in term(see(), read)
    assert not any("paint" in name for name, _ in build(patches=0.0).named_parameters())


@pytest.mark.parametrize("off", [*({name: 0.0} for name in NAMES), {"painted_from": 1}, {}], ids="-".join)
def test_arl_without_a_term_learns_something_else(off: dict[str, Any]) -> None:
    """As its recipe sets them, at toy size and with entities of the texts here."""
    torch.manual_seed(1)
    config = load("systems/arl.yaml").recipe.stages[0].terms["fused"]
    term: Any = fusion.build(config.model_copy(update={**TOY, "dictionary": DICTIONARY}), TOWERS).double().eval()
    read = read_all(term)
    read["is_swapped"] = torch.tensor([True, False, False, True])

    def learn() -> tuple[float, torch.Tensor]:
        seen, weights = see(), term.weigh(read, N)
        sums = term.add_up(ALONE, term(seen, read), CONCEPTS)
        loss = torch.stack([sums[name] / weights[name] for name in sums]).sum()
        towers = seen.patches_NRE, seen.pooled_NE, seen.words_NTE, seen.texts_NE
        slopes = torch.autograd.grad(loss, towers, allow_unused=True, materialize_grads=True)
        return loss.item(), torch.cat([slope.flatten() for slope in slopes])

    assert all(getattr(config, key) != value for key, value in off.items()), "it is off already"
    whole, slope = learn()
    term.config = term.config.model_copy(update=off)  # the same weights
    if not off:  # the stream of entities beside the words alone: masks, targets and weights stay
        read["spans"] = torch.full_like(read["spans"], -1)
    less, other = learn()
    assert whole != pytest.approx(less, rel=1e-6)
    assert (slope - other).norm() > 1e-4 * slope.norm() > 0
