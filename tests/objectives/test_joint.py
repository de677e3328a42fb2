"""Further losses of pairs against their papers' formulas in float64, forward and gradient, written again with loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, logsigmoid

from medvlm.core.config import component
from medvlm.core.contracts import Features
from medvlm.core.joint import Item, Seen, Towers
from medvlm.core.sample import Question, Sample, make_truth
from medvlm.core.terminology import Terminology
from medvlm.objectives.joint import captioning, decoded, patch_concepts, query_decoder, word_regions
from medvlm.objectives.joint._base import Objective, Ranks, stack_read
from medvlm.objectives.joint._mentions import Mentions
from medvlm.objectives.ssl._base import split_patches

N, R, T, E = 4, 6, 7, 5
LENGTHS = [7, 5, 6, 3]
ALONE = Ranks(0, lambda *tensors: tensors, lambda number: number)
TOWERS = Towers(
    E, E, E, (2, 3), (3, 8, 12), lambda text: [1, *(5 + len(word) for word in text.split()), 2], 40, 0, 3, True
)
DICTIONARY = Terminology(
    version="1", entries={"effusion": ("fluid in the pleura",), "edema": ("oedema", "wet lung"), "mass": ("a mass",)}
)
BOXES = {"heart": [(0.3, 0.4, 0.7, 0.9)], "lung": [(0.0, 0.1, 0.4, 0.8), (0.6, 0.1, 1.0, 0.8)]}
CONCEPTS = torch.tensor([3, 1, 3, 2])


def see(seed: int = 0) -> Seen:
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64).requires_grad_()

    mask = (torch.arange(T)[None] < torch.tensor(LENGTHS)[:, None]).long()
    ids = torch.randint(3, 40, (N, T), generator=generator) * mask
    table, pixels = draw(40, E), draw(N, 3, 8, 12)

    def look(masking: Any) -> Features:
        """Each patch by itself, as the mean of its channels and a number of its place."""
        cut = split_patches(pixels, (4, 4)).unflatten(2, (3, 16)).mean(3) @ table[:3]
        return Features(cut.gather(1, masking.kept_NK[..., None].expand(-1, -1, E)), cut.mean(1), (1,))

    def embed(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return ids[:, :E].double()

    towers = draw(N, R, E), draw(N, E), draw(N, T, E), draw(N, E)
    return Seen(*towers, ids, mask, (2, 3), embed, lambda ids, mask: table[ids], pixels, look)


def make(module: Any, **settings: Any) -> Any:
    torch.manual_seed(1)
    config = module.Config(kind=module.__name__.rpartition(".")[2], **settings)
    return module.build(config, TOWERS).double().eval()


def compare(term: Objective, seen: Seen, read: dict[str, torch.Tensor], reference: Callable[[], torch.Tensor]) -> None:
    """The loss and its gradients by both towers and by every part of the loss are those of the reference."""
    weight = term.weigh(read, N)[""]
    loss = term.add_up(ALONE, term(seen, read), CONCEPTS)[""] / weight
    expected = reference()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    inputs = [seen.patches_NRE, seen.words_NTE, *term.parameters()]
    slopes: list[Any] = [torch.autograd.grad(x, inputs, allow_unused=True) for x in (loss, expected)]
    found, right = slopes
    assert any(slope is not None and slope.abs().max() > 0 for slope in right)
    for a, b in zip(found, right, strict=True):
        if a is None or b is None:
            assert all(slope is None or not slope.any() for slope in (a, b))
        else:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_words_attend_to_regions_as_in_gloria() -> None:
    """Its loop over texts, pairs and words (gloria/loss/gloria_loss.py), without matrices."""
    term, seen = make(word_regions, width=3), see()

    def reference() -> torch.Tensor:
        regions, words = term.regions(seen.patches_NRE), term.words(seen.words_NTE)
        rows = []
        for text in range(N):
            inner = range(1, LENGTHS[text] - 1)
            row = []
            for image in range(N):
                scores = torch.stack(
                    [torch.stack([regions[image, r] @ words[text, w] for w in inner]) for r in range(R)]
                )
                attention = (4 * scores.softmax(1)).softmax(0)
                contexts = [sum(attention[r, k] * regions[image, r] for r in range(R)) for k in range(len(inner))]
                cosines = [cosine_similarity(words[text, w], c, dim=0) for w, c in zip(inner, contexts, strict=True)]
                row.append((5 * torch.stack(cosines)).exp().sum().log())
            rows.append(torch.stack(row))
        logits = 10 * torch.stack(rows)
        total = torch.zeros((), dtype=torch.float64)
        for i in range(N):
            right = [j for j in range(N) if CONCEPTS[i] == CONCEPTS[j]]
            for each in (logits, logits.T):
                total = total - sum(each[i].log_softmax(0)[j] for j in right) / len(right)
        return total / N

    compare(term, seen, {}, reference)


def item(text: str, sample: Sample | None = None, seed: int = 0) -> Item:
    """One token a word."""
    words, at = text.split(" "), 0
    offsets = [(0, 0)]
    for word in words:
        offsets.append((at, at + len(word)))
        at += len(word) + 1
    offsets.append((0, 0))
    sample = sample or Sample("k", "s", "train")
    target = component("tasks", "labels").target
    return Item(
        sample, "s/k", text, TOWERS.tokenize(text), lambda: offsets,
        lambda question, decoder: np.asarray(target(question.truth, {}, decoder.classes, decoder.exclusive)),
        lambda name: list(BOXES.get(name, ())),
        np.random.default_rng(seed),
    )  # fmt: skip


def test_concepts_are_found_in_texts_as_whole_words_with_their_tokens() -> None:
    term = make(patch_concepts, width=3, dictionary=DICTIONARY, most=2)
    assert term.read(item("No EFFUSION but wet lung seen"))["spans"].tolist() == [[2, 3], [4, 6]]
    assert term.read(item("effusions and masses"))["spans"].shape == (0, 2), "parts of words are no concepts"
    assert len(term.read(item("mass mass mass"))["spans"]) == 2


@pytest.mark.parametrize("text", ["5 \u03bcm", "INF\u0130LTRASYON", "\u0131nf\u0131ltrasyon", "\u0130nme"])
def test_letters_of_one_form_that_have_several_codes_are_one_entry(text: str) -> None:
    """Greek mu and the micro sign, and i with and without a dot: a pattern matches both, whatever the case."""
    entries = {"size": ("5 \u00b5m",), "infiltrate": ("infiltrasyon",), "stroke": ("\u0130nme",)}
    mentions = Mentions(Terminology(version="1", entries=entries))
    (found,) = mentions.find(item(f"has {text}"))
    assert list(entries)[found.entry] == {"5": "size", "\u0130nme": "stroke"}.get(text.split()[0], "infiltrate")


def test_patches_are_aligned_with_concepts_as_in_conceptclip() -> None:
    term, seen = make(patch_concepts, width=3, dictionary=DICTIONARY), see()
    spans = [[(1, 2), (3, 5)], [], [(2, 4)], [(1, 2)]]
    read = stack_read([{"spans": torch.tensor(each, dtype=torch.long).reshape(-1, 2)} for each in spans])
    with torch.no_grad():
        term.log_scale.fill_(1.3), term.bias.fill_(-0.7)

    def reference() -> torch.Tensor:
        total, count = torch.zeros((), dtype=torch.float64), 0
        patches, words = term.patches(seen.patches_NRE), term.concepts(seen.words_NTE)
        for text, own in enumerate(spans):
            for start, end in own:
                concept, count = words[text, start:end].mean(0), count + 1
                for image in range(N):
                    logits = [
                        term.log_scale.exp() * cosine_similarity(patches[image, r], concept, dim=0) + term.bias
                        for r in range(R)
                    ]
                    sign = 1 if image == text else -1
                    total = total - logsigmoid(sign * torch.stack(logits).max())
        assert term.weigh(read, N) == {"": count}
        return total / count

    compare(term, seen, read, reference)


def test_a_batch_without_a_concept_has_no_loss_but_a_gradient_of_zeros() -> None:
    term, seen = make(patch_concepts, width=3, dictionary=DICTIONARY), see()
    read = stack_read([{"spans": torch.empty(0, 2, dtype=torch.long)}] * N)
    loss = term.add_up(ALONE, term(seen, read), CONCEPTS)[""]
    loss.backward()
    assert loss.item() == 0 and term.weigh(read, N) == {"": 0}
    assert all(p.grad is not None and not p.grad.any() for p in term.parameters())


def test_findings_ask_the_patches_and_unknown_ones_do_not_count() -> None:
    term, seen = make(query_decoder, of="state", dictionary=DICTIONARY, width=8, layers=2, heads=2), see()
    labels = torch.tensor([[1, 0, -1], [-1, -1, -1], [0, 1, 1], [-2, 0, 0]])

    def reference() -> torch.Tensor:
        """Each image by itself, and the layers of the decoder in the order of MedKLIP's code: norm before each part."""
        total = torch.zeros((), dtype=torch.float64)
        queries = term.queries(seen.embed(term.ids_QT, term.mask_QT))
        for n in range(N):
            x, memory = queries, term.patches(seen.patches_NRE[n])
            for layer in term.decoder.layers:
                x = x + layer.self_attn(*3 * (layer.norm1(x),), need_weights=False)[0]
                x = x + layer.multihead_attn(layer.norm2(x), memory, memory, need_weights=False)[0]
                x = x + layer.linear2(layer.linear1(layer.norm3(x)).relu())
            logits = term.present(term.decoder.norm(x))[:, 0]
            for q in range(3):
                if labels[n, q] >= 0:
                    total = total - logsigmoid(logits[q] if labels[n, q] else -logits[q])
        return total / 7

    assert term.weigh({"wanted": labels}, N) == {"": 7}
    compare(term, seen, {"wanted": labels}, reference)


def test_labels_of_findings_are_those_of_the_question() -> None:
    term = make(query_decoder, of="state", dictionary=DICTIONARY, width=8, layers=1, heads=2)
    truth = make_truth("labels", classes=("mass", "effusion"), labels=(True, None), exclusive=False)
    asked = Sample("k", "s", "train", questions=(Question("What?", truth, "state"),))
    assert term.read(item("a b", asked))["wanted"].tolist() == [-1, -1, 1]
    assert term.read(item("a b"))["wanted"].tolist() == [-1, -1, -1]
    assert term.ids_QT.tolist()[0] == [1, 10, 7, 8, 11, 2], "the first description of effusion"


def decoder(exclusive: bool) -> Any:
    kind = component("decoders", "linear")
    return kind.Config(kind="linear", classes=("a", "b", "c"), exclusive=exclusive, answers="state")


def test_a_decoder_has_the_losses_of_its_stage_and_their_weights() -> None:
    loss = component("objectives.heads", "binary_cross_entropy")
    term = make(decoded, decoder=decoder(False), losses=[loss.Config(kind="binary_cross_entropy", weight=3.0)])
    seen, labels = see(), torch.tensor([[1, 0, -1], [-1, -1, -1], [0, 1, 1], [0, 0, 0]])
    assert term.weigh({"wanted": labels}, N) == {"": 8}

    def reference() -> torch.Tensor:
        logits = term.decoder.head(seen.pooled_NE) if hasattr(term.decoder, "head") else term.decoder(features(seen))
        known = [(n, k) for n in range(N) for k in range(3) if labels[n, k] >= 0]
        each = [logsigmoid(logits[n, k] if labels[n, k] else -logits[n, k]) for n, k in known]
        return -3 * torch.stack(each).sum() / 8

    outputs = term.add_up(ALONE, term(seen, {"wanted": labels}), CONCEPTS)[""] / 8
    expected = reference()
    assert outputs.item() == pytest.approx(expected.item(), rel=1e-6)
    found, right = (torch.autograd.grad(x, [seen.pooled_NE, *term.parameters()]) for x in (outputs, expected))
    for a, b in zip(found, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)


def features(seen: Seen) -> Any:
    return Features(seen.patches_NRE, seen.pooled_NE, seen.grid)


def test_a_sample_without_the_question_has_missing_labels() -> None:
    losses = [component("objectives.heads", kind).Config(kind=kind) for kind in ("cross_entropy", "focal")]
    term = make(decoded, decoder=decoder(True), losses=losses)
    truth = make_truth("choice", "b", choices=("a", "b"))
    assert term.read(item("x"))["wanted"].tolist() == -1 and truth.answer == "b"
    weights = term.weigh({"wanted": torch.tensor([0, -1, 2, 1])}, N)
    assert set(weights) == {"cross_entropy", "focal"} and weights["cross_entropy"] == 3


def test_texts_are_written_from_left_to_right() -> None:
    term, seen = make(captioning, width=8, layers=2, heads=2, most=6), see()
    texts = [[1, 7, 9, 2], [1, 5, 2], [1, 8, 3, 4, 6, 2], [1, 2]]
    read = stack_read([{"ids": torch.tensor(text)} for text in texts])
    assert term.weigh(read, N) == {"": 11}

    def reference() -> torch.Tensor:
        """Each next token by itself, from the tokens before it and nothing else."""
        total = torch.zeros((), dtype=torch.float64)
        for n, text in enumerate(texts):
            memory = term.patches(seen.patches_NRE[n])
            for at in range(1, len(text)):
                x = term.embed.weight[text[:at]] + term.place.weight[:at]
                for layer in term.decoder.layers:
                    later = torch.ones(at, at, dtype=torch.bool).triu(1)
                    own = layer.norm1(x)
                    x = x + layer.self_attn(own, own, own, attn_mask=later, need_weights=False)[0]
                    x = x + layer.multihead_attn(layer.norm2(x), memory, memory, need_weights=False)[0]
                    x = x + layer.linear2(layer.linear1(layer.norm3(x)).relu())
                total = total - (term.decoder.norm(x[-1]) @ term.embed.weight.T).log_softmax(0)[text[at]]
        return total / 11

    compare(term, seen, read, reference)
    assert term.read(item("a b c d e f g"))["ids"].tolist() == TOWERS.tokenize("a b c d e f g")[:6]


def test_settings_of_another_size_at_toy_size() -> None:
    toy = captioning.Config(kind="captioning", width=1024, heads=16, layers=12).scale_down()
    assert (toy.width, toy.layers) == (64, 1)
    with pytest.raises(ValueError, match="width 10 cannot be divided among 4 heads"):
        captioning.Config(kind="captioning", width=10)
    assert math.isclose(word_regions.Config(kind="word_regions").scale_down().focus, 4)
    assert isinstance(make(word_regions, width=3), nn.Module)
