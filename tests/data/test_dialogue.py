"""Ids of questions and answers: the template's own, trained on the answer alone, with the prompt shared."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest

from medvlm.core.chat_templates import FLATTEN
from medvlm.core.errors import DataError
from medvlm.data.dialogue import Dialogue, Turn, join_turns
from medvlm.data.rows import collate
from medvlm.data.vocabulary import IMAGE, TEMPLATE, train_tokenizer

TEXTS = [
    "Which lung is affected? left right",
    "How many clips are there? 0 1 2 3 12",
    "Where is the finding? [10, 20, 30, 40]",
] * 4
TEMPLATES = {
    "ours": TEMPLATE,
    "ours, lists of parts too": FLATTEN + TEMPLATE,
    "ChatML": (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '</s>\\n' }}{% endfor %}{% if"
        " add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
    ),
    "with a system message": (
        "<s><|system|>You are a radiologist.{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% if"
        " m['role'] == 'assistant' %}</s>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
    "images after the question": (
        "<s>{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'].replace('<image>', '') }}{{ '<image>' *"
        " (m['content'].split('<image>') | length - 1) }}{% if m['role'] == 'assistant' %}</s>{% endif %}{% endfor %}{%"
        " if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
}


@lru_cache
def tokenizer(template: str = "ours") -> Any:
    made = train_tokenizer(TEXTS, 400, IMAGE)
    made.chat_template = TEMPLATES[template]
    return made


def dialogue(template: str = "ours") -> Dialogue:
    return Dialogue(tokenizer(template), IMAGE)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("media", [(), (4,), (4, 1, 3)])
def test_prompt_and_answer_together_are_the_templates_text_with_images_expanded(
    template: str, media: tuple[int, ...]
) -> None:
    turn = dialogue(template).turn("Which lung is affected?", media, "left")
    own = tokenizer(template)
    messages = [
        {"role": "user", "content": IMAGE * len(media) + "Which lung is affected?"},
        {"role": "assistant", "content": "left"},
    ]
    parts = own.apply_chat_template(messages, tokenize=False).split(IMAGE)
    expanded = parts[0] + "".join(IMAGE * n + part for n, part in zip(media, parts[1:], strict=True))
    assert turn.prompt + turn.answer == own(expanded, add_special_tokens=False).input_ids
    assert turn.prompt.count(own.convert_tokens_to_ids(IMAGE)) == sum(media)
    assert own.decode(turn.answer).replace("</s>", "").strip() == "left" and own.eos_token_id in turn.answer


@pytest.mark.parametrize("template", TEMPLATES)
def test_asking_gives_the_prompt_that_training_saw(template: str) -> None:
    asked, trained = (dialogue(template).turn("How many clips are there?", (2,), answer) for answer in (None, "12"))
    assert asked == Turn(trained.prompt, [])


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("media", [(), (4,), (4, 4, 4)])
def test_no_placeholder_and_no_prompt_is_ever_a_target(template: str, media: tuple[int, ...]) -> None:
    """Also where the images stand after the question, in the part that the questions do not share."""
    import torch

    made = dialogue(template)
    turns = [
        made.turn(q, media, a)
        for q, a in (("Which lung is affected?", "left"), ("How many clips are there?", "3"), ("Which zone?", "upper"))
    ]
    batch = collate([join_turns("k", turns, [("film", torch.zeros(1)) for _ in media])], {"film": 4}, 0)
    answers = [i for t in turns for i in t.answer]
    assert batch.targets_L.tolist() == answers
    image = tokenizer(template).convert_tokens_to_ids(IMAGE)
    assert image not in answers and int((batch.ids_BT == image).sum()) in (4 * len(media), 4 * len(media) * len(turns))


def test_questions_about_the_same_images_share_all_up_to_where_they_differ() -> None:
    made = dialogue()
    turns = [
        made.turn(q, (4,), a) for q, a in (("Which lung is affected?", "left"), ("Which zone is affected?", "upper"))
    ]
    shared = join_turns("k", turns, [])
    assert shared.prefix == turns[0].prompt[: len(shared.prefix)] == turns[1].prompt[: len(shared.prefix)]
    assert turns[0].prompt[len(shared.prefix)] != turns[1].prompt[len(shared.prefix)]
    for turn, (ids, untrained) in zip(turns, shared.branches, strict=True):
        assert shared.prefix + ids == turn.prompt + turn.answer and ids[untrained:] == turn.answer
    assert len(shared) == len(shared.prefix) + sum(len(ids) for ids, _ in shared.branches)


def test_one_question_is_all_prefix_and_its_answer_the_branch() -> None:
    turn = dialogue().turn("Which lung is affected?", (4,), "left")
    alone = join_turns("k", [turn], [])
    assert (alone.prefix, alone.branches) == (turn.prompt, [(turn.answer, 0)])


@pytest.mark.parametrize(("text", "answer"), [(f"What is {IMAGE}?", "left"), ("Which lung?", f"see {IMAGE}")])
def test_the_image_token_in_a_text_is_text(text: str, answer: str) -> None:
    turn, own = dialogue().turn(text, (4,), answer), dialogue().tokenizer
    image = own.convert_tokens_to_ids(IMAGE)
    assert (turn.prompt.count(image), turn.answer.count(image)) == (4, 0)
    told = own.decode(turn.prompt + turn.answer, skip_special_tokens=True).replace(" ", "")
    assert text.replace(" ", "") in told and answer.replace(" ", "") in told


def refusing(template: str) -> Dialogue:
    made = train_tokenizer(TEXTS, 400, IMAGE)
    made.chat_template = template
    return Dialogue(made, IMAGE)


def test_a_template_that_rewrites_the_prompt_once_it_is_answered_is_refused() -> None:
    rewriting = (
        "{% for m in messages %}{% if messages | length > 1 %}<s>{% endif %}<|{{ m['role'] }}|>{{ m['content'] }}{%"
        " endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    with pytest.raises(DataError, match="changes the prompt when an answer follows"):
        refusing(rewriting).turn("Which lung is affected?", (), "left")


def test_a_template_that_drops_images_is_refused() -> None:
    dropping = "{% for m in messages %}{{ m['content'].replace('<image>', '') }}{% endfor %}"
    with pytest.raises(DataError, match="kept 0 of 2 image placeholders"):
        refusing(dropping).turn("Which lung is affected?", (4, 4), None)


def test_an_image_token_that_is_none_of_the_vocabulary_is_refused_before_any_model_sees_it() -> None:
    with pytest.raises(
        DataError, match="the tokenizer made 0 image tokens, expected 4; <picture> must be a single token"
    ):
        Dialogue(tokenizer(), "<picture>").turn("Where?", [4], None)
    assert Dialogue(tokenizer(), "<picture>").turn("Where?", [], None).prompt
