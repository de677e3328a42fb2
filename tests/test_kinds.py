"""Nothing but its own file names a kind: adding or removing one touches one file.

A kind is the name of a file in a slot's folder. This looks in the syntax tree of every module of medvlm for a
string constant equal to a kind in a comparison, a match, a dictionary key, a subscript, a Literal or a collection, for
one that is handed to `component`, and for an import of a kind's module.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "medvlm"
SLOTS = """
archive/readers backbones compositions connectors decoders encoders evaluate/protocols export/targets
families knowledge objectives/heads objectives/joint objectives/pairs objectives/policies objectives/preferences
objectives/ssl released rewards rollouts scoring stages tasks tasks/codecs texts tools
"""

OTHER_MEANING = {
    ("rewards/tagged_steps.py", "length"): "the name of a step",
    ("stages/_drawn.py", "calls"): "a number that is logged",
    ("archive/audit/receipt.py", "findings"): "what an audit found",
    ("archive/audit/receipt.py", "labels"): "key of the receipt",
    ("archive/audit/scan.py", "report"): "a sample's report",
    ("archive/audit/terms.py", "open"): "terms of access",
    ("archive/finders/_columns.py", "labels"): "key of a card's question",
    ("archive/finders/_columns.py", "report"): "key of a card's reader",
    ("archive/finders/_folder.py", "boxes"): "key of a card's reader",
    ("archive/finders/_folder.py", "count"): "key of a card's reader",
    ("archive/finders/_folder.py", "mask"): "key of a card's reader",
    ("archive/finders/_volumes.py", "length"): "a unit of NIfTI",
    ("archive/finders/dicom_files.py", "report"): "key of a card's reader",
    ("archive/finders/tables.py", "mask"): "key of a card's reader",
    ("archive/mask_labels.py", "gate"): "a check of headers",
    ("archive/masks.py", "labels"): "what the values of a mask are",
    ("archive/phantom/text.py", "length"): "template of a question",
    ("archive/phantom/text.py", "report"): "template of a question",
    ("compositions/dual.py", "heads"): "module of a dual encoder",
    ("decoders/co_seg.py", "heads"): "heads of attention",
    ("decoders/grounded.py", "heads"): "heads of attention",
    ("compositions/server.py", "length"): "why a server ended an answer",
    ("core/card.py", "open"): "terms of access",
    ("core/problems.py", "loc"): "pydantic's place of an error",
    ("core/stage_config.py", "linear"): "schedule of the learning rate",
    ("data/processor.py", "labels"): "input of transformers' models",
    ("data/prepare.py", "report"): "a sample's report is shown",
    ("decoders/dual_attention.py", "heads"): "attention heads",
    ("decoders/clipseg.py", "mlp"): "its own setting",
    ("decoders/scale_language.py", "heads"): "attention heads",
    ("decoders/mask2former.py", "heads"): "attention heads",
    ("decoders/mask2former.py", "mlp"): "its own setting",
    ("decoders/_sam.py", "heads"): "attention heads",
    ("decoders/_sam.py", "mlp"): "its own setting",
    ("decoders/flans.py", "tower"): "its own setting",
    ("decoders/segformer.py", "heads"): "attention heads",
    ("encoders/primus.py", "heads"): "its own setting",
    ("encoders/slices.py", "encoder"): "its own setting",
    ("encoders/transformers.py", "clip"): "model_type of transformers",
    ("encoders/transformers.py", "siglip"): "model_type of transformers",
    ("commands/identity.py", "order"): "key of a source",
    ("evaluate/protocols/_questions.py", "points"): "operating points",
    ("evaluate/protocols/_rows.py", "points"): "operating points",
    ("evaluate/protocols/_variants.py", "points"): "operating points",
    ("export/card/front.py", "tags"): "key of the hub's model card",
    ("export/card/text.py", "open"): "terms of access",
    ("export/proof/custom_child.py", "answers"): "content of a reference",
    ("export/proof/custom_child.py", "transformers"): "name of a library",
    ("export/proof/nnunet_child.py", "timm"): "name of a library",
    ("export/proof/parity.py", "answers"): "content of a reference",
    ("export/proof/stock_child.py", "answers"): "content of a reference",
    ("export/proof/stock_child.py", "count"): "key of a reference",
    ("export/proof/stock_child.py", "open_clip"): "name of a library",
    ("export/proof/stock_child.py", "siglip"): "model_type of transformers",
    ("export/proof/stock_child.py", "timm"): "name of a library",
    ("export/proof/stock_child.py", "transformers"): "name of a library",
    ("export/card/page.py", "findings"): "what an audit found",
    ("export/card/text.py", "window"): "a setting of preprocessing",
    ("export/part.py", "heads"): "module of a dual encoder",
    ("export/proof/bundle_child.py", "count"): "key of a reference",
    ("export/proof/bundle_child.py", "monai"): "name of a library",
    ("export/proof/reference.py", "count"): "key of a reference",
    ("export/targets/monai_bundle.py", "clip"): "an argument of MONAI",
    ("export/targets/monai_bundle.py", "format"): "key of a bundle's metadata",
    ("export/targets/monai_bundle.py", "labels"): "an argument of MONAI",
    ("export/targets/onnx.py", "heads"): "module of a dual encoder",
    ("export/targets/custom.py", "format"): "metadata of safetensors",
    ("export/targets/idefics3.py", "encoder"): "module of a tower",
    ("export/targets/open_clip.py", "format"): "metadata of safetensors",
    ("commands/arguments.py", "answers"): "what a model is to learn",
    ("commands/arguments.py", "labels"): "what a model is to learn",
    ("commands/serving/requests.py", "loc"): "pydantic's place of an error",
    ("commands/fingerprint.py", "window"): "a setting of preprocessing",
    ("commands/first_small.py", "answers"): "what a model is to learn",
    ("commands/first_small.py", "boxes"): "a section of a recipe",
    ("commands/first_small.py", "labels"): "what a model is to learn",
    ("commands/first_small.py", "window"): "a setting of preprocessing",
    ("commands/init_arguments.py", "answers"): "what a model is to learn",
    ("commands/init_arguments.py", "labels"): "what a model is to learn",
    ("commands/init_folder.py", "count"): "key of a card's reader",
    ("commands/init_folder.py", "mask"): "key of a card's reader",
    ("commands/init_folder.py", "report"): "key of a card's reader",
    ("commands/first_recipe.py", "clip"): "model_type of transformers",
    ("commands/first_recipe.py", "heads"): "module of a dual encoder",
    ("commands/first_recipe.py", "report"): "key of a card's reader",
    ("commands/first_recipe.py", "siglip"): "model_type of transformers",
    ("export/trained.py", "window"): "a setting of preprocessing",
    ("io/phi/header.py", "gate"): "a parameter of a reader",
    ("objectives/policy.py", "mask"): "tokens whose ratio is out of bounds",
    ("objectives/ssl/_masked.py", "heads"): "attention heads",
    ("preflight/memory.py", "heads"): "module of a dual encoder",
    ("preflight/samples.py", "report"): "a sample's report",
    ("preflight/rehearsal/shrink.py", "heads"): "attention heads",
    ("report/provenance.py", "open"): "terms of access",
    ("report/results.py", "measure"): "a column of the results",
    ("report/stats_media.py", "slices"): "axis of a volume",
    ("rewards/gate.py", "choice"): "a reward of its examples",
    ("rewards/gate.py", "format"): "a reward of its examples",
    ("rewards/inside.py", "choice"): "a reward of its examples",
    ("rewards/judge_score.py", "length"): "why a server ended an answer",
    ("rewards/product.py", "choice"): "a reward of its examples",
    ("rewards/product.py", "length"): "a reward of its examples",
    ("stages/_captions.py", "report"): "a sample's report is read",
    ("stages/ssl.py", "encoder"): "its own setting",
    ("stages/supervised.py", "answers"): "how tokens are weighed",
    ("stages/_grpo_config.py", "grpo"): "the kind of its stage",
    ("stages/_supervised_config.py", "answers"): "how tokens are weighed",
    ("stages/_supervised_config.py", "report"): "a sample's report is shown",
    ("stages/_supervised_config.py", "supervised"): "the kind of its stage",
    ("train/consolidate.py", "format"): "metadata of safetensors",
    ("train/optim.py", "linear"): "schedule of the learning rate",
    ("tasks/_notations.py", "box_2d"): "key of a JSON answer",
    ("tasks/measure.py", "length"): "what is measured",
    ("tasks/report.py", "findings"): "its own setting",
}
"""(file, word) -> what the word means there: it happens to be a kind too."""


@dataclass(frozen=True)
class Finding:
    file: str
    line: int
    word: str
    what: str


def kinds() -> dict[str, set[str]]:
    """Kind -> the files that are it."""
    files: dict[str, set[str]] = {}
    for slot in SLOTS.split():
        for path in (PACKAGE / slot).glob("*.py"):
            if not path.name.startswith("_"):
                files.setdefault(path.stem, set()).add(path.relative_to(PACKAGE).as_posix())
    return files


def find(source: str, file: str, known: dict[str, set[str]]) -> Iterator[Finding]:
    modules = {
        "medvlm." + own.removesuffix(".py").replace("/", "."): own for owners in known.values() for own in owners
    }
    nodes = list(ast.walk(ast.parse(source)))
    # LIBRARY, LOADER = "timm", "timm" is two assignments, no collection.
    unpacked = [n.value for n in nodes if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Tuple)]
    for node in nodes:
        for part, what in () if node in unpacked else name_places(node):
            if isinstance(part, ast.Constant) and part.value in known and file not in known[part.value]:
                yield Finding(file, part.lineno, part.value, what)
        for module in name_imports(node):
            if isinstance(node, ast.stmt) and module in modules and modules[module] != file:
                yield Finding(file, node.lineno, module.rpartition(".")[2], "import")


def name_places(node: ast.AST) -> Iterator[tuple[ast.AST | None, str]]:
    """The parts of a node in which a constant would name a kind, and what they are."""
    match node:
        case ast.Compare():
            yield from ((part, "comparison") for part in (node.left, *node.comparators))
        case ast.MatchValue():
            yield node.value, "match"
        case ast.Dict():
            yield from ((key, "key") for key in node.keys)
        case ast.Subscript():
            yield node.slice, "subscript"
        case ast.Tuple() | ast.List() | ast.Set():
            yield from ((item, "collection") for item in node.elts)
        case ast.Call(func=ast.Name(id="component")):
            yield from ((part, "component") for part in node.args[1:])


def name_imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def findings() -> list[Finding]:
    known = kinds()
    return [
        finding
        for path in sorted(PACKAGE.rglob("*.py"))
        for finding in find(path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).as_posix(), known)
    ]


def test_no_file_names_a_kind_that_is_another_file() -> None:
    wrong = [f for f in findings() if (f.file, f.word) not in OTHER_MEANING]
    assert not wrong, "\n".join(f"{f.file}:{f.line}: {f.word!r} ({f.what})" for f in wrong)


def test_every_entry_of_the_table_is_needed() -> None:
    found = {(f.file, f.word) for f in findings()}
    assert sorted(OTHER_MEANING.keys() - found) == [], "take them out"


def test_every_way_to_name_a_kind_is_found() -> None:
    known = {"mlp": {"connectors/mlp.py"}}
    ways = {
        'kind == "mlp"': "comparison",
        'kind in ("a", "mlp")': "collection",
        'Literal["mlp"]': "subscript",
        'Literal["a", "mlp"]': "collection",
        '{"mlp": 1}': "key",
        'sizes["mlp"]': "subscript",
        '["mlp"]': "collection",
        '{"mlp"}': "collection",
        'component("connectors", "mlp")': "component",
        'match kind:\n    case "mlp": ...': "match",
        "import medvlm.connectors.mlp": "import",
        "from medvlm.connectors import mlp": "import",
        "from medvlm.connectors.mlp import build": "import",
    }
    for source, what in ways.items():
        assert [(f.word, f.what) for f in find(source, "recipe/rules.py", known)] == [("mlp", what)], source
        assert list(find(source, "connectors/mlp.py", known)) == [], "its own file"
    for source in ('say("mlp")', '"""mlp"""', 'LIBRARY, LOADER = "mlp", "mlp"', '{"kind": "mlp"}'):
        assert list(find(source, "recipe/rules.py", known)) == [], source
