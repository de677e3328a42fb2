"""`medvlm chat`: ask a run, an exported folder, or any vision-language model of transformers about your own files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medvlm.commands.files import read_files, require_files
from medvlm.core.errors import RecipeError

Talk = Callable[[str], str]


def talk(model: str, paths: Sequence[Path], kind: str = "", stage: str = "", max_new_tokens: int = 256) -> Talk:
    """A function from question to greedy answer. Above the answer stand replies that called tools, and what these
    showed. Each question is about all the files and starts a new conversation; it raises DataError for one that is not
    Unicode.

    model: a run's folder, an exported folder, or a folder or hub id of transformers. kind: the kind of media of the
    files, one that the model has an encoder for; by default the first that takes films or volumes. Raises UserError if
    something cannot be opened."""
    from medvlm.compositions._open import open_model
    from medvlm.compositions._opened import find
    from medvlm.core.ask import Ask, make_own_question

    require_files(paths)  # before a model is read, which may take minutes
    opened = open_model(model, stage, device="auto", max_new_tokens=max_new_tokens)
    answerer = find(opened, "answer")
    if answerer is None:
        raise RecipeError("this model can embed images but not answer questions; try medvlm embed")
    sample, files = read_files(paths, lambda axes: answerer.kind_of(axes, kind))

    def ask(question: str) -> str:
        asked = Ask(sample, files, make_own_question(question), "media" if paths else "none")
        return describe(answerer.answer([asked])[0])

    return ask


def describe(answer: str) -> str:
    """An answer, after the replies that called tools."""
    steps: Sequence[Any] = getattr(answer, "steps", ())
    return "\n".join([*(f"{step.said}\n  {step.tell()}" for step in steps), str(answer)])
