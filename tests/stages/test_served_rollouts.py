"""Answers from a server: log-probabilities, adapters that are handed over, and what stops a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from medvlm.core.errors import RecipeError
from medvlm.rollouts._contract import SamplingParams
from medvlm.train.terms import LOSS
from tests.openai_server import Reply, complete, serve
from tests.stages.batches import first
from tests.stages.rollout_server import Engine

Make = Callable[..., Any]
MOST, HEAT = 4, 0.8
Served = Callable[..., tuple[Any, Engine]]
Instead = Callable[[dict[str, Any]], Reply | None]


@pytest.fixture
def served(stage_of: Make, tmp_path: Path) -> Iterator[Served]:
    """(settings of the engine, shift, takes, instead) -> a stage, and the engine that serves a copy of its model.
    instead: what it replies to a question; None for its own reply."""
    open_servers = []

    def make(
        own: Any = None, shift: float = 0.0, takes: bool = True, instead: Instead = lambda body: None, **changes: Any
    ) -> tuple[Any, Engine]:
        engines: list[Engine] = []
        server = serve(lambda body: ("messages" in body and instead(body)) or engines[0].reply(body))
        url = server.__enter__()
        open_servers.append(server)
        rollouts = {"kind": "server", "url": url, "folder": str(tmp_path / "adapters"), **(own or {})}
        settings = {"trains": ["lora"], "rollouts": rollouts, "batch": 4, "group": 3, "kl": 0, "temperature": HEAT}
        stage = stage_of("grpo", **settings, **changes)
        with torch.no_grad():  # an untrained model says the same whatever it is asked
            for parameter in stage.model.language.parameters():
                parameter.mul_(6)
        engine = Engine(stage, shift, takes)
        engines.append(engine)
        stage.composer.score = lambda text, truth: (len(text) % 5 / 4, {"choice": len(text) % 5 / 4})
        return stage, engine

    yield make
    for server in open_servers:
        server.__exit__(None, None, None)


def find_gradient(stage: Any, loss: torch.Tensor) -> torch.Tensor:
    trained = [p for p in stage.model.parameters() if p.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained)])


def move(stage: Any, by: float = 0.05) -> None:
    """An update."""
    with torch.no_grad():
        for name, parameter in stage.model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))


def test_answers_have_the_log_probabilities_of_the_model_in_training(served: Served) -> None:
    """After an update too: the server has the adapters by then, and the earlier ones are unloaded."""
    stage, engine = served()
    for number in (1, 2):
        (rollout,) = stage.make_micros(first(stage), 1)
        log_L = stage.policy.compute_answers(stage.model, rollout.batch)
        torch.testing.assert_close(log_L.detach(), rollout.drawn_L, rtol=0, atol=1e-5)
        assert len(rollout.drawn.answers) == 12 and len({tuple(a.ids) for a in rollout.drawn.answers}) > 3
        assert stage.replies.gap < 1e-5 and len(engine.loaded) == number
        stage.make_micros(first(stage, 4), 1)
        assert len(engine.loaded) == number, "nothing has changed, so nothing is handed over"
        move(stage)
    assert engine.unloaded == engine.loaded[:1]
    assert all(len(body["logit_bias"]) == len(stage.model.barred_ids) for body in engine.asked)


def test_answers_depend_on_the_position_alone(served: Served) -> None:
    stage, _ = served()
    prompts = first(stage)
    together = stage.rollouts.draw(prompts, SamplingParams(3, HEAT, MOST))
    apart = [stage.rollouts.draw([prompt], SamplingParams(3, HEAT, MOST))[0] for prompt in prompts]
    assert [[a.ids for a in group] for group in together] == [[a.ids for a in group] for group in apart]


def test_a_server_that_kept_the_old_adapters_stops_the_run(served: Served) -> None:
    stage, engine = served(takes=False)
    stage.make_micros(first(stage), 1)
    move(stage)
    with pytest.raises(RecipeError, match=r"differ from those of the model in training by .* took over the adapters"):
        stage.make_micros(first(stage), 1)
    assert len(engine.loaded) == 2


def test_shifted_log_probabilities_stop_the_run_beyond_the_tolerance(served: Served) -> None:
    stage, _ = served(shift=0.03)
    with pytest.raises(
        RecipeError, match=r"by 0\.0300 nats per token on 4 fixed prompts, more than rollouts.tolerance"
    ):
        stage.make_micros(first(stage), 1)


def test_shifted_log_probabilities_within_it_are_corrected(served: Served) -> None:
    """Each token weighs exp(-shift): the model finds it so much less probable than the engine said."""
    stage, _ = served({"tolerance": 0.2}, shift=0.1, correction={"bounds": [0.5, 2.0], "outside": "truncate"})
    plain, _ = served({"tolerance": 0.2})
    (rollout,) = stage.make_micros(first(stage), 1)
    terms = stage.compute_loss(stage.model, rollout, 0)
    torch.testing.assert_close(
        rollout.correction_L, torch.full_like(rollout.correction_L, math.exp(-0.1)), rtol=1e-4, atol=0
    )
    assert terms["engine_gap"][0] / terms["engine_gap"][1] == pytest.approx(0.1, abs=1e-4)
    assert stage.replies.gap == pytest.approx(0.1, abs=1e-4)
    (exact,) = plain.make_micros(first(plain), 1)
    assert [a.ids for a in exact.drawn.answers] == [a.ids for a in rollout.drawn.answers]
    found = find_gradient(stage, terms[LOSS].sum)
    expected = math.exp(-0.1) * find_gradient(plain, plain.compute_loss(plain.model, exact, 0)[LOSS].sum)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
    assert expected.abs().max() > 1e-3


def test_a_busy_server_is_asked_again_and_that_is_counted(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medvlm.core.connection.time.sleep", lambda _: None)
    busy = iter([(503, "busy"), (429, "slow down")])
    stage, _ = served(instead=lambda body: next(busy, None))
    stage.make_micros(first(stage), 1)
    assert stage.count([])["server_retries"] == (2, 1)
    assert stage.count([])["server_retries"] == (0, 1)


TOKEN = {"token": "token_id:300", "logprob": -1.0}


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (complete("left"), "returned no token ids with log-probabilities"),
        ((400, "logprobs are off"), "400 Bad Request: logprobs are off"),
        # Nothing would teach the model to end.
        ((200, {"choices": [{"logprobs": {"content": [TOKEN]}}] * 3}), "ends without an end token"),
    ],
)
def test_a_server_in_another_form_is_refused(reply: Reply, why: str, served: Served) -> None:
    stage, _ = served(instead=lambda body: reply)
    with pytest.raises(RecipeError, match=why):
        stage.make_micros(first(stage), 1)


def test_a_server_that_does_not_answer_in_time_ends_the_run(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medvlm.core.connection.TRIES", 2)
    monkeypatch.setattr("medvlm.core.connection.time.sleep", lambda _: None)
    stage, _ = served({"timeout_s": 0.1, "compare": 1}, instead=lambda body: Event().wait(0.5) or complete("late"))
    with pytest.raises(RecipeError, match=r"no answer .*timed out"):
        stage.make_micros(first(stage), 1)


def test_only_adapters_are_handed_over_and_nothing_else_is_stored(served: Served, tmp_path: Path) -> None:
    stage, _ = served()
    stage.make_micros(first(stage), 1)
    stored = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    folder = "adapters/medvlm-reason-1"
    assert stored == [f"{folder}/adapter_config.json", f"{folder}/adapter_model.safetensors"]
    stage.model.connectors["film"].requires_grad_(True)
    move(stage)
    with pytest.raises(RecipeError, match="only adapters are handed to the server, and connectors"):
        stage.make_micros(first(stage), 1)
