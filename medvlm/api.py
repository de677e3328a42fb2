"""medvlm from Python: one function per command. It does what the command does, and raises where that exits.

    from medvlm import api
    run = api.train("recipe.yaml", ["stages.align.steps=10"])
    rows = api.evaluate(run)

Functions can be called repeatedly in one process. They import libraries when needed: this module loads no torch. They
raise UserError for what the caller can fix (exit code 2), and Preempted after a clean save (75).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from medvlm.commands.data_verbs import Say, Where, audit, pack, show, stats, tasks, turns  # noqa: F401
from medvlm.commands.mask_verbs import segment  # noqa: F401
from medvlm.commands.serve_verb import serve  # noqa: F401

if TYPE_CHECKING:
    from medvlm.commands.dry_run import Line
    from medvlm.commands.reward_cases import ScoredCase
    from medvlm.commands.rl_check import Finding
    from medvlm.commands.verify import Check
    from medvlm.core.protocols import Row
    from medvlm.evaluate.compare import Comparison
    from medvlm.evaluate.reinforcement import Judgement
    from medvlm.export.run import ExportReceipt
    from medvlm.preflight.plan import Plan


def init(
    model: str = "",
    table: Where | None = None,
    *,
    data: Where | None = None,
    goal: str = "",
    image: str = "",
    question: str = "",
    answer: str = "",
    captions: str = "",
    patient: str = "",
    to: Where = ".",
    settings: Sequence[str] = (),
) -> list[str]:
    """Write a recipe and a data card for a folder or a table; returns lines that say what was found and written.

    model: a pretrained model, "" for small networks. data: the folder to look at. table: a table; with question and
    answer, or with captions, only these columns are read. goal: answers, captions, labels or masks; by default what
    fits. image, question, answer, captions, patient: names of columns. settings: key.path=value of the card."""
    roles = {"image": image, "question": question, "answer": answer, "captions": captions, "patient": patient}
    if data is None and table is not None and model and any(roles.values()):
        from medvlm.commands.first_recipe import TableColumns
        from medvlm.commands.init import init as run

        return run(model, Path(table), TableColumns(**roles), Path(to))
    from medvlm.commands.init_folder import init_folder, place_table

    folder, name = place_table(Path(data) if data else None, Path(table) if table else None)
    return init_folder(folder, Path(to), model=model, goal=goal, roles=roles, settings=settings, table=name)


def validate(recipe: Where, overrides: Sequence[str] = ()) -> list[str]:
    """Check a recipe without reading weights; returns lines that say what was checked. overrides: key.path=value."""
    from medvlm.recipe.load import validate as run

    return run(recipe, overrides)


def plan(
    recipe: Where,
    overrides: Sequence[str] = (),
    *,
    runs: Where = "runs",
    gpus: str = "",
    gpu_gib: float | None = None,
    mfu: float = 0.4,
) -> Plan:
    """Parameters, tokens, memory and time of a recipe, on the meta device. gpus: NAME:GPUS[xNODES], e.g. h200:8x2.
    gpu_gib: memory of one GPU, for any other model."""
    from medvlm.preflight.gpus import parse
    from medvlm.preflight.plan import plan as run
    from medvlm.recipe.load import load

    machines = parse(gpus, gpu_gib) if gpus or gpu_gib is not None else None
    return run(load(recipe, overrides), Path(runs), machines, mfu)


def fingerprint(place: Where, *, gpu_gib: float | None = None, say: Say = lambda line: None) -> str:
    """A recipe (YAML) for the masks of shards, or of CARD=ROOT, by the rules of nnU-Net. gpu_gib: of a GPU, or 8."""
    from medvlm.commands.fingerprint import propose_recipe

    return propose_recipe(str(place), gpu_gib, say)


def dry_run(
    recipe: Where, overrides: Sequence[str] = (), *, runs: Where = "runs", say: Say = lambda line: None
) -> list[Line]:
    """Run the whole recipe at toy size; returns what was tried and what was not checked. say: receives progress."""
    from medvlm.commands.dry_run import dry_run as run
    from medvlm.recipe.load import load

    return run(load(recipe, overrides), Path(runs), say)


def train(
    recipe: Where,
    overrides: Sequence[str] = (),
    *,
    runs: Where = "runs",
    stage: str = "",
    again_from: str = "",
    on_step: Callable[[dict[str, Any]], Any] | None = None,
    on_validation: Callable[[dict[str, Any]], Any] | None = None,
    on_checkpoint: Callable[[Path], Any] | None = None,
) -> Path:
    """Train the stages of a recipe, or only `stage`; returns the run folder. If called again, it resumes.

    again_from: sets this stage and all later ones aside and trains them again. on_step, on_validation: called with the
    record of metrics.jsonl. on_checkpoint: called with the folder of a checkpoint that is on disk. All three are called
    on the first process, and what they raise ends the run; SIGTERM to the own process stops it after a save."""
    from medvlm.commands.train import train as run
    from medvlm.recipe.load import load

    hooks = SimpleNamespace(on_step=on_step, on_validation=on_validation, on_checkpoint=on_checkpoint)
    return run(load(recipe, overrides), Path(runs), stage, again_from, hooks=[hooks]).root


def evaluate(
    who: Where,
    on: Sequence[str] = (),
    *,
    stage: str = "",
    overrides: Sequence[str] = (),
    runs: Where = "runs",
    start: bool = False,
) -> list[Row]:
    """Evaluate a run, a recipe without stages, or a model by folder, hub id or address of a server; returns the rows of
    results.json.

    on: SOURCE[:SPLIT]; for a model, CARD_OR_SHARDS[:SPLIT]. runs: where the folder of a model is made.
    start: evaluate what a run started from, in runs/NAME/start."""
    from medvlm.commands.evaluate import evaluate as run

    return run(who, on, stage, overrides, Path(runs), start)


def rl_check(
    who: Where,
    on: Sequence[str] = (),
    *,
    stage: str = "",
    overrides: Sequence[str] = (),
    runs: Where = "runs",
    draws: int = 8,
    temperature: float = 1.0,
) -> list[Finding]:
    """Draw several answers to each question; returns for each task whether reinforcement can help."""
    from medvlm.commands.rl_check import rl_check as run

    return run(who, on, stage, overrides, Path(runs), draws, temperature)


def rl_helps(
    run: Where, on: Sequence[str] = (), stage: str = "", seeds: int = 3, overrides: Sequence[str] = (), to: Where = ""
) -> Judgement:
    """Train the stage with rewards and a supervised control of equal compute with several seeds, and judge whether
    reinforcement helped. `to`: folder of these runs, by default RUN/rl-helps. If called again, it resumes."""
    from medvlm.commands.rl_helps import plan
    from medvlm.commands.rl_helps import rl_helps as do

    return do(plan(Path(run), on, stage, seeds, overrides, Path(to) if to else None))


def compare(runs: Sequence[Where | Sequence[Where]], to: Where = "compare.html") -> list[Comparison]:
    """Compare evaluated runs with the first one on the questions that they share, paired by patient. Writes a page to
    `to`, and a JSON file beside it. runs: run folders; those of one model with other seeds are a sequence."""
    from medvlm.commands.compare import compare_runs as run

    models = [[each] if isinstance(each, str | Path) else each for each in runs]
    return run([[Path(folder) for folder in folders] for folders in models], Path(to))


def check_cases(file: Where) -> list[ScoredCase]:
    """Score the answers of a file, and compare with what it expects of a reward (`medvlm tasks test`)."""
    from medvlm.commands.reward_cases import check_cases as run

    return run(Path(file))


def report(run_folder: Where) -> Path:
    """Write the HTML report of a run, or index.html of a folder of runs; returns its path."""
    from medvlm.report.index import report as run

    return run(Path(run_folder))


def export(run_folder: Where, to: Where, *, stage: str = "", targets: Sequence[str] = ()) -> list[ExportReceipt]:
    """Write a model folder with its parity proof and model card; returns one receipt per target (default: the recipe's
    targets)."""
    from medvlm.commands.export import export as run
    from medvlm.core.run import RunFolder

    return run(RunFolder(Path(run_folder)), Path(to), targets, stage)


def evidence(run_folder: Where, to: Where, *, model: Where | None = None) -> list[str]:
    """Write a folder from which others can check a run; returns what it has and lacks. model: its exported model."""
    from medvlm.commands.evidence import write_evidence as run
    from medvlm.core.run import RunFolder

    return run(RunFolder(Path(run_folder)), Path(to), Path(model) if model else None)


def verify(folder: Where, *, model: Where | None = None) -> list[Check]:
    """Check a folder of evidence; returns what was found, with `is_fault` where it is not what it says it is."""
    from medvlm.commands.verify import verify as run

    return run(Path(folder), Path(model) if model else None)


def push(
    where: Where, name: str, *, stage: str = "", targets: Sequence[str] = (), public: bool = False, send: bool = False
) -> str:
    """Describe what would be sent to the hub as ORG/NAME; with `send`, send it and return its address."""
    from medvlm.commands.export import push as prepare
    from medvlm.export.hub import send as send_upload

    upload = prepare(Path(where), name, targets, stage, public)
    return send_upload(upload) if send else str(upload)


def chat(
    model: Where, files: Sequence[Where] = (), *, kind: str = "", stage: str = "", max_new_tokens: int = 256
) -> Callable[[str], str]:
    """A function from question to answer about the files. model: a run, an exported folder, or a transformers
    model."""
    from medvlm.commands.chat import talk

    return talk(str(model), [Path(file) for file in files], kind, stage, max_new_tokens)


def predict(
    model: Where,
    on: Sequence[Where],
    to: Where,
    *,
    questions: Sequence[str] = (),
    stage: str = "",
    kind: str = "",
    max_new_tokens: int = 256,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
) -> list[dict[str, Any]]:
    """Write the answers and class probabilities of a model for data without truth to a parquet file; returns its rows.

    on: folders of files, files, or SHARDS[:SPLIT]. questions: asked about each image; by default those of the
    shards."""
    from medvlm.commands.predict import predict as run

    where = [str(each) for each in on]
    return run(str(model), where, Path(to), questions, stage, kind, max_new_tokens, precision=precision)


def embed(model: Where, sources: Sequence[Where], to: Where, *, stage: str = "", kind: str = "") -> int:
    """Write an embedding of every image in shards or files to a parquet file; returns their number."""
    from medvlm.commands.embed import embed as run

    return run(str(model), [str(source) for source in sources], Path(to), stage, kind)


def consolidate(checkpoint: Where, to: Where) -> list[Path]:
    """Write the weights of a checkpoint, or of RUN[:STAGE], to safetensors files; returns their paths."""
    from medvlm.commands.lineage import find_checkpoint
    from medvlm.train.consolidate import consolidate as run

    return run(find_checkpoint(str(checkpoint)), Path(to))


def lineage(checkpoint: Where) -> list[str]:
    """Lines that say what a checkpoint, or RUN[:STAGE], was made from, and what is no longer as it was saved."""
    from medvlm.commands.lineage import describe_lineage as run

    return run(str(checkpoint)).lines


def schema(what: Literal["recipe", "card"] = "recipe") -> dict[str, Any]:
    """The JSON schema of recipes or data cards."""
    from medvlm.recipe.json_schema import build_schema as run

    return run(what)


def completion(shell: Literal["bash", "zsh", "tcsh"]) -> str:
    """The script that completes the commands and options of medvlm in a shell."""
    import shtab

    from medvlm.commands.arguments import make_parser

    return shtab.complete(make_parser(), shell)


def demo(overrides: Sequence[str] = (), *, runs: Where = "runs", real: Where | None = None, goal: str = "") -> None:
    """Train, evaluate, export and report on generated data, or on a folder of pictures with small pretrained parts.
    real: the folder. goal: of it, answers, labels or masks. Raises RecipeError for a goal without it."""
    from medvlm.commands.demo import demo as run
    from medvlm.commands.demo import demo_real
    from medvlm.core.errors import RecipeError

    if real is None:
        if goal:
            raise RecipeError(f"--for {goal}: give --real FOLDER too")
        run(Path(runs), overrides)
    else:
        demo_real(Path(runs), Path(real), goal, overrides)
