"""`medvlm chat`: questions about somebody's own files to a run, an exported folder, or any vision-language model of
transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from medvlm.commands.files import sample_of
from medvlm.core.errors import RecipeError
from medvlm.core.sample import Question, make_truth

Talk = Callable[[str], str]


def talk(model: str, paths: Sequence[Path], kind: str = "", stage: str = "", max_new_tokens: int = 256) -> Talk:
    """A function from question to greedy answer. Each question is asked by itself, about all the files.

    model: a run's folder, an exported folder, or a folder or hub id of transformers. kind: what the files are, of the
    kinds that the model has encoders for; by default the first that takes films or volumes. Raises UserError for what
    cannot be opened."""
    from medvlm.compositions._open import open_model
    from medvlm.compositions._opened import find
    from medvlm.core.ask import Ask

    opened = open_model(model, stage, device="auto", max_new_tokens=max_new_tokens)
    answerer = find(opened, "answer")
    if answerer is None:
        raise RecipeError("this model embeds and does not answer; try medvlm embed")
    sample, files = sample_of(paths, lambda axes: answerer.kind_of(axes, kind))

    def ask(question: str) -> str:
        asked = Ask(sample, files, Question(question, make_truth("open"), "own"), "media" if paths else "none")
        return str(answerer.answer([asked])[0])

    return ask
