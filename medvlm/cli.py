"""The command line. Each command imports its code only when it runs, so `medvlm --help` does not load torch."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

from medvlm import api
from medvlm.commands.arguments import make_parser
from medvlm.commands.mask_verbs import print_proposal
from medvlm.core.errors import UserError
from medvlm.core.output import survive_readers
from medvlm.core.quiet import silence_libraries
from medvlm.train.stopping import OF_SCHEDULERS, Preempted, Wish, raise_on_signal

EXIT_DONE, EXIT_USER, EXIT_PREEMPTED, EXIT_INTERRUPTED = 0, 2, 75, 130
PRINTING = ("validate", "plan", "lineage", "verify", "chat", "schema", "completion", "test_cases")
"""Commands whose result is what they print. If nobody reads it any more, they end; all others go on."""
OWN_SIGNALS = ("serve",)
"""Commands that handle SIGTERM by themselves."""
CONTINUED = ("train", "evaluate", "predict", "rl_check", "rl_helps")
"""Commands that end with EXIT_PREEMPTED after a signal, because the same command continues them."""
STOPPED = "stopped, and nothing is half-written; run the same command again"


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0 done, 2 wrong input, 75 preempted after a clean save, 130 interrupted by Ctrl-C. Any
    other code is a bug and comes with a traceback."""
    # By default, waiting threads spin, which makes a run up to 30 times slower as soon as another process needs a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    silence_libraries()
    with survive_readers(goes_on=False):  # --help, and errors of the command line
        args = _parse(argv)
    with survive_readers(goes_on=args.verb not in PRINTING):
        try:
            with _end_on_signal(args.verb):  # while libraries are imported, too
                globals()[f"run_{args.verb}"](args)
        except (Exception, Preempted) as raised:
            return _explain_end(raised)
        except KeyboardInterrupt:
            print(f"medvlm: {args.verb} was interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED
    return EXIT_DONE


def _end_on_signal(verb: str) -> AbstractContextManager[Wish | None]:
    """SIGTERM also ends commands that write, which then remove what is unfinished; Ctrl-C does that already."""
    if verb in CONTINUED:
        return raise_on_signal()
    return nullcontext() if verb in (*PRINTING, *OWN_SIGNALS) else raise_on_signal(STOPPED, OF_SCHEDULERS)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = make_parser()
    args, rest = parser.parse_known_args(argv)
    # argparse accepts overrides only next to each other; users write them anywhere.
    if rest and not (hasattr(args, "overrides") and all("=" in word and not word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides += rest
    return args


def _explain_end(raised: Exception | Preempted) -> int:
    """Prints the message of an error that a user can act on, and returns the exit code. Raises any other error."""
    code, message = EXIT_PREEMPTED if isinstance(raised, Preempted) else EXIT_USER, str(raised)
    if not isinstance(raised, UserError | Preempted):
        from medvlm.commands.explain import explain  # it loads pydantic, which --help does without

        message = explain(raised)
    if not message:
        raise raised
    print(f"medvlm: {message}", file=sys.stderr)
    return code


def run_init(args: argparse.Namespace) -> None:
    columns = {name: getattr(args, name) for name in ("image", "question", "answer", "captions", "patient")}
    lines = api.init(
        args.model, args.csv, data=args.data, goal=args.goal, to=args.to, settings=args.overrides, **columns
    )
    print(*lines, sep="\n")


def run_train(args: argparse.Namespace) -> None:
    from medvlm.commands.next_steps import describe_end
    from medvlm.commands.train import train
    from medvlm.recipe.load import load

    loaded = load(args.recipe, args.overrides)
    run = train(loaded, args.runs, args.stage, args.again_from)
    if os.environ.get("RANK", "0") == "0":
        print("", *describe_end(loaded, run), sep="\n", flush=True)


def run_validate(args: argparse.Namespace) -> None:
    print("\n".join(api.validate(args.recipe, args.overrides)))


def run_plan(args: argparse.Namespace) -> None:
    if args.fingerprint is not None or not args.recipe:
        print_proposal(args)
        return
    import gc

    gc.disable()  # importing transformers creates much garbage, and planning ends before it matters
    import json

    from medvlm.preflight.table import format_plan

    made = api.plan(args.recipe, args.overrides, runs=args.runs, gpus=args.gpus, gpu_gib=args.gpu_gib, mfu=args.mfu)
    print(json.dumps(made.to_json(), indent=1) if args.json else format_plan(made))


def run_dry_run(args: argparse.Namespace) -> None:
    lines = api.dry_run(args.recipe, args.overrides, runs=args.runs, say=print)
    print("\n".join(f"  {line.what}: not checked" for line in lines if not line.done))


def run_evaluate(args: argparse.Namespace) -> None:
    from medvlm.commands.evaluate import evaluate
    from medvlm.evaluate.table import format_table

    rows = evaluate(args.who, args.on, args.stage, args.overrides, args.runs, args.start)
    if os.environ.get("RANK", "0") == "0":
        print(format_table(rows))


def run_rl_check(args: argparse.Namespace) -> None:
    from medvlm.commands.rl_check import format_findings, rl_check

    found = rl_check(args.who, args.on, args.stage, args.overrides, args.runs, args.draws, args.temperature)
    if os.environ.get("RANK", "0") == "0":
        print(format_findings(found))


def run_rl_helps(args: argparse.Namespace) -> None:
    from medvlm.commands.rl_helps import describe_plan, format_judgement, plan, rl_helps

    trial = plan(args.run_folder, args.on, args.stage, args.seeds, args.overrides, args.to)
    print(describe_plan(trial), flush=True)
    done = "nothing was trained; to do it, run the same command with --yes"
    print(f"\n{format_judgement(rl_helps(trial), trial.folder)}" if args.yes else done)


def run_compare(args: argparse.Namespace) -> None:
    from medvlm.commands.compare import compare_runs, format_comparisons, split_runs

    print(format_comparisons(compare_runs([split_runs(each) for each in args.runs], args.to)))
    print(args.to)


def run_report(args: argparse.Namespace) -> None:
    print(api.report(args.run_folder))


def run_export(args: argparse.Namespace) -> None:
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
        else f"nothing was sent; check {upload.folder}, then run:"
        f" medvlm export {shlex.quote(str(upload.folder))} --to {args.to} --yes"
    )


def run_evidence(args: argparse.Namespace) -> None:
    print(*api.evidence(args.run_folder, args.to, model=args.model), sep="\n")


def run_verify(args: argparse.Namespace) -> None:
    from medvlm.core.errors import DataError

    found = api.verify(args.folder, model=args.model)
    print(*found, sep="\n", flush=True)
    if wrong := sum(check.is_fault for check in found):
        raise DataError(f"{args.folder}: {wrong} of these checks failed; the evidence is not what was published")


def run_consolidate(args: argparse.Namespace) -> None:
    api.consolidate(args.checkpoint, args.to)


def run_lineage(args: argparse.Namespace) -> None:
    from medvlm.commands.lineage import describe_lineage
    from medvlm.core.errors import CheckpointError

    found = describe_lineage(args.checkpoint)
    print("\n".join(found.lines), flush=True)
    if found.faults:
        raise CheckpointError(f"{args.checkpoint}: {len(found.faults)} of what it was made from is not as it was saved")


def run_chat(args: argparse.Namespace) -> None:
    from medvlm.commands.chat import talk

    ask = talk(args.model, args.files, args.kind, args.stage)
    for question in args.question:
        print(ask(question))
    if not args.question:
        print("Each question starts a new conversation. Ctrl-D ends.")
        with suppress(EOFError, KeyboardInterrupt):
            while question := input("> ").strip():
                print(ask(question))


def run_predict(args: argparse.Namespace) -> None:
    from medvlm.commands.predict import predict
    from medvlm.core.live import Live

    live = Live()

    def show(what: str, done: int, total: int) -> None:
        live(f"predict: {done}/{total}")

    how = (args.stage, args.kind, args.max_new_tokens, show, args.precision)
    rows = predict(args.model, args.on, args.to, args.question, *how)
    live.clear()
    if os.environ.get("RANK", "0") == "0":
        failed = [row for row in rows if row["problem"]]
        print(f"{args.to}: {len(rows) - len(failed)} answers" + (f", {len(failed)} files not read" if failed else ""))


def run_embed(args: argparse.Namespace) -> None:
    count = api.embed(args.model, args.sources, args.to, stage=args.stage, kind=args.kind)
    print(f"{args.to}: {count} embeddings")


def run_segment(args: argparse.Namespace) -> None:
    from medvlm.commands.mask_verbs import print_segmented

    print_segmented(args)


def run_serve(args: argparse.Namespace) -> None:
    from medvlm.commands.serve_verb import serve_from_words

    serve_from_words(args)


def run_demo(args: argparse.Namespace) -> None:
    api.demo(args.overrides, runs=args.runs, real=args.real, goal=args.goal)


def run_schema(args: argparse.Namespace) -> None:
    import json

    print(json.dumps(api.schema(args.what), indent=1))


def run_completion(args: argparse.Namespace) -> None:
    print(api.completion(args.shell))


def run_pack(args: argparse.Namespace) -> None:
    from medvlm.archive.packing.notice import list_reasons
    from medvlm.commands.pack import pack

    receipt = pack(args.card, args.root, args.out, args.salt_file, args.max_bad, args.workers)
    print(
        f"{args.out}: {sum(receipt.samples.values())} samples"
        f" ({', '.join(f'{split} {n}' for split, n in receipt.samples.items())}), {receipt.quarantined} quarantined"
    )
    for line in list_reasons(receipt.left_out, receipt.reasons):
        print(line)


def run_audit(args: argparse.Namespace) -> None:
    from medvlm.core.live import Live

    api.audit(args.sets, against=args.against, to=args.to, strict=args.strict, salt_file=args.salt_file, say=Live())


def run_turns(args: argparse.Namespace) -> None:
    from medvlm.core.live import Live

    live = Live()
    made = api.turns(args.shards, args.to, recipe=args.recipe, say=live)
    live.clear()
    print(made)


def run_tasks(args: argparse.Namespace) -> None:
    from medvlm.commands.lmms_tasks import write_task

    print(write_task(args.shards, args.to, args.max_new_tokens))


def run_test_cases(args: argparse.Namespace) -> None:
    from medvlm.core.errors import DataError

    found = api.check_cases(args.file)
    print(*found, sep="\n", flush=True)
    if failed := sum(bool(case.wrong) for case in found):
        raise DataError(f"{args.file}: {failed} of {len(found)} cases are not as expected")


def run_stats(args: argparse.Namespace) -> None:
    print(api.stats(args.shards, args.to, recipe=args.recipe))


def run_show(args: argparse.Namespace) -> None:
    print(api.show(args.shards, args.to, split=args.split, count=args.count))


if __name__ == "__main__":
    sys.exit(main())
