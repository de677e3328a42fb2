"""The command line. Each verb imports what it needs when it runs: `medvlm --help` loads no torch."""

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
    """Exit code: 0 done, 2 the input is wrong, 75 preempted after a clean save. Anything else is our fault, with a
    traceback."""
    # Threads that wait in a spin make a run crawl (30 times slower was seen) as soon as something else wants a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    # argparse takes overrides only where they stand together; people write them anywhere.
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
        if type(raised).__name__ == "Preempted":  # its module imports torch's neighbours, which most verbs never need
            print(f"medvlm: {raised}", file=sys.stderr)
            return EXIT_PREEMPTED
        raise
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medvlm", description="Train, evaluate and export medical multimodal foundation models from one recipe."
    )
    parser.add_argument("--version", action="version", version=f"medvlm {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    init = _verb(
        verbs, "init", _init, "write a recipe and a data card for a table of images with questions or captions"
    )
    init.add_argument(
        "--model",
        required=True,
        metavar="PATH_OR_ID",
        help="a ready vision-language model (with --captions a CLIP or SigLIP): a folder or a hub id",
    )
    init.add_argument(
        "--csv",
        type=Path,
        required=True,
        metavar="FILE",
        help="the table; its first line names the columns (.tsv, .jsonl and .json too)",
    )
    init.add_argument(
        "--image",
        required=True,
        metavar="COL",
        help="column with the path of the image, relative to the table's folder or absolute",
    )
    init.add_argument("--question", default="", metavar="COL")
    init.add_argument("--answer", default="", metavar="COL")
    init.add_argument(
        "--captions",
        default="",
        metavar="COL",
        help="in the place of question and answer: the text that belongs to the image",
    )
    init.add_argument(
        "--patient",
        default="",
        metavar="COL",
        help="column that tells patients apart; none of them will be in two splits",
    )
    init.add_argument("--to", type=Path, default=Path(), metavar="DIR", help="where the files go (default: here)")

    train = _verb(verbs, "train", _train, "run the stages of a recipe; run it again to resume")
    _recipe(train)
    train.add_argument("--stage", default="", help="only this stage")
    train.add_argument(
        "--from",
        dest="again_from",
        default="",
        metavar="STAGE",
        help="set this stage and the later ones aside and train them anew",
    )

    _recipe(_verb(verbs, "validate", _validate, "check a recipe, its cards and its shapes without reading a weight"))

    plan = _verb(
        verbs,
        "plan",
        _plan,
        "what a recipe trains, holds in memory and costs, on tensors without data; fits or not, and what would help",
    )
    _recipe(plan)
    plan.add_argument("--gpus", default="", metavar="NAME:GPUS[xNODES]", help="where it would run, e.g. h200:8x2")
    plan.add_argument(
        "--mfu", type=float, default=0.4, help="share of the GPU's peak that training reaches (default: 0.4)"
    )
    plan.add_argument("--json", action="store_true", help="the plan as JSON")

    _recipe(
        _verb(
            verbs,
            "dry-run",
            _dry_run,
            "every stage for two steps on small random weights, with saving, resuming, evaluation and export, on a"
            " processor",
        )
    )

    evaluate = _verb(verbs, "evaluate", _evaluate, "measure a run on held-out data, with baselines and intervals")
    evaluate.add_argument("run_folder", type=Path, metavar="RUN")
    evaluate.add_argument(
        "--on", action="append", default=[], metavar="SOURCE[:SPLIT]", help="default: what the recipe says"
    )
    evaluate.add_argument("--stage", default="", help="the model as this stage left it; default: the last one")

    _verb(verbs, "report", _report, "write the run's page").add_argument("run_folder", type=Path, metavar="RUN")

    export = _verb(
        verbs, "export", _export, "write a model folder that stock transformers loads, with its proof and model card"
    )
    export.add_argument("run_folder", metavar="RUN[:STAGE]", help="or, to send it, an exported folder")
    export.add_argument("--to", required=True, metavar="DIR|hub:ORG/NAME", help="hub: lists what would be sent")
    export.add_argument("--yes", action="store_true", help="send it to the hub")
    export.add_argument("--public", action="store_true", help="for everybody on the hub (default: private)")
    export.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="TARGET",
        help="as what, e.g. stock, adapter, encoder (default: what the recipe says)",
    )

    consolidate = _verb(
        verbs,
        "consolidate",
        _consolidate,
        "the weights of a checkpoint as safetensors files, in the memory of one tensor",
    )
    consolidate.add_argument("checkpoint", metavar="RUN[:STAGE]|CHECKPOINT")
    consolidate.add_argument("--to", type=Path, required=True, metavar="DIR")

    come_from = _verb(
        verbs,
        "lineage",
        _lineage,
        "what a checkpoint came from: stages, data, audits, code, and whether it is still what was saved",
    )
    come_from.add_argument("checkpoint", metavar="RUN[:STAGE]|CHECKPOINT")

    chat = _verb(verbs, "chat", _chat, "ask a model about your own files: PNG, JPEG, TIFF, DICOM, NIfTI, video")
    chat.add_argument("model", metavar="MODEL", help="a run, an exported folder, or a model of transformers")
    chat.add_argument("files", nargs="*", type=Path, metavar="FILE")
    chat.add_argument(
        "--question",
        action="append",
        default=[],
        metavar="TEXT",
        help="asked and answered; without one, questions are read from the terminal",
    )
    _of_run(chat)

    embed = _verb(verbs, "embed", _embed, "a vector for every image of shards or files, as parquet")
    embed.add_argument(
        "model", metavar="MODEL", help="a run, an exported folder, or a dual encoder or tower of transformers"
    )
    embed.add_argument("sources", nargs="+", metavar="FILE_OR_SHARDS")
    embed.add_argument("--to", type=Path, required=True, metavar="FILE.parquet")
    _of_run(embed)

    demo = _verb(verbs, "demo", _demo, "the whole road on generated data: train, evaluate, export, report")
    demo.add_argument("overrides", nargs="*", metavar="key.path=value")
    demo.add_argument("--runs", type=Path, default=Path("runs"), help="where runs are kept (default: runs)")

    schema = _verb(verbs, "schema", _schema, "print the JSON schema of recipes or data cards, for editors")
    schema.add_argument("what", nargs="?", choices=["recipe", "card"], default="recipe")

    data = _verb(verbs, "data", None, "pack and look at data sets").add_subparsers(required=True, metavar="VERB")
    pack = _verb(data, "pack", _pack, "an archive to shards")
    pack.add_argument("card")
    pack.add_argument(
        "--root", type=Path, default=None, metavar="DIR", help="folder of the original files; none for generated data"
    )
    pack.add_argument(
        "--out", required=True, metavar="DIR", help="where the shards go: a folder, or s3://... or gs://..."
    )
    pack.add_argument(
        "--workers", type=int, default=None, metavar="N", help="processes that decode (default: one for each processor)"
    )
    pack.add_argument(
        "--salt-file",
        type=Path,
        default=None,
        metavar="FILE",
        help="secret that patients and keys are hashed with; it stays out of the shards",
    )
    pack.add_argument(
        "--max-bad", type=float, default=0.01, help="share of bad samples that is put up with (default: 0.01)"
    )
    audit = _verb(
        data,
        "audit",
        _audit,
        "prove that no patient and no image is on two sides, and say what the licences allow together",
    )
    audit.add_argument("sets", nargs="+", metavar="CARD_OR_SHARDS", help="shards, a card, or CARD=ROOT")
    audit.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="SHARDS[:SPLIT]",
        help="a benchmark that must not be trained on (default: its test split)",
    )
    audit.add_argument(
        "--salt-file",
        type=Path,
        default=None,
        metavar="FILE",
        help="secret that the archives of CARD=ROOT are hashed with, as in pack",
    )
    audit.add_argument(
        "--to",
        type=Path,
        default=None,
        metavar="FILE",
        help="the receipt (default: audit.json in each folder of shards)",
    )
    audit.add_argument(
        "--strict", action="store_true", help="warnings (near duplicates, questions, terms in doubt) are errors"
    )
    stats = _verb(data, "stats", _stats, "a page with counts, sizes, intensities, answers and text lengths")
    stats.add_argument("shards")
    stats.add_argument("--to", type=Path, default=Path("stats.html"), metavar="FILE")
    show = _verb(data, "show", _show, "a page with samples, their boxes and questions")
    show.add_argument("shards")
    show.add_argument("--to", type=Path, default=Path("gallery.html"), metavar="FILE")
    show.add_argument("--split", default=None)
    show.add_argument("--count", type=int, default=48)
    return parser


def _verb(verbs: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    made.set_defaults(run=run)
    return made


def _of_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kind", default="", help="what the files are, of the media that a run's model has encoders for"
    )
    parser.add_argument("--stage", default="", help="the model as this stage of a run left it; default: the last one")


def _recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a YAML file, or the name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where runs are kept (default: runs)")


def _init(args: argparse.Namespace) -> None:
    from medvlm.core.errors import RecipeError
    from medvlm.init import Columns, init

    if bool(args.captions) == bool(args.question or args.answer) or bool(args.question) != bool(args.answer):
        raise RecipeError("init: give --question and --answer, or --captions, each with the name of a column")
    print(
        *init(
            args.model, args.csv, Columns(args.image, args.question, args.answer, args.captions, args.patient), args.to
        ),
        sep="\n",
    )


def _train(args: argparse.Namespace) -> None:
    from medvlm.recipe import load
    from medvlm.training import train

    train(load(args.recipe, args.overrides), args.runs, args.stage, args.again_from)


def _validate(args: argparse.Namespace) -> None:
    from medvlm.recipe import validate

    print("\n".join(validate(args.recipe, args.overrides)))


def _plan(args: argparse.Namespace) -> None:
    import gc

    gc.disable()  # a plan is over before its garbage matters, and importing torch's neighbours makes a lot
    import json

    from medvlm.preflight.gpus import parse
    from medvlm.preflight.plan import plan
    from medvlm.preflight.table import table
    from medvlm.recipe import load

    made = plan(load(args.recipe, args.overrides), args.runs, parse(args.gpus) if args.gpus else None, args.mfu)
    print(json.dumps(made.to_json(), indent=1) if args.json else table(made))


def _dry_run(args: argparse.Namespace) -> None:
    from medvlm.preflight.dry_run import dry_run
    from medvlm.recipe import load

    print(
        "\n".join(
            f"  {line.what}: not checked"
            for line in dry_run(load(args.recipe, args.overrides), args.runs, print)
            if not line.done
        )
    )


def _evaluate(args: argparse.Namespace) -> None:
    from medvlm.evaluate.table import table
    from medvlm.evaluation import evaluate

    print(table(evaluate(args.run_folder, args.on, args.stage)))


def _report(args: argparse.Namespace) -> None:
    from medvlm.core.run import RunFolder
    from medvlm.report.run import write_report

    print(write_report(RunFolder(args.run_folder)))


def _export(args: argparse.Namespace) -> None:
    from medvlm.core.run import RunFolder
    from medvlm.export.hub import PREFIX, send
    from medvlm.exporting import export, push

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
    from medvlm.lineage import find_checkpoint
    from medvlm.train.consolidate import consolidate

    consolidate(find_checkpoint(args.checkpoint), args.to)


def _lineage(args: argparse.Namespace) -> None:
    from medvlm.lineage import lineage

    print("\n".join(lineage(args.checkpoint)))


def _chat(args: argparse.Namespace) -> None:
    from medvlm.chatting import talk

    ask = talk(args.model, args.files, args.kind, args.stage)
    for question in args.question:
        print(ask(question))
    if not args.question:
        print("Each question is asked by itself. Ctrl-D ends.")
        with suppress(EOFError, KeyboardInterrupt):
            while question := input("> ").strip():
                print(ask(question))


def _embed(args: argparse.Namespace) -> None:
    from medvlm.embedding import embed

    count = embed(args.model, args.sources, args.to, args.stage, args.kind)
    print(f"{args.to}: {count} embeddings")


def _demo(args: argparse.Namespace) -> None:
    from medvlm.demo import demo

    demo(args.runs, args.overrides)


def _schema(args: argparse.Namespace) -> None:
    import json

    from medvlm.recipe import schema

    print(json.dumps(schema(args.what), indent=1))


def _pack(args: argparse.Namespace) -> None:
    from medvlm.archive.deal import read_salt
    from medvlm.archive.pack import pack
    from medvlm.core.card import load_card
    from medvlm.core.errors import DataError
    from medvlm.recipe import find_card

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
    from medvlm.archive.deal import read_salt
    from medvlm.auditing import run_audit

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
