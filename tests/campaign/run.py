"""`make campaign`: many runs with many faults (docs/campaign.md). Exit status 1 if anything failed or could not be done.

    python tests/campaign/run.py [--parts A,B,C,D,E,F,G,H,I] [--runs N] [--seed S] [--quick] [--page FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # no threads where there are forks
for _name in [n for n in os.environ if n.startswith("HOLDFAST_")]:
    del os.environ[_name]  # options of the user's shell must not decide what is tested

import xxhash  # noqa: E402

import holdfast  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from campaign import flights, goodput, heat_kills, levels, serial_kills, stopped, survive, syscall_points  # noqa: E402
from campaign.survive_nodes import campaign as on_nodes  # noqa: E402
from campaign.survive_page import page  # noqa: E402
from campaign.survive_record import append, counted, read, summary  # noqa: E402

Tell = Callable[[str], None]
Part = Callable[[Path, argparse.Namespace, Tell], dict[str, Any]]

POWER_LOSS_DEADLINE = 3600.0


def part_a(base: Path, args: argparse.Namespace, tell: Tell) -> dict[str, Any]:
    runs = args.runs if args.runs is not None else 4 if args.quick else 50
    return heat_kills.campaign(base, runs, args.seed, tell)


def part_b(base: Path, args: argparse.Namespace, tell: Tell) -> dict[str, Any]:
    return syscall_points.campaign(base, tell, args.quick)


def part_c(base: Path, args: argparse.Namespace, tell: Tell) -> dict[str, Any]:
    """In a process and mount namespace of its own."""
    needed = {"root": os.geteuid() == 0, "/dev/fuse": os.path.exists("/dev/fuse")}
    needed |= {"loop devices": os.path.exists("/dev/loop-control")}
    needed |= {name: shutil.which(name) is not None for name in ("mkfs.ext4", "unshare", "mount", "umount")}
    if lacking := [name for name, there in needed.items() if not there]:
        return {"problems": [f"not done: needs {', '.join(lacking)}"]}
    base.mkdir(parents=True)
    words = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "campaign.powerloss", str(base)]
    words += ["--seed", str(args.seed), *(["--quick"] if args.quick else [])]
    process = subprocess.Popen(
        words, cwd=ROOT / "tests", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    timer = threading.Timer(POWER_LOSS_DEADLINE, process.kill)
    timer.start()
    try:
        assert process.stderr is not None and process.stdout is not None
        said = []
        for line in process.stderr:
            said.append(line.rstrip())
            if line.startswith("power loss"):
                tell(line.rstrip())
        answer = process.stdout.read()
    finally:
        timer.cancel()
        process.kill()
        process.wait()
    if process.returncode != 0:
        return {"problems": ["the replay failed: " + " | ".join(said[-10:])]}
    result: dict[str, Any] = json.loads(answer)
    return result


def part_d(base: Path, args: argparse.Namespace, tell: Tell) -> dict[str, Any]:
    result = serial_kills.campaign(base, 40 if args.quick else 400, args.seed)
    tell(f"{result['kills']} kills, {result['resumes']} resumes")
    return result


def part_e(base: Path, args: argparse.Namespace, tell: Tell) -> dict[str, Any]:
    return flights.campaign(tell, args.quick)


def part_f(base: Path, args: argparse.Namespace, tell: Tell) -> dict[str, Any]:
    return levels.campaign(base, tell, args.quick)


def part_g(base: Path, args: argparse.Namespace, tell: Tell) -> dict[str, Any]:
    """Adds to what earlier runs have kept, until there are as many faults as are wanted; jobs on nodes first."""
    kept = args.outcomes or args.dir / "survive.jsonl"
    wanted = args.runs if args.runs is not None else 60 if args.quick else 2100
    least = 4 if args.quick else 32
    source, commit, began = _source(), _commit(), time.monotonic()
    counts = counted(read(kept))
    tell(f"{counts.total()} faults in {kept} so far")

    def keep(outcome: survive.Outcome) -> None:
        append(kept, outcome, source, args.seed, commit)
        counts.clear()  # other runs may add to the same file meanwhile
        counts.update(counted(read(kept)))

    problems = []
    if args.jobs in ("nodes", "all"):
        problems += on_nodes(base, least, args.seed, tell, keep, counts, 60 * args.minutes)
    if args.jobs != "nodes":
        left = 60 * args.minutes - (time.monotonic() - began)
        costly = {"quick": (False,), "slow": (True,)}.get(args.jobs, (False, True))
        problems += survive.campaign(base, wanted, args.seed, tell, keep, counts, seconds=left, costly=costly)
    return {**summary(read(kept)), "problems": problems}


def part_h(base: Path, args: argparse.Namespace, tell: Tell) -> dict[str, Any]:
    minutes = args.minutes if args.minutes < float("inf") else 1.0 if args.quick else goodput.MINUTES
    return goodput.campaign(base, minutes, args.seed, tell)


def part_i(base: Path, args: argparse.Namespace, tell: Tell) -> dict[str, Any]:
    return stopped.campaign(tell, args.quick, args.seed)


PARTS: dict[str, tuple[str, Part]] = {
    "B": ("system calls of one checkpoint", part_b),
    "C": ("power loss", part_c),
    "D": ("a serial program killed", part_d),
    "E": ("versions in flight", part_e),
    "A": ("heat on 4 ranks killed", part_a),
    "F": ("nodes with levels killed", part_f),
    "G": ("faults survived in place", part_g),
    "H": ("goodput under kills", part_h),
    "I": ("a rank stopped at each call", part_i),
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Many runs with many faults; see docs/campaign.md.")
    parser.add_argument("--parts", default="A,B,C,D,E,F,G,H,I", help="which (A,B,C,D,E,F,G,H,I)")
    parser.add_argument("--runs", type=int, help="runs of part A (50), faults of part G (2100)")
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--quick", action="store_true", help="a sample of each part")
    parser.add_argument("--dir", type=Path, default=ROOT / ".campaign", help="where it works (.campaign)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="until part G begins no more; of a job of part H")
    jobs = ("all", "nodes", "here", "quick", "slow")  # here: on this machine, of which some have kinds that take long
    parser.add_argument("--jobs", choices=jobs, default="all", help="which jobs of part G (all)")
    parser.add_argument("--outcomes", type=Path, help="to which part G adds what it finds (.campaign/survive.jsonl)")
    parser.add_argument("--page", type=Path, help="where part G's table goes (docs/reliability.md; no file: not written)")
    args = parser.parse_args()
    parts = [part.strip().upper() for part in args.parts.split(",")]
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(sorted(PARTS))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that parts end what they have started
    logging.getLogger("holdfast").addHandler(logging.NullHandler())
    print(f"campaign: parts {', '.join(p for p in PARTS if p in parts)}, seed {args.seed}, in {args.dir}", flush=True)
    args.dir.mkdir(parents=True, exist_ok=True)
    source = _source()
    results = {}
    for name, (title, part) in PARTS.items():
        if name in parts:
            results[name] = _carry_out(name, title, part, args)
            if _source() != source:  # programs of two versions have then worked on the same runs
                results[name]["problems"].append("the package's source was changed meanwhile: the part proves nothing")
                print(results[name]["problems"][-1], flush=True)
    path = args.dir / "results.json"
    path.write_text(json.dumps({"seed": args.seed, "quick": args.quick, "source": source, "parts": results}, indent=1) + "\n")
    if args.page is not None and "kinds" in results.get("G", {}):
        where = f"a {os.cpu_count()}-core {platform.machine()} machine, {platform.system()} {platform.release().split('-')[0]}"
        jobs = read(args.outcomes or args.dir / "survive.jsonl")
        args.page.write_text(page(summary(jobs), f"{time.strftime('%Y-%m-%d')}, {where}"))
    _summary(results)
    print(f"everything in {path}")
    return 1 if any(result["problems"] for result in results.values()) else 0


def _source() -> str:
    """Digest of the package that is tested."""
    h = xxhash.xxh3_128()
    for path in sorted(Path(holdfast.__file__).parent.rglob("*.py")):
        h.update(path.read_bytes())
    return h.hexdigest()


def _commit() -> str:
    """The name of what is tested in git; nothing if that can't be told."""
    words = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        return os.environ.get("CAMPAIGN_COMMIT") or subprocess.run(words, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def _carry_out(name: str, title: str, part: Part, args: argparse.Namespace) -> dict[str, Any]:
    began = time.monotonic()

    def tell(text: str) -> None:
        print(f"{name} {time.monotonic() - began:7.1f} s  {text}", flush=True)

    base = args.dir / title.replace(" ", "-")
    shutil.rmtree(base, ignore_errors=True)
    tell(title)
    try:
        result = part(base, args, tell)
    except Exception:
        result = {"problems": [f"the part broke off: {traceback.format_exc()}"]}
    result["title"], result["seconds"] = title, round(time.monotonic() - began, 1)
    for problem in result["problems"]:
        tell(f"PROBLEM: {problem}")
    return result


def _summary(results: dict[str, dict[str, Any]]) -> None:
    print("\nsummary")
    for name, result in results.items():
        problems = len(result["problems"])
        verdict = f"{problems} PROBLEMS" if problems else "passed"
        print(f"  {name}  {result['title']}: {verdict}, {result['seconds']} s")
        for key, value in result.items():
            if key not in ("problems", "title", "seconds", "all", "kinds"):
                shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
                print(f"       {key}: {shown}")


if __name__ == "__main__":
    sys.exit(main())
