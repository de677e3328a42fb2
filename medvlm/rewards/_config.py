"""The `rewards` of a recipe: name -> weight, or the name's settings with a weight among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from medvlm.core.config import component, kinds, list_permitted, look_up, plugins_in
from medvlm.core.contracts import Case, RewardConfig
from medvlm.core.errors import RecipeError, did_you_mean, list_some, shorten
from medvlm.core.json_schemas import inline_definitions
from medvlm.core.problems import Problem, problems_of, wrap_problems
from medvlm.core.sample import Truth
from medvlm.core.tasks import find_task, list_tasks


@dataclass(frozen=True)
class Judge:
    """A reward's module, or a task's score in the form of one. needs_image_gain, waits, start: for some settings of it,
    see Reward."""

    Config: type[RewardConfig]
    applies: Callable[[Truth | Case, Any], bool]
    score: Callable[[str, Truth | Case, Any], float]
    is_task: bool = False
    needs_image_gain: Callable[[Any], bool] = lambda config: False
    waits: Callable[[Any], bool] = lambda config: False
    start: Callable[[Any], None] = lambda config: None


def as_case(about: Truth | Case) -> Case:
    return about if isinstance(about, Case) else Case(about)


@dataclass(frozen=True)
class Rewards:
    """The type of a field: `Annotated[dict[str, RewardConfig], Rewards()]`. nested: within the settings of a reward."""

    nested: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self.validate, serialization=core_schema.plain_serializer_function_ser_schema(dump_rewards)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        weight = {"type": "number", "exclusiveMinimum": 0}
        if self.nested:  # spelled out, it would never end
            return {"type": "object", "additionalProperties": {"anyOf": [weight, {"type": "object"}]}}
        known = {
            name: {"anyOf": [weight, inline_definitions(find_reward(name).Config.model_json_schema())]}
            for name in list_rewards()
        }
        return {
            "type": "object",
            "properties": known,
            "patternProperties": {r"\.": {"anyOf": [weight, {"type": "object"}]}},
            "additionalProperties": {
                "type": "object",
                "properties": {"kind": {"anyOf": [{"enum": list_rewards()}, {"type": "string", "pattern": r"\."}]}},
                "required": ["kind"],
            },
            "minProperties": 1,
        }

    def validate(self, value: Any, info: ValidationInfo) -> dict[str, RewardConfig]:
        read, problems = read_rewards(value, plugins_in(info))
        if problems:
            raise wrap_problems(problems)
        return read


def list_rewards() -> list[str]:
    """Those of medvlm: the files of the folder, and the tasks that score texts."""
    tasks = (kind for kind in list_tasks() if find_task(kind).score and find_task(kind).ANSWERED_BY == "text")
    return [*kinds("rewards"), *tasks]


def find_reward(name: str, plugins: Sequence[str] | None = None) -> Judge:
    """A file of medvlm/rewards, else a task. plugins: packages that it may come from, by default those permitted.

    Raises RecipeError for a name that is neither.
    """
    if "." in name:
        module = look_up("rewards", name, list_permitted() if plugins is None else plugins)
        if not _is_task(module):
            return _make_judge(module)
    elif name in kinds("rewards"):
        return _make_judge(component("rewards", name))
    elif name not in (known := list_rewards()):
        raise RecipeError(f"unknown reward {name!r}{did_you_mean(name, known)} (accepts {list_some(known)})")
    score = find_task(name).score
    if score is None:
        raise RecipeError(f"task {name!r} has no score, so it cannot be a reward")
    return Judge(
        RewardConfig,
        lambda about, config: as_case(about).truth.task == name,
        lambda completion, about, config: score(completion, as_case(about).truth),
        is_task=True,
    )


def _make_judge(module: Any) -> Judge:
    def read(about: Truth | Case) -> Any:
        return as_case(about) if getattr(module, "READS_CASE", False) else as_case(about).truth

    def list_parts(config: Any) -> Sequence[Any]:
        return module.list_parts(config) if hasattr(module, "list_parts") else ()

    def start(config: Any) -> None:
        if hasattr(module, "start"):
            module.start(config)
        for part in list_parts(config):
            part.start()

    return Judge(
        module.Config,
        lambda about, config: bool(module.applies(read(about), config)),
        lambda completion, about, config: float(module.score(completion, read(about), config)),
        needs_image_gain=lambda config: (
            getattr(module, "NEEDS_IMAGE_GAIN", False) or any(part.needs_image_gain for part in list_parts(config))
        ),
        waits=lambda config: getattr(module, "WAITS", False) or any(part.waits for part in list_parts(config)),
        start=start,
    )


def _is_task(module: ModuleType) -> bool:
    """A task has a Truth of its own; a reward's module may have imported one."""
    return getattr(getattr(module, "Truth", None), "__module__", "") == module.__name__


def read_rewards(value: Any, plugins: Sequence[str]) -> tuple[dict[str, RewardConfig], list[Problem]]:
    """The typed settings, and what is wrong with them."""
    if not isinstance(value, Mapping):
        return {}, [Problem((), expected="rewards with their weights", found=shorten(value))]
    if not value:
        return {}, [Problem((), f"give at least one reward, e.g. {{{list_rewards()[0]}: 1.0}}")]
    read: dict[str, RewardConfig] = {}
    problems: list[Problem] = []
    for name, settings in value.items():
        if isinstance(settings, RewardConfig):
            read[name] = settings
            continue
        is_number = isinstance(settings, int | float) and not isinstance(settings, bool)
        if not is_number and not isinstance(settings, Mapping):
            problems.append(Problem((name,), expected="a weight, or settings with a weight", found=shorten(settings)))
            continue
        try:
            own = {"weight": settings} if is_number else dict(settings)
            config = find_reward(str(own.get("kind") or name), plugins).Config
            read[name] = config.model_validate(own, context={"plugins": plugins})
        except RecipeError as reason:
            problems.append(Problem((name,), str(reason)))
        except ValidationError as invalid:
            for problem in problems_of(invalid, config):
                path = () if is_number else problem.path
                problems.append(Problem((name, *path), problem.message, problem.expected, problem.found))
    return read, problems


def dump_rewards(rewards: Mapping[str, RewardConfig]) -> dict[str, Any]:
    """As JSON has them: a bare weight where nothing else is set."""
    plain = {
        name: config.model_dump(mode="json", by_alias=True, exclude_defaults=True) for name, config in rewards.items()
    }
    return {name: each["weight"] if len(each) == 1 else each for name, each in plain.items()}
