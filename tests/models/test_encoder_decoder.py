"""An encoder that reads prompts with images and a decoder that writes answers compute what their language model
computes for each text alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medvlm.core.errors import RecipeError, ShapeError
from medvlm.data.dialogue import Turn, join_turns
from medvlm.data.encoded import split_prompts
from medvlm.models import isolation
from medvlm.models.attention import use_attention
from medvlm.models.encoder_decoder import EncoderDecoderVLM
from medvlm.models.generate import generate
from medvlm.models.isolation import check_encoded
from medvlm.models.parts import set_modes, set_trained
from medvlm.objectives.next_token import read_losses, token_losses
from tests.models.test_vlm import gradients
from tests.models.tiny import (
    ENCODED,
    IMAGE_ID,
    PAD_ID,
    TOKENS,
    TokenSequence,
    batch_of,
    document,
    encoded,
    encoded_batch_of,
    medium,
    spread,
    vlm,
)


def documents() -> list[TokenSequence]:
    """Without an image, with one and with three; one and several answers of unequal length; and a dialogue with images
    in its first and second turn, of whose three answers the second is not trained."""
    generator = torch.Generator().manual_seed(0)
    film, volume = medium("film", generator), medium("volume", generator)
    turn = Turn(
        [1, 5, *[IMAGE_ID] * 4, 7, 2, 11, 12, 2, 8, *[IMAGE_ID] * 3, 2, 13, 2, 9, 2], [14, 15, 2], ((8, 11), (16, 18))
    )
    return [
        document(generator, (), 5, [(4, 0)]),
        document(generator, ("film",), 3, [(5, 2), (3, 0), (6, 3), (2, 0)]),
        document(generator, ("film", "film", "film"), 2, [(7, 1)]),
        document(generator, ("volume", "film"), 4, [(3, 1), (4, 0)]),
        join_turns("dialogue", [turn], [film, volume], [[0.5, 0.0, 1.0]]),
    ]


def list_answers(made: TokenSequence) -> list[tuple[list[int], list[int], float]]:
    """(what stands before an answer, the answer, its weight)."""
    found = []
    for number, (ids, untrained) in enumerate(made.branches):
        spans = made.answers[number] if made.answers else [(untrained, len(ids), 1.0)]
        found += [(made.prefix + ids[:start], ids[start:end], weight) for start, end, weight in spans if weight]
    return found


def embed_alone(model: Any, prompt: list[int], media: list[tuple[str, torch.Tensor]]) -> torch.Tensor:
    """[1, T, W]: the embeddings of a prompt, with its images as stock parts give them."""
    embeds = model.language.get_input_embeddings()(torch.tensor([prompt]))
    tokens = []
    for name, pixels in media:
        tower, pixels = model.encoders[name].tower, pixels[None].to(embeds.dtype)
        hidden = tower(pixel_values=pixels).last_hidden_state if name == "film" else tower(pixels)[0]
        if name == "film":
            hidden = tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-1]
        tokens.append(model.connectors[name](hidden)[0])
    places = [i for i, token in enumerate(prompt) if token == IMAGE_ID]
    if not places:
        return embeds
    return embeds.index_put((torch.tensor([0]), torch.tensor(places)), torch.cat(tokens)[: len(places)])


def stock_loss(model: Any, made: TokenSequence) -> torch.Tensor:
    """The sum over the answers, each by a call of transformers' class with labels."""
    total = torch.zeros((), dtype=torch.float64)
    for prompt, answer, weight in list_answers(made):
        embeds = embed_alone(model, prompt, made.media)
        total = total + weight * len(answer) * model.language(inputs_embeds=embeds, labels=torch.tensor([answer])).loss
    return total


def own_loss(model: Any, made: list[TokenSequence]) -> torch.Tensor:
    batch = encoded_batch_of(made)
    losses = model(batch, read_losses)["losses_L"]
    return (losses * (1 if batch.weights_L is None else batch.weights_L)).sum()


@pytest.mark.parametrize("family", ENCODED)
def test_a_batch_gives_the_loss_and_gradients_of_each_answer_alone(family: str) -> None:
    model, made = vlm(family).double(), documents()
    with torch.no_grad():
        each = [stock_loss(model, d).item() for d in made]
        assert [own_loss(model, [d]).item() for d in made] == pytest.approx(each, rel=1e-6)
    loss = own_loss(model, made)
    assert loss.item() == pytest.approx(sum(each), rel=1e-6)
    got = gradients(model, loss)
    want = gradients(model, sum((stock_loss(model, d) for d in made), torch.zeros(())))
    assert {n for n in want if want[n].any()} == {n for n in got if got[n].any()}
    for name, gradient in want.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()) + 1e-9)


def test_answers_to_one_prompt_share_its_row_and_turns_have_rows_of_their_own() -> None:
    *_, several, _, _, dialogue = documents()
    first, second, third = split_prompts(several, IMAGE_ID, TOKENS)
    assert (len(first.branches), len(second.branches), len(third.branches)) == (1, 2, 1)
    turns = list(split_prompts(dialogue, IMAGE_ID, TOKENS))
    assert [[name for name, _ in turn.media] for turn in turns] == [["film"], ["film", "volume"]]
    assert [turn.branches for turn in turns] == [[([11, 12, 2], 0)], [([14, 15, 2], 0)]]
    assert [turn.answers for turn in turns] == [[[(0, 3, 0.5)]], [[(0, 3, 1.0)]]]
    assert turns[1].prefix[-5:] == [2, 13, 2, 9, 2], "an answer that is not trained is read"


def test_without_an_image_the_trained_towers_are_still_in_the_graph() -> None:
    model = vlm("t5")
    set_trained(model, ("encoders", "connectors"), "align")
    set_modes(model)
    reached = set(gradients(model, own_loss(model, documents())))
    got = gradients(model, own_loss(model, documents()[:1]))
    assert got.keys() == reached and not any(gradient.any() for gradient in got.values())


@pytest.mark.parametrize("family", ENCODED)
def test_greedy_answers_are_those_of_transformers_token_for_token(family: str) -> None:
    """Prompts of different lengths in one batch, with images and without; answers that end at different lengths."""
    model: Any = vlm(family)
    spread(model.language, by=8 if family == "bart" else 3)
    generator, ends = torch.Generator().manual_seed(3), list(range(2, 64, 4))
    kinds = ((), ("film",), ("film", "volume"), ("film",) * 3, ())
    made = [document(generator, names, 2 + 3 * n, []) for n, names in enumerate(kinds)]
    batch = batch_of(made, pack=False)
    with torch.no_grad():
        got = generate(model, batch, max_new_tokens=9, end_ids=ends)
        expected = []
        for prompt in made:
            out = model.language.generate(
                inputs_embeds=embed_alone(model, prompt.prefix, prompt.media),
                max_new_tokens=9, do_sample=False, use_cache=False,  # whose cache has as many layers as the encoder
                eos_token_id=ends, pad_token_id=PAD_ID, suppress_tokens=[IMAGE_ID],
            )  # fmt: skip
            expected.append(out[0, 1:].tolist())
    assert got == expected and len({len(answer) for answer in got}) > 1
    copies = generate(model, batch, max_new_tokens=9, end_ids=ends, copies=2)
    assert copies == [answer for answer in got for _ in range(2)]


def test_drawn_answers_are_as_probable_as_they_are_in_training() -> None:
    """Every token is drawn where the cumulative distribution of the training pass, at its own place, says."""
    model: Any = spread(vlm("t5"), by=2)
    prompt = document(torch.Generator().manual_seed(1), ("film",), 4, [])
    uniform = torch.rand(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    drawn = generate(
        model, batch_of([prompt], pack=False), max_new_tokens=4, end_ids=[], copies=3, temperature=1.0,
        draws=[lambda number: uniform[number].tolist()],
    )  # fmt: skip
    asked = TokenSequence("a", prompt.prefix, [(answer, 0) for answer in drawn], prompt.media)
    with torch.no_grad():
        logits = model(encoded_batch_of([asked]))["logits_LV"].index_fill(-1, torch.tensor([IMAGE_ID]), -torch.inf)
    cumulative = logits.double().softmax(-1).cumsum(-1).unflatten(0, (3, 4))
    for copy, answer in enumerate(drawn):
        for place, token in enumerate(answer):
            before = cumulative[copy, place, token - 1] if token else 0
            assert before <= uniform[place, copy] <= cumulative[copy, place, token]


def test_a_head_that_is_not_known_and_a_model_without_a_start_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_encoded(vlm("t5"))
    language: Any = encoded("t5", decoder_start_token_id=None)
    language.generation_config.decoder_start_token_id = None
    with pytest.raises(ShapeError, match="T5ForConditionalGeneration has no decoder_start_token_id"):
        EncoderDecoderVLM(nn.ModuleDict(), nn.ModuleDict(), language, IMAGE_ID)
    other: Any = vlm("t5")
    other.language.lm_head.register_forward_hook(lambda module, args, out: out * 1.001)  # at the class's own call
    with pytest.raises(ShapeError, match=r"gives other logits for an answer in a batch .* \(off by 0.10%"):
        check_encoded(other)
    assert isolation.TOLERANCE < 1e-3


def test_kernels_for_packed_rows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from medvlm.core.engine_config import EngineConfig

    with pytest.raises(RecipeError, match=r"engine.attention: flex: T5Stack reads prompts with an encoder"):
        use_attention(vlm("t5"), EngineConfig(device="cpu", attention="flex"), torch.device("cpu"))


def test_logits_and_losses_are_of_the_same_tokens() -> None:
    model, batch = vlm("mt5"), encoded_batch_of(documents())
    with torch.no_grad():
        expected = token_losses(model(batch)["logits_LV"], batch.targets_L)
        torch.testing.assert_close(model(batch, read_losses)["losses_L"], expected)
