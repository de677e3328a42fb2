"""Two hosts that train one run, and what happens to them: a host that dies, a cable that is cut, hosts that come back.

    python tests/drills/two_hosts.py [lost] [cut]

The hosts are network namespaces joined by a cable (root only), with one file system, as a cluster has; each runs
launch/torchrun.sh as an administrator would. `lost`: the second host is killed (-9) in mid-run. `cut`: the cable is
cut, so that nobody is told. In both the first goes on alone from the last checkpoint, the second comes back and both go
on; then the second is told to end (SIGTERM), and all end after a save. At last a run without a fault is compared, step
by step: the same samples, losses within 1e-5. Prints one JSON line; seconds are from the fault to the next step that is
new."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medvlm.core.run import RunFolder
from tests.tiny_run import INSTRUCT, ROOT, environment, recipe, trace, written

HOSTS = {"medvlm-a": "10.77.0.1", "medvlm-b": "10.77.0.2"}
FIRST, SECOND = HOSTS
STAGE = {**INSTRUCT, "lora": {"rank": 2, "alpha": 4}, "accumulate": 1, "steps": 100_000, "save_every": 5}
STALL_S = 8
LIMIT_S = 300


def main(faults: list[str]) -> None:
    found: dict[str, Any] = {"drill": "two hosts"}
    with tempfile.TemporaryDirectory() as folder, cable():
        last = 0
        for fault in faults or ["lost", "cut"]:
            found[fault] = disturbed(Path(folder), fault)
            last = max(last, found[fault]["steps"])
        straight = Run(Path(folder), "straight")
        straight.start(*HOSTS)
        straight.wait_for(last)
        straight.end()
        for fault in faults or ["lost", "cut"]:
            found[fault] |= compared(
                trace(RunFolder(Path(folder) / fault), "instruct"), trace(straight.folder, "instruct")
            )
    found["passed"] = all(
        found[f]["alone_after_s"] <= 30 and found[f]["same_samples"] and found[f]["loss_differs_by"] <= 1e-5
        for f in faults or ["lost", "cut"]
    )
    print(json.dumps(found))


def disturbed(folder: Path, fault: str) -> dict[str, Any]:
    run = Run(folder, fault)
    run.start(*HOSTS)
    run.wait_for(12)
    began, before = time.monotonic(), run.step()
    if fault == "lost":
        run.kill(SECOND)
    else:
        ip("-n", SECOND, "link", "set", "eth", "down")
    alone = run.wait_for(run.saved() + 1, world=1) - began
    if fault == "cut":
        run.kill(SECOND)  # it may still wait for the first one
        ip("-n", SECOND, "link", "set", "eth", "up")
    again = time.monotonic()
    run.start(SECOND)
    together = run.wait_for(run.step() + 1, world=2) - again
    status = run.end()
    return {
        "killed_at": before,
        "alone_after_s": round(alone, 1),
        "both_after_s": round(together, 1),
        "ended": status,
        "steps": run.step(),
    }


def compared(one: list[Any], other: list[Any]) -> dict[str, Any]:
    pairs = list(zip(one, other, strict=False))
    worst = max(
        abs(float.fromhex(a["loss"]) - float.fromhex(b["loss"])) / abs(float.fromhex(b["loss"]))
        for (_, _, a), (_, _, b) in pairs
    )
    return {"compared": len(pairs), "same_samples": all(a[:2] == b[:2] for a, b in pairs), "loss_differs_by": worst}


class Run:
    """One recipe, trained by launch/torchrun.sh on the hosts that are started."""

    def __init__(self, folder: Path, name: str):
        self.path = written(
            folder / "recipes" / name,
            recipe(name=name, stages=[STAGE], engine={"device": "cpu", "workers": 1, "stall_s": STALL_S}),
        )
        self.runs, self.folder, self.log, self.hosts = folder, RunFolder(folder / name), folder / f"{name}.log", {}

    def start(self, *hosts: str) -> None:
        for host in hosts:
            given = {
                "NODES": "1:2",
                "NODE": str(list(HOSTS).index(host)),
                "HEAD": f"{HOSTS[FIRST]}:29500",
                "JOB": self.folder.root.name,
                "GPUS": "1",
                "GLOO_SOCKET_IFNAME": "eth",
            }
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            with self.log.open("a") as log:
                self.hosts[host] = subprocess.Popen(
                    [
                        "ip",
                        "netns",
                        "exec",
                        host,
                        str(ROOT / "launch" / "torchrun.sh"),
                        str(self.path),
                        "--runs",
                        str(self.runs),
                    ],
                    env={**environment(), **given, "PATH": path},
                    stdout=log,
                    stderr=log,
                )

    def records(self) -> list[dict[str, Any]]:
        if not self.folder.metrics.exists():
            return []
        whole = self.folder.metrics.read_text().rpartition("\n")[0]
        return [record for line in whole.splitlines() if "loss" in (record := json.loads(line))]

    def step(self) -> int:
        return max((record["step"] for record in self.records()), default=0)

    def saved(self) -> int:
        return max(
            (int(p.name[5:]) for p in self.folder.stage("instruct").glob("step-*") if p.name[5:].isdigit()), default=0
        )

    def world(self) -> int:
        """As many processes as have said within three seconds that they run."""
        return sum(time.time() - p.stat().st_mtime < 3 for p in self.folder.stalled.parent.glob("*.json"))

    def wait_for(self, step: int, world: int = 2) -> float:
        """Until a step is logged, after now, by so many processes; when that was."""
        until, size = (
            time.monotonic() + LIMIT_S,
            self.folder.metrics.stat().st_size if self.folder.metrics.exists() else 0,
        )
        while True:
            if (
                self.folder.metrics.exists()
                and self.folder.metrics.stat().st_size != size
                and self.world() == world
                and self.step() >= step
            ):
                return time.monotonic()
            if time.monotonic() > until or self.hosts[FIRST].poll() is not None:
                raise RuntimeError(
                    f"{self.folder.root.name}: no step {step} with {world} processes\n{self.log.read_text()[-6000:]}"
                )
            time.sleep(0.1)

    def kill(self, host: str) -> None:
        """The processes of torchrun end with it."""
        self.hosts[host].kill()
        self.hosts[host].wait()

    def end(self) -> str:
        """SIGTERM to the second host, as a scheduler that takes it away; then to the first, which would go on alone."""
        self.hosts[SECOND].send_signal(signal.SIGTERM)
        self.hosts[FIRST].send_signal(signal.SIGTERM)
        for process in self.hosts.values():
            process.wait(60)
        status: str = json.loads(self.folder.status.read_text())["status"]
        return status


@contextmanager
def cable() -> Iterator[None]:
    """Two hosts and a cable between them. Ends with a reason where that is not allowed."""
    made = subprocess.run(["ip", "netns", "add", FIRST], capture_output=True, text=True)
    if made.returncode:
        print(json.dumps({"drill": "two hosts", "skipped": f"ip netns add: {made.stderr.strip()}"}))
        sys.exit(0)
    try:
        ip("netns", "add", SECOND)
        ip("-n", FIRST, "link", "add", "eth", "type", "veth", "peer", "name", "eth", "netns", SECOND)
        for host, address in HOSTS.items():
            ip("-n", host, "address", "add", f"{address}/24", "dev", "eth")
            ip("-n", host, "link", "set", "lo", "up")
            ip("-n", host, "link", "set", "eth", "up")
        yield
    finally:
        for host in HOSTS:
            left = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True).stdout.split()
            for pid in left:
                os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", host], capture_output=True)


def ip(*what: str) -> None:
    subprocess.run(["ip", *what], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
