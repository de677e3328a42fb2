"""The command line. Each command imports its code only when it runs, so `medvlm --help` does not load torch."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from medvlm import __version__
from medvlm.core.errors import UserError

EXIT_DONE, EXIT_USER, EXIT_PREEMPTED = 0, 2, 75


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0 done, 2 the input is wrong, 75 preempted after a clean save. Any other code is a bug and
    comes with a traceback."""
    # By default, waiting threads spin, which makes a run up to 30 times slower as soon as another process needs a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    # argparse accepts overrides only next to each other; users write them anywhere.
    if rest and not (hasattr(args, "overrides") and all("=" in word and not word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides += rest
    try:
        args.run(args)
    except UserError as mistake:
        print(f"medvlm: {mistake}", file=sys.stderr)
        return EXIT_USER
    except Exception as raised:
        if type(raised).__name__ == "Preempted":  # importing its module would import torch
            print(f"medvlm: {raised}", file=sys.stderr)
            return EXIT_PREEMPTED
        raise
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medvlm", description="Train, evaluate and export medical vision-language models from a YAML recipe."
    )
    parser.add_argument("--version", action="version", version=f"medvlm {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    init = _verb(
        verbs, "init", _init, "write a recipe and a data card for a table of images with questions or captions"
    )
    init.add_argument(
        "--model",
        required=True,
        metavar="PATH_OR_ID",
        help="folder or hub id of a pretrained vision-language model (with --captions: of a CLIP or SigLIP model)",
    )
    init.add_argument(
        "--csv",
        type=Path,
        required=True,
        metavar="FILE",
        help="the table (.csv, .tsv, .jsonl or .json); the first line of a CSV or TSV file names the columns",
    )
    init.add_argument(
        "--image",
        required=True,
        metavar="COL",
        help="column with the path of the image, absolute or relative to the table's folder",
    )
    init.add_argument("--question", default="", metavar="COL", help="column with the question")
    init.add_argument("--answer", default="", metavar="COL", help="column with the answer")
    init.add_argument(
        "--captions",
        default="",
        metavar="COL",
        help="column with the text that belongs to the image; replaces --question and --answer",
    )
    init.add_argument(
        "--patient",
        default="",
        metavar="COL",
        help="column that identifies the patient; no patient will be in more than one split",
    )
    init.add_argument(
        "--to", type=Path, default=Path(), metavar="DIR", help="folder to write to (default: the current folder)"
    )

    train = _verb(verbs, "train", _train, "run the stages of a recipe; run the same command again to resume")
    _recipe(train)
    train.add_argument("--stage", default="", help="run only this stage")
    train.add_argument(
        "--from",
        dest="again_from",
        default="",
        metavar="STAGE",
        help="train this stage and all later ones again; their earlier results are set aside",
    )

    _recipe(_verb(verbs, "validate", _validate, "check a recipe, its cards and its shapes without reading weights"))

    plan = _verb(
        verbs,
        "plan",
        _plan,
        "show what a recipe trains, its memory and its time, computed on the meta device; say whether it fits and what"
        " would help",
    )
    _recipe(plan)
    plan.add_argument(
        "--gpus",
        default="",
        metavar="NAME:GPUS[xNODES]",
        help="GPUs to plan for: model, number per node, number of nodes, e.g. h200:8x2",
    )
    plan.add_argument(
        "--mfu",
        type=float,
        default=0.4,
        help="assumed share of the GPU's peak performance that training reaches (default: 0.4)",
    )
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")

    _recipe(
        _verb(
            verbs,
            "dry-run",
            _dry_run,
            "run the whole recipe at toy size on a CPU: every stage for two steps on small random weights, with saving,"
            " resuming, evaluation and export",
        )
    )

    evaluate = _verb(verbs, "evaluate", _evaluate, "evaluate a run on held-out data, with baselines and intervals")
    evaluate.add_argument("run_folder", type=Path, metavar="RUN", help="a run folder, e.g. runs/NAME")
    evaluate.add_argument(
        "--on",
        action="append",
        default=[],
        metavar="SOURCE[:SPLIT]",
        help="data to evaluate on; may be repeated (default: evaluate.on of the recipe)",
    )
    evaluate.add_argument("--stage", default="", help="use the model of this stage (default: the last one)")

    _verb(verbs, "report", _report, "write the HTML report of a run").add_argument(
        "run_folder", type=Path, metavar="RUN", help="a run folder, e.g. runs/NAME"
    )

    export = _verb(
        verbs,
        "export",
        _export,
        "write a model folder that stock transformers loads, with a proof of equal outputs and a model card",
    )
    export.add_argument(
        "run_folder", metavar="RUN[:STAGE]", help="a run folder, or an exported folder to send to the hub"
    )
    export.add_argument(
        "--to",
        required=True,
        metavar="DIR|hub:ORG/NAME",
        help="folder to write to; hub:ORG/NAME lists what would be sent to the hub, and sends it with --yes",
    )
    export.add_argument("--yes", action="store_true", help="send the model to the hub")
    export.add_argument("--public", action="store_true", help="make the model public on the hub (default: private)")
    export.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="TARGET",
        help="export target, e.g. stock, adapter, encoder; may be repeated (default: export.target of the recipe)",
    )

    consolidate = _verb(
        verbs,
        "consolidate",
        _consolidate,
        "write the weights of a checkpoint as safetensors files, holding one tensor at a time in memory",
    )
    consolidate.add_argument("checkpoint", metavar="RUN[:STAGE]|CHECKPOINT")
    consolidate.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to write to")

    come_from = _verb(
        verbs,
        "lineage",
        _lineage,
        "show what a checkpoint was made from (stages, data, audits, code) and whether its files are unchanged",
    )
    come_from.add_argument("checkpoint", metavar="RUN[:STAGE]|CHECKPOINT")

    chat = _verb(
        verbs, "chat", _chat, "ask a model questions about your own files: PNG, JPEG, TIFF, DICOM, NIfTI, video"
    )
    chat.add_argument("model", metavar="MODEL", help="a run, an exported folder, or a transformers model")
    chat.add_argument("files", nargs="*", type=Path, metavar="FILE", help="the files to ask about")
    chat.add_argument(
        "--question",
        action="append",
        default=[],
        metavar="TEXT",
        help="a question; may be repeated (default: read questions from the terminal)",
    )
    _of_run(chat)

    embed = _verb(verbs, "embed", _embed, "write an embedding of every image in files or shards to a parquet file")
    embed.add_argument(
        "model", metavar="MODEL", help="a run, an exported folder, or a dual encoder or encoder of transformers"
    )
    embed.add_argument("sources", nargs="+", metavar="FILE_OR_SHARDS", help="image files or folders of shards")
    embed.add_argument("--to", type=Path, required=True, metavar="FILE.parquet", help="file to write to")
    _of_run(embed)

    demo = _verb(verbs, "demo", _demo, "run the full pipeline on synthetic data: train, evaluate, export, report")
    demo.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings that replace the recipe's")
    demo.add_argument("--runs", type=Path, default=Path("runs"), help="folder of run folders (default: runs)")

    schema = _verb(verbs, "schema", _schema, "print the JSON schema of recipes or data cards, for editors")
    schema.add_argument("what", nargs="?", choices=["recipe", "card"], default="recipe", help="default: recipe")

    data = _verb(verbs, "data", None, "pack, audit and inspect data sets").add_subparsers(
        required=True, metavar="COMMAND"
    )
    pack = _verb(data, "pack", _pack, "convert a data set to shards")
    pack.add_argument("card", help="its data card: a YAML file, or the name of a shipped card")
    pack.add_argument(
        "--root",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder of the original files; omit it for generated data",
    )
    pack.add_argument(
        "--out", required=True, metavar="DIR", help="where to write the shards: a folder, s3://... or gs://..."
    )
    pack.add_argument(
        "--workers",
        type=int,
        default=None,
        metavar="N",
        help="number of processes that decode (default: one per CPU core)",
    )
    pack.add_argument(
        "--salt-file",
        type=Path,
        default=None,
        metavar="FILE",
        help="file with the secret with which patients and keys are hashed; the shards do not contain it",
    )
    pack.add_argument(
        "--max-bad", type=float, default=0.01, help="largest share of unreadable samples allowed (default: 0.01)"
    )
    audit = _verb(
        data,
        "audit",
        _audit,
        "check that no patient and no image is in two splits or in a benchmark, and what the licences allow together",
    )
    audit.add_argument(
        "sets", nargs="+", metavar="CARD_OR_SHARDS", help="shards, a card, or CARD=ROOT to read original files"
    )
    audit.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="SHARDS[:SPLIT]",
        help="a benchmark that must not be trained on; may be repeated (default: its test split)",
    )
    audit.add_argument(
        "--salt-file",
        type=Path,
        default=None,
        metavar="FILE",
        help="file with the secret for the data sets given as CARD=ROOT, as in pack",
    )
    audit.add_argument(
        "--to",
        type=Path,
        default=None,
        metavar="FILE",
        help="where to write the receipt (default: audit.json in each folder of shards)",
    )
    audit.add_argument(
        "--strict",
        action="store_true",
        help="treat warnings (near duplicates, shared questions, doubtful terms) as errors",
    )
    stats = _verb(data, "stats", _stats, "write a page with counts, sizes, intensities, answers and text lengths")
    stats.add_argument("shards", help="a folder of shards")
    stats.add_argument(
        "--to", type=Path, default=Path("stats.html"), metavar="FILE", help="file to write to (default: stats.html)"
    )
    show = _verb(data, "show", _show, "write a page with samples, their boxes and questions")
    show.add_argument("shards", help="a folder of shards")
    show.add_argument(
        "--to", type=Path, default=Path("gallery.html"), metavar="FILE", help="file to write to (default: gallery.html)"
    )
    show.add_argument("--split", default=None, help="show only this split (default: all)")
    show.add_argument("--count", type=int, default=48, help="number of samples (default: 48)")
    return parser


def _verb(verbs: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    made.set_defaults(run=run)
    return made


def _of_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kind", default="", help="kind of media of the files (default: the first kind that the model can encode)"
    )
    parser.add_argument("--stage", default="", help="use the model of this stage of a run (default: the last one)")


def _recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a YAML file, or the name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings that replace the recipe's")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of run folders (default: runs)")


def _init(args: argparse.Namespace) -> None:
    from medvlm.commands.first_recipe import TableColumns
    from medvlm.commands.init import init
    from medvlm.core.errors import RecipeError

    if bool(args.captions) == bool(args.question or args.answer) or bool(args.question) != bool(args.answer):
        raise RecipeError("init: give --question and --answer, or --captions, each with the name of a column")
    print(
        *init(
            args.model,
            args.csv,
            TableColumns(args.image, args.question, args.answer, args.captions, args.patient),
            args.to,
        ),
        sep="\n",
    )


def _train(args: argparse.Namespace) -> None:
    from medvlm.commands.train import train
    from medvlm.recipe.load import load

    train(load(args.recipe, args.overrides), args.runs, args.stage, args.again_from)


def _validate(args: argparse.Namespace) -> None:
    from medvlm.recipe.load import validate

    print("\n".join(validate(args.recipe, args.overrides)))


def _plan(args: argparse.Namespace) -> None:
    import gc

    gc.disable()  # planning ends before garbage matters, and importing transformers creates a lot of it
    import json

    from medvlm.preflight.gpus import parse
    from medvlm.preflight.plan import plan
    from medvlm.preflight.table import table
    from medvlm.recipe.load import load

    made = plan(load(args.recipe, args.overrides), args.runs, parse(args.gpus) if args.gpus else None, args.mfu)
    print(json.dumps(made.to_json(), indent=1) if args.json else table(made))


def _dry_run(args: argparse.Namespace) -> None:
    from medvlm.commands.dry_run import dry_run
    from medvlm.recipe.load import load

    print(
        "\n".join(
            f"  {line.what}: not checked"
            for line in dry_run(load(args.recipe, args.overrides), args.runs, print)
            if not line.done
        )
    )


def _evaluate(args: argparse.Namespace) -> None:
    from medvlm.commands.evaluate import evaluate
    from medvlm.evaluate.table import table

    print(table(evaluate(args.run_folder, args.on, args.stage)))


def _report(args: argparse.Namespace) -> None:
    from medvlm.core.run import RunFolder
    from medvlm.report.run import write_report

    print(write_report(RunFolder(args.run_folder)))


def _export(args: argparse.Namespace) -> None:
    from medvlm.commands.export import export, push
    from medvlm.core.run import RunFolder
    from medvlm.export.hub import PREFIX, send

    folder, _, stage = args.run_folder.partition(":")
    if not args.to.startswith(PREFIX):
        print(*export(RunFolder(Path(folder)), Path(args.to), args.target, stage), sep="\n")
        return
    upload = push(Path(folder), args.to.removeprefix(PREFIX), args.target, stage, args.public)
    print(upload)
    print(
        f"sent: {send(upload)}"
        if args.yes
        else f"nothing was sent; look at {upload.folder}, then: medvlm export {upload.folder} --to {args.to} --yes"
    )


def _consolidate(args: argparse.Namespace) -> None:
    from medvlm.commands.lineage import find_checkpoint
    from medvlm.train.consolidate import consolidate

    consolidate(find_checkpoint(args.checkpoint), args.to)


def _lineage(args: argparse.Namespace) -> None:
    from medvlm.commands.lineage import lineage

    print("\n".join(lineage(args.checkpoint)))


def _chat(args: argparse.Namespace) -> None:
    from medvlm.commands.chat import talk

    ask = talk(args.model, args.files, args.kind, args.stage)
    for question in args.question:
        print(ask(question))
    if not args.question:
        print("Each question is asked by itself. Ctrl-D ends.")
        with suppress(EOFError, KeyboardInterrupt):
            while question := input("> ").strip():
                print(ask(question))


def _embed(args: argparse.Namespace) -> None:
    from medvlm.commands.embed import embed

    count = embed(args.model, args.sources, args.to, args.stage, args.kind)
    print(f"{args.to}: {count} embeddings")


def _demo(args: argparse.Namespace) -> None:
    from medvlm.commands.demo import demo

    demo(args.runs, args.overrides)


def _schema(args: argparse.Namespace) -> None:
    import json

    from medvlm.recipe.load import schema

    print(json.dumps(schema(args.what), indent=1))


def _pack(args: argparse.Namespace) -> None:
    from medvlm.archive.packing.deal import read_salt
    from medvlm.archive.packing.pack import pack
    from medvlm.core.card import load_card
    from medvlm.core.errors import DataError
    from medvlm.recipe.load import find_card

    found = find_card(args.card)
    if found is None:
        raise DataError(
            f"{args.card}: there is no such data card; every data set needs one (see data_cards/ for examples)"
        )
    card = load_card(found, args.card)
    if args.salt_file:
        card = card.with_secret(read_salt(args.salt_file))
    receipt = pack(card, args.root, args.out, progress=print, max_bad=args.max_bad, workers=args.workers)
    print(
        f"{args.out}: {sum(receipt.samples.values())} samples"
        f" ({', '.join(f'{split} {n}' for split, n in receipt.samples.items())}), {receipt.quarantined} quarantined"
    )


def _audit(args: argparse.Namespace) -> None:
    from medvlm.archive.packing.deal import read_salt
    from medvlm.commands.audit import run_audit

    run_audit(args.sets, args.against, args.to, args.strict, print, read_salt(args.salt_file) if args.salt_file else "")


def _stats(args: argparse.Namespace) -> None:
    from medvlm.report.stats import write_stats

    print(write_stats(args.shards, args.to))


def _show(args: argparse.Namespace) -> None:
    from medvlm.io.opening import open_shards
    from medvlm.report.show import write_gallery

    print(write_gallery(open_shards(args.shards), args.to, args.split, args.count))


if __name__ == "__main__":
    sys.exit(main())
