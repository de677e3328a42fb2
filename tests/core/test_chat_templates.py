"""Chat templates by name, and system prompts that become part of a template."""

from __future__ import annotations

from typing import Any

import pytest

from medvlm.core.chat_templates import TEMPLATES, add_system, flatten_parts
from medvlm.core.errors import RecipeError
from medvlm.data.dialogue import Dialogue
from medvlm.data.vocabulary import IMAGE, TEMPLATE, train_tokenizer

SYSTEM = 'You are a "radiologist".\nBe brief \N{EM DASH} \N{SLIGHTLY SMILING FACE}.'
TURNS = [
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "So."},
    {"role": "user", "content": "And?"},
]


def tokenizer(template: str) -> Any:
    made = train_tokenizer(["Why? So. And? You are a radiologist. Be brief."] * 4, 400, IMAGE)
    made.chat_template = template
    return made


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("vicuna", "<s>Be brief. USER: Why? ASSISTANT: So.</s>USER: And? ASSISTANT:"),
        ("llama2", "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhy? [/INST] So. </s><s>[INST] And? [/INST]"),
        ("plain", "<s>Be brief.\nQuestion: Why?\nAnswer: So.</s>Question: And?\nAnswer:"),
    ],
)
def test_several_turns_and_a_system_prompt_are_written_as_by_the_published_code(name: str, whole: str) -> None:
    """get_prompt of FastChat's conversation.py for vicuna_v1.1; Meta's llama/generation.py."""
    own = tokenizer(flatten_parts(TEMPLATES[name], IMAGE))
    system = [{"role": "system", "content": "Be brief."}]
    assert own.apply_chat_template([*system, *TURNS], tokenize=False, add_generation_prompt=True) == whole
    add_system(own, "Be brief.")
    assert own.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True) == whole
    turn = Dialogue(own, IMAGE).turn("Why?", [2], "So.")
    assert own.decode(turn.answer).replace("</s>", "").strip() == "So."


def test_a_system_prompt_stands_where_a_conversation_has_none_and_only_once() -> None:
    own, plain = tokenizer(flatten_parts(TEMPLATE, IMAGE)), tokenizer(TEMPLATE)
    add_system(own, SYSTEM)
    add_system(own, SYSTEM)
    told = [{"role": "system", "content": SYSTEM}, *TURNS]
    expected = plain.apply_chat_template(told, tokenize=False)
    parts = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in TURNS]
    for messages in (TURNS, parts, told):
        assert own.apply_chat_template(messages, tokenize=False) == expected
    other = [{"role": "system", "content": "Be long."}, *TURNS]
    assert own.apply_chat_template(other, tokenize=False) == plain.apply_chat_template(other, tokenize=False)


def test_a_template_without_system_prompts_is_refused() -> None:
    silent = "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['content'] }}{% endif %}{% endfor %}"
    with pytest.raises(RecipeError, match=r"model.system: the chat template leaves the system prompt out"):
        add_system(tokenizer(flatten_parts(silent, IMAGE)), SYSTEM)
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('none') }}{% endif %}"
    with pytest.raises(RecipeError, match=r"model.system: the chat template takes no system prompt"):
        add_system(tokenizer(refusing), SYSTEM)
