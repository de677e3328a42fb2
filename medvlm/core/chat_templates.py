"""Chat templates for tokenizers that have none: by name, or as Jinja in a recipe."""

from __future__ import annotations

import json
from typing import Any

from medvlm.core.errors import RecipeError, did_you_mean

_TURNS = (
    "{{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}}"
    "{{{{ bos_token }}}}{start}{{% for message in messages %}}{{% if message['role'] == 'user' %}}"
    "{again}{{{{ {asked} }}}}{{% elif message['role'] == 'assistant' %}}"
    "{{{{ {answered} + eos_token }}}}{{% endif %}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}{opening}{{% endif %}}"
)
_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and"
    " polite answers to the user's questions."
)
TEMPLATES = {
    # FastChat's conv_vicuna_v1.1, which LLaVA 1.5 uses too.
    "vicuna": _TURNS.format(
        start="{{ (system or " + json.dumps(_VICUNA) + ") + ' ' }}",
        again="",
        asked="'USER: ' + message['content'] + ' '",
        answered="'ASSISTANT: ' + message['content']",
        opening="ASSISTANT:",
    ),
    # Meta's Llama 2, without its default system prompt.
    "llama2": _TURNS.format(
        start="",
        again=(
            "{% set above = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' if system and loop.index0 == 1 else '' %}"
            "{% if loop.index0 > 1 %}{{ bos_token }}{% endif %}"
        ),
        asked="'[INST] ' + above + message['content'] + ' [/INST]'",
        answered="' ' + message['content'] + ' '",
        opening="",
    ),
    # For base models, which know no roles.
    "plain": _TURNS.format(
        start="{{ system + '\\n' if system else '' }}",
        again="",
        asked="'Question: ' + message['content'] + '\\n'",
        answered="'Answer: ' + message['content']",
        opening="Answer:",
    ),
    # T5: the text that the encoder reads ends with the end token, as does the one that the decoder writes.
    "encoded": _TURNS.format(
        start="{{ system + '\\n' if system else '' }}",
        again="",
        asked="message['content']",
        answered="eos_token + message['content']",
        opening="{{ eos_token }}",
    ),
}

CONTENT = "'content': part.text"
# Chat templates of text-only models expect a message's content as text, but processors pass a list of parts. This
# prefix turns lists into text first, so one template serves training, evaluation and the exported model.
FLATTEN = (
    "{%- set flat = namespace(messages=[]) -%}{%- for m in messages -%}{%- set part = namespace(text='') -%}"
    "{%- if m['content'] is string -%}{%- set part.text = m['content'] -%}{%- else -%}{%- for p in m['content'] -%}"
    "{%- set part.text = part.text + ('IMAGE' if p['type'] == 'image' else p['text']) -%}{%- endfor -%}{%- endif -%}"
    "{%- set flat.messages = flat.messages + [{'role': m['role'], "
    + CONTENT
    + "}] -%}{%- endfor -%}{%- set messages = flat.messages -%}"
)


def flatten_parts(template: str, image: str) -> str:
    """A template that takes messages of parts too, with `image` for each picture."""
    return template if FLATTEN.partition("IMAGE")[0] in template else FLATTEN.replace("IMAGE", image) + template


def add_system(speaker: Any, system: str) -> None:
    """Makes the chat template of a tokenizer or a processor begin with a system prompt, if a conversation has none. It
    is saved and exported with it.

    Raises RecipeError for a template that leaves it out."""
    given = json.dumps(system, ensure_ascii=False)
    prefix = (
        "{%- if messages[0]['role'] != 'system' -%}{%- set messages = [{'role': 'system', 'content': ("
        + given
        + " if messages[0]['content'] is string else [{'type': 'text', 'text': "
        + given
        + "}])}] + messages -%}{%- endif -%}"
    )
    if speaker.chat_template.startswith(prefix):
        return
    speaker.chat_template = prefix + speaker.chat_template
    asked = [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}]
    try:
        text = speaker.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    except Exception as reason:  # a template may fail in any way
        raise RecipeError(
            f"model.system: the chat template takes no system prompt ({type(reason).__name__}: {reason}); remove it, or"
            " give another template"
        ) from None
    if system.strip() not in text:
        raise RecipeError(
            "model.system: the chat template leaves the system prompt out; remove it, or give another template"
        )


def refuse_template(given: str) -> str:
    """Why a `template` of a recipe cannot be used, or ""."""
    if not given or given in TEMPLATES:
        return ""
    if "{" not in given:
        near = did_you_mean(given, TEMPLATES)
        return f"no template is called {given!r}{near}; expected {', '.join(TEMPLATES)}, or a template in Jinja"
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        # The tags that transformers adds to Jinja.
        ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(given)
    except TemplateSyntaxError as reason:
        if "generation" not in str(reason):
            return f"is not Jinja: {reason} (line {reason.lineno})"
    return ""


def try_template(tokenizer: Any, where: str) -> None:
    """Raises RecipeError unless its template keeps question and answer, continues the prompt that asks, and ends an
    answer with the end token."""
    question, answer = "How many?", "Three."
    asked = [{"role": "user", "content": question}]
    try:
        prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(
            [*asked, {"role": "assistant", "content": answer}], tokenize=False, add_generation_prompt=False
        )
    except Exception as reason:  # a template may fail in any way
        raise RecipeError(f"{where}: {type(reason).__name__}: {reason}") from None
    if question not in prompt or answer not in whole:
        raise RecipeError(f"{where}: leaves out the content of messages; expected message['content'] of both roles")
    if not whole.startswith(prompt):
        raise RecipeError(
            f"{where}: a conversation with an answer does not begin with the prompt ({prompt[-40:]!r}); write the same"
            " opening of an answer in both"
        )
    if not whole.rstrip().endswith(str(tokenizer.eos_token)):
        raise RecipeError(f"{where}: an answer does not end with eos_token, so generation would never stop; add it")
