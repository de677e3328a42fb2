"""The section `environment` of a recipe: what a model can ask for before it answers."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from medvlm.core.config import Config, Slot

PLACE = "{}"


class ToolConfig(Config):
    """Base of the settings of a tool (medvlm/tools/KIND.py)."""

    kind: str
    word: str = Field("", pattern=r"^\S*$", exclude_if=lambda word: not word)
    """What a call begins with; by default the kind."""
    form: str = Field("", exclude_if=lambda form: not form)
    """How it is called, with {} for what is asked, where a model was taught another form: `<CXR({})>`. It is a call if
    it stands once, anywhere in a reply. By default the last line is `WORD ...`."""
    says: str = Field("", exclude_if=lambda says: not says)
    """What is said beside what is shown, with {} for the words of the tool; by default those alone."""
    taught_by: str = Field("", exclude_if=lambda template: not template)
    """The template of the question whose truth says what an expert would ask this tool for, e.g. `boxes:mark`. {} in it
    is what stands behind the colon in the template of the question that is answered: with `boxes:{}`, `presence:nodule`
    is taught by `boxes:nodule`. Only `medvlm data turns` uses it."""

    @field_validator("form")
    @classmethod
    def _has_a_place(cls, form: str) -> str:
        if form and (form.count(PLACE) != 1 or form.endswith(PLACE) or form.startswith(PLACE)):
            raise ValueError(
                f"{form!r}: expected {PLACE} once, with something before and after it, as in <CXR({PLACE})>"
            )
        return form

    @property
    def name(self) -> str:
        return self.word or self.kind.rpartition(".")[2]

    def find_teacher(self, template: str) -> str:
        """The template of the question that teaches the call for a question of this template."""
        return self.taught_by.replace(PLACE, template.partition(":")[2])

    def write(self, asked: str) -> str:
        """A call."""
        return self.form.replace(PLACE, asked) if self.form else f"{self.name} {asked}".strip()

    def read(self, said: str) -> str | None:
        """What a reply asks of the tool; None if it does not call it."""
        if self.form:
            before, after = map(re.escape, self.form.split(PLACE))
            calls = re.findall(f"{before}(.*?){after}", said, re.DOTALL)
            return str(calls[0]).strip() if len(calls) == 1 else None
        last = said.strip().rpartition("\n")[2].strip()
        found = re.fullmatch(rf"{re.escape(self.name)}(?!\w)[ :]*(.*)", last)
        return found[1] if found else None

    def tell(self, text: str) -> str:
        """What is said beside what is shown. text: the words of the tool."""
        return self.says.replace(PLACE, text) if self.says else text


class Environment(Config):
    """Several turns: a reply whose last line calls a tool is followed by what the tool shows, and then by another
    reply. The last one is the answer."""

    turns: int = Field(2, gt=1)
    """Replies to a question, at most. The last one is the answer, whatever it says."""
    tools: tuple[Annotated[Any, Slot("tools", or_default=True)], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _tools_differ(self) -> Environment:
        names = [tool.name for tool in self.tools]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"tools: {name!r} is called by two tools; give one of them another `word`")
        return self
