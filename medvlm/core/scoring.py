"""The interface of scoring rules (files of medvlm/scoring, or modules of plug-ins), which a data card names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol

from medvlm.core.config import Config, Slot, component, is_available
from medvlm.core.measure import Measure

FOLDER = "scoring"


class RuleConfig(Config):
    """`scoring` of a data card."""

    kind: str


class Rule(Protocol):
    """A module that scores answers as published code does, with its mistakes. Its rows stand beside the strict score of
    medvlm, never in its place."""

    Config: type[RuleConfig]
    SOURCE: str
    """The published code: repository, file and commit, for the notes under the table."""

    def list_measures(self, config: Any) -> Sequence[Measure]:
        """Measures whose group is the kind. They may be about truths of any task that is answered in text: `is_about`
        says of which."""


CardRule = Annotated[Any, Slot(FOLDER, or_name=True)]
"""An entry of `scoring` in a data card: the kind of a rule, or its kind with settings."""


def dump_rule(rule: Any) -> dict[str, Any]:
    """An entry of `scoring` as plain data, to be saved with the answers."""
    config = component(FOLDER, rule).Config(kind=rule) if isinstance(rule, str) else rule
    dumped: dict[str, Any] = config.model_dump(mode="json")
    return dumped


def list_rule_measures(rules: Sequence[Mapping[str, Any]]) -> list[Measure]:
    """rules: as dump_rule() gives them."""
    modules = [(component(FOLDER, rule["kind"]), rule) for rule in rules]
    return [measure for module, rule in modules for measure in module.list_measures(module.Config.model_validate(rule))]


def name_source(group: str) -> str:
    """Where the rule is published that a group of measures belongs to; "" for other groups."""
    if not is_available(FOLDER, group):
        return ""
    source: str = component(FOLDER, group).SOURCE
    return source
