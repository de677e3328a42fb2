"""The launchers: well-formed, what they start, and when Slurm is asked to start again. The programs around them stand
in, not they."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from torch.distributed.run import get_args_parser

from tests.tiny_run import ROOT

LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
SCHEMA = Path(__file__).with_name("kubernetes.schema.json")


def tool(name: str) -> str:
    """Of the environment that the tests run in."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found, f"{name} is not installed: pip install 'medvlm[test]'"
    return found


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
    (folder / name).chmod(0o755)


def started(folder: Path, **given: str) -> tuple[Any, dict[str, str]]:
    """What torchrun.sh tells torchrun, as torchrun understands it, and the environment it gives it."""
    program(folder / "bin", "torchrun", 'env > "$SAID.env"; printf "%s\\n" "$@" > "$SAID"')
    environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "SAID": str(folder / "said"), **given}
    subprocess.run([LAUNCH / "torchrun.sh", "recipe.yaml", "stages.align.steps=5"], env=environment, check=True)
    said = get_args_parser().parse_args((folder / "said").read_text().splitlines())
    return said, dict(line.partition("=")[::2] for line in (folder / "said.env").read_text().splitlines())


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_a_script_is_well_formed(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    found = subprocess.run([tool("shellcheck"), path], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    assert os.access(path, os.X_OK) or path.suffix == ".sbatch"


def test_on_one_machine_nothing_has_to_be_said(tmp_path: Path) -> None:
    said, environment = started(tmp_path, GPUS="2")
    assert (said.nnodes, said.nproc_per_node, said.max_restarts, said.rdzv_endpoint, said.local_addr) == (
        "1",
        "2",
        0,
        "127.0.0.1:29500",
        "127.0.0.1",
    )
    assert (said.module, said.training_script, said.training_script_args) == (
        True,
        "medvlm",
        ["train", "recipe.yaml", "stages.align.steps=5"],
    )
    assert environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    assert set(said.signals_to_handle.split(",")) == {"SIGTERM", "SIGINT", "SIGUSR1"}


def test_of_several_nodes_the_first_keeps_the_meeting_place(tmp_path: Path) -> None:
    first, _ = started(tmp_path, GPUS="8", NODES="2:4", HEAD="node-1:29600", JOB="7.0")
    other, _ = started(tmp_path, GPUS="8", NODES="2:4", HEAD="127.0.0.2:29600", NODE="3", JOB="7.0")
    assert first.rdzv_conf.startswith("is_host=1,") and other.rdzv_conf == first.rdzv_conf.replace(
        "is_host=1", "is_host=0"
    )
    assert first.local_addr == "node-1", "the name by which the others know it"
    assert other.local_addr.startswith("127."), "the address from which it reaches the first"
    assert (first.rdzv_backend, first.rdzv_id, first.nnodes, first.max_restarts) == ("c10d", "7.0", "2:4", 3)


def test_schedulers_give_more_time_than_a_save_is_given(tmp_path: Path) -> None:
    said, _ = started(tmp_path, GPUS="1")
    signal = re.search(r"--signal=TERM@(\d+)", (LAUNCH / "slurm.sbatch").read_text())
    _, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    assert signal and said.shutdown_timeout + 20 <= min(
        int(signal[1]), job["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    )


@pytest.mark.parametrize(
    ("job", "status", "again"),
    [
        ("41.2", "preempted", True),
        ("41.2", "failed", False),
        ("41.2", "done", False),
        ("41.2", "stalled", False),
        ("41.1", "preempted", False),
        ("40.2", "preempted", False),
    ],
)
def test_slurm_starts_again_what_was_preempted_in_this_attempt_alone(
    job: str, status: str, again: bool, tmp_path: Path
) -> None:
    """A status that an earlier attempt or another job left does not count: it would start for ever what does not
    start."""
    (tmp_path / "runs" / "films").mkdir(parents=True)
    (tmp_path / "runs" / "films" / "status.json").write_text(
        json.dumps({"status": status, "reason": "", "pid": 3, "job": job}, indent=1)
    )
    program(tmp_path / "bin", "srun", 'shift; SLURM_NODEID=0 "$@"')
    program(
        tmp_path / "bin",
        "scontrol",
        'if [ "$1" = show ]; then printf "node-[5]\\nnode-6\\n"; else echo "$@" > asked; fi',
    )
    program(tmp_path / "bin", "torchrun", 'printf "%s\\n" "$@" > said; exit 1')
    (tmp_path / "launch").symlink_to(LAUNCH)
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_JOB_NODELIST": "node-[5-6]",
        "SLURM_JOB_ID": "41",
        "SLURM_RESTART_COUNT": "2",
    }
    ended = subprocess.run(
        ["bash", LAUNCH / "slurm.sbatch", "recipe.yaml"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 1, ended.stderr
    assert (tmp_path / "asked").exists() == again
    if again:
        assert (tmp_path / "asked").read_text().split() == ["requeue", "41"]
    said = get_args_parser().parse_args((tmp_path / "said").read_text().splitlines())
    assert (said.rdzv_id, said.nnodes, said.nproc_per_node, said.training_script_args) == (
        "41.2",
        "2",
        "4",
        ["train", "recipe.yaml", "--runs", "runs"],
    )


def test_the_job_of_kubernetes_fits_the_api_and_itself() -> None:
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    schema = json.loads(SCHEMA.read_text())
    for manifest in (service, job):
        jsonschema.Draft202012Validator({**schema, "$ref": f"#/$defs/V1{manifest['kind']}"}).validate(manifest)
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert (
        spec["completionMode"] == "Indexed"
        and str(spec["completions"]) == str(spec["parallelism"]) == environment["NODES"]
    )
    assert pod["subdomain"] == service["metadata"]["name"] and service["spec"]["selector"] == {
        "job-name": job["metadata"]["name"]
    }
    assert environment["HEAD"].startswith(f"{job['metadata']['name']}-0.{pod['subdomain']}:")
    assert environment["GPUS"] == container["resources"]["limits"]["nvidia.com/gpu"]
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
    assert pod["securityContext"]["runAsUser"] == int(
        re.findall(r"^USER (\d+):", (ROOT / "Dockerfile").read_text(), re.M)[0]
    )


def test_a_key_that_kubernetes_does_not_know_is_found() -> None:
    _, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text().replace("restartPolicy", "restartPolcy"))
    with pytest.raises(jsonschema.ValidationError, match="restartPolcy"):
        jsonschema.Draft202012Validator({**json.loads(SCHEMA.read_text()), "$ref": "#/$defs/V1Job"}).validate(job)


def test_the_image_is_well_formed_pinned_not_root_and_installed_as_in_continuous_integration() -> None:
    found = subprocess.run([tool("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    text, makefile, ci = ((ROOT / name).read_text() for name in ("Dockerfile", "Makefile", ".ci/run"))
    assert re.findall(r"^FROM (.*)", text, re.M) == re.findall(
        r"^FROM (nvidia/cuda:[\w.-]+@sha256:[0-9a-f]{64})$", text, re.M
    )
    assert re.findall(r"^USER (.*)", text, re.M) == ["10001:10001"]
    (target,) = re.findall(r"make (\S+)$", text, re.M)
    assert re.search(rf"^demo: {re.escape(target)} ;", makefile, re.M) and re.search(r"^run demo$", ci, re.M)
    assert "PIP_CONSTRAINT=launch/constraints.txt " in text
    pins = [line for line in (LAUNCH / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]*", pin) for pin in pins)
    named = set(
        re.findall(
            r'^  "([\w.-]+)',
            (ROOT / "pyproject.toml").read_text().partition("dependencies = [")[2].partition("\n]")[0],
            re.M,
        )
    )
    assert named and named <= {pin.partition("==")[0] for pin in pins}
