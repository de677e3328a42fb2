"""Runs in the environment of RadEval, without medvlm: `python _radeval_child.py`.

Writes the version of RadEval as a JSON line. Then it reads lines {metric, references, texts} and replies to each with
{scores: name -> one number for each text} or {error}."""

import json
import os
import sys
from importlib import import_module
from importlib.metadata import version


def main() -> None:
    # Python looks for modules beside a script first, and there is one of this name.
    sys.path[:] = [place for place in sys.path if os.path.abspath(place) != os.path.dirname(os.path.abspath(__file__))]
    # Libraries print; their words must not be among the replies.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(content: dict) -> None:  # type: ignore[type-arg]
        print(json.dumps(content), file=replies, flush=True)

    try:
        reply({"version": version("radeval")})
    except Exception as reason:
        reply({"error": f"{type(reason).__name__}: {reason}"})
        return
    made: dict = {}  # type: ignore[type-arg]
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            metric = asked["metric"]
            package = import_module("radeval")  # of this environment, and no dependency of medvlm
            made[metric] = made.get(metric) or package.RadEval(metrics=[metric], per_sample=True, show_progress=False)
            found = made[metric](refs=asked["references"], hyps=asked["texts"])
            reply({"scores": {name: [float(score) for score in scores] for name, scores in found.items()}})
        except BaseException as reason:  # a library may even exit where its weights are missing
            reply({"error": f"{type(reason).__name__}: {reason}"})


if __name__ == "__main__":
    main()
