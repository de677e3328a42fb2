"""Chat templates for tokenizers that have none: by name, or as Jinja in a recipe."""

from __future__ import annotations

from typing import Any

from medvlm.core.errors import RecipeError, did_you_mean

_TURNS = (
    "{{{{ bos_token }}}}{start}{{% for message in messages %}}{{% if message['role'] == 'user' %}}"
    "{{{{ {asked} }}}}{{% elif message['role'] == 'assistant' %}}"
    "{{{{ {answered} + eos_token }}}}{{% endif %}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}{opening}{{% endif %}}"
)
_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and"
    " polite answers to the user's questions. "
)
TEMPLATES = {
    # FastChat's conv_vicuna_v1.1, which LLaVA 1.5 uses too.
    "vicuna": _TURNS.format(
        start=_VICUNA,
        asked="'USER: ' + message['content'] + ' '",
        answered="'ASSISTANT: ' + message['content']",
        opening="ASSISTANT:",
    ),
    # Meta's Llama 2, without a system prompt.
    "llama2": _TURNS.format(
        start="",
        asked="'[INST] ' + message['content'] + ' [/INST]'",
        answered="' ' + message['content'] + ' '",
        opening="",
    ),
    # For base models, which know no roles.
    "plain": _TURNS.format(
        start="",
        asked="'Question: ' + message['content'] + '\\n'",
        answered="'Answer: ' + message['content']",
        opening="Answer:",
    ),
}


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
