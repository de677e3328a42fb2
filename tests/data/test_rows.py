"""Documents in rows: what stands where, found again by hand for random documents."""

from __future__ import annotations

import random

import pytest
import torch

from medvlm.data.dialogue import TokenSequence
from medvlm.data.rows import collate

IMAGE, PAD = 999, 0
TOKENS = {"film": 3, "volume": 2}


def random_documents(seed: int) -> list[TokenSequence]:
    drawn = random.Random(seed)
    made = []
    for n in range(drawn.randint(1, 9)):
        media = [drawn.choice(["film", "volume"]) for _ in range(drawn.randint(0, 3))]
        prefix = (
            [1]
            + [IMAGE for name in media for _ in range(TOKENS[name])]
            + [drawn.randint(2, 900) for _ in range(drawn.randint(0, 6))]
        )
        branches = []
        for _ in range(drawn.randint(0, 4)):
            ids = [drawn.randint(2, 900) for _ in range(drawn.randint(1, 7))]
            branches.append((ids, drawn.randint(0, len(ids) - 1)))
        # Each image's pixels are its number, so that it can be recognised.
        pixels = [
            (name, torch.full({"film": (3, 2, 2), "volume": (1, 2, 2, 2)}[name], float(100 * n + i)))
            for i, name in enumerate(media)
        ]
        made.append(TokenSequence(f"k{n}", prefix, branches, pixels))
    return made


@pytest.mark.parametrize("seed", range(30))
def test_every_document_stands_whole_in_one_row(seed: int) -> None:
    made = random_documents(seed)
    batch = collate(made, TOKENS, PAD)
    width = batch.ids_BT.shape[1]
    found = []
    for row in range(len(batch.ids_BT)):
        for number in range(int(batch.docs_BT[row].max()) + 1):
            here = (batch.docs_BT[row] == number).nonzero()[:, 0]
            assert here.tolist() == list(range(int(here[0]), int(here[-1]) + 1)), "a document is torn"
            ids, positions, branches = (
                x[row, here].tolist() for x in (batch.ids_BT, batch.positions_BT, batch.branches_BT)
            )
            found.append((ids, positions, branches))
    expected = []
    for d in made:
        several = len(d.branches) > 1
        positions = [*range(len(d.prefix)), *(len(d.prefix) + i for ids, _ in d.branches for i in range(len(ids)))]
        of = [0] * len(d.prefix) + [b + 1 if several else 0 for b, (ids, _) in enumerate(d.branches) for _ in ids]
        expected.append((d.prefix + [i for ids, _ in d.branches for i in ids], positions, of))
    assert sorted(found) == sorted(expected)
    assert width == max(len(d) for d in made) and (batch.ids_BT[batch.docs_BT < 0] == PAD).all()
    assert batch.keys == tuple(d.key for d in made)


@pytest.mark.parametrize("seed", range(30))
def test_there_are_as_many_image_tokens_as_features(seed: int) -> None:
    """Of each batch, and, since documents stand whole in their rows, of each document."""
    made = random_documents(seed)
    batch = collate(made, TOKENS, PAD)
    features = sum(len(pixels) * TOKENS[name] for name, pixels in batch.media.items())
    assert (
        int((batch.ids_BT == IMAGE).sum())
        == len(batch.feature_rows)
        == sum(TOKENS[name] for d in made for name, _ in d.media)
    )
    assert features == len(batch.feature_rows) and sorted(batch.feature_rows.tolist()) == list(range(features))


@pytest.mark.parametrize("seed", range(30))
def test_a_target_is_predicted_by_the_token_before_it_in_its_own_continuation(seed: int) -> None:
    made = random_documents(seed)
    batch = collate(made, TOKENS, PAD)
    docs, branches, positions = (x.flatten() for x in (batch.docs_BT, batch.branches_BT, batch.positions_BT))
    at = iter(zip(batch.targets_L.tolist(), batch.from_L.tolist(), strict=True))
    for d in made:
        for b, (ids, untrained) in enumerate(d.branches):
            for i in range(untrained, len(ids)):
                target, parent = next(at)
                assert target == ids[i] and docs[parent] >= 0
                assert int(positions[parent]) == len(d.prefix) + i - 1
                whole = [*d.prefix, *ids]
                assert int(batch.ids_BT.flatten()[parent]) == whole[len(d.prefix) + i - 1]
                assert int(branches[parent]) == (0 if i == 0 or len(d.branches) == 1 else b + 1)
    assert next(at, None) is None


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("pack", [True, False])
def test_every_placeholder_is_filled_from_its_own_image(seed: int, pack: bool) -> None:
    """As a model fills them: in the order of places, from the tokens of all encoders stacked in the order of
    `media`."""
    made = random_documents(seed)
    batch = collate(made, TOKENS, PAD, pack)
    tokens = [
        (name, int(pixels.flatten()[0]), t)
        for name, stack in batch.media.items()
        for pixels in stack
        for t in range(TOKENS[name])
    ]
    filled = [tokens[row] for row in batch.feature_rows.tolist()]
    places = (batch.ids_BT == IMAGE).nonzero().tolist()
    assert len(places) == len(filled)
    by_document: dict[tuple[int, int], list[tuple[str, int, int]]] = {}
    for (row, column), token in zip(places, filled, strict=True):
        by_document.setdefault((row, int(batch.docs_BT[row, column])), []).append(token)
    expected = [
        [(name, int(p.flatten()[0]), t) for name, p in d.media for t in range(TOKENS[name])] for d in made if d.media
    ]
    assert sorted(by_document.values()) == sorted(expected)


def test_documents_share_rows_where_they_fit_and_none_does_without_packing() -> None:
    lengths = [10, 3, 4, 3, 7, 2]
    made = [TokenSequence(str(n), [1] * n, [], []) for n in lengths]
    assert collate(made, TOKENS, PAD).ids_BT.shape == (3, 10)  # 10, 3 + 4 + 3, 7 + 2
    apart = collate(made, TOKENS, PAD, pack=False)
    assert apart.ids_BT.shape == (6, 10) and (apart.docs_BT >= 0).sum(1).tolist() == lengths


def test_the_same_pixels_in_two_documents_are_encoded_once() -> None:
    pixels, other = torch.zeros(3, 2, 2), torch.zeros(3, 2, 2)
    made = [
        TokenSequence(str(n), [1, IMAGE, IMAGE, IMAGE], [], [("film", p)])
        for n, p in enumerate((pixels, other, pixels))
    ]
    batch = collate(made, TOKENS, PAD)
    assert len(batch.media["film"]) == 2 and batch.feature_rows.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]
