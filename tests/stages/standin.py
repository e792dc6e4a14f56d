"""In the place of ``rdagent``: prints what it prints, and copies a prepared log step by step.

Where the log goes, what to go on from and how many loops to do, it is told as RD-Agent is. From the folder in
``STANDIN`` it takes its logs (``fin_factor/``, ``fin_model/``) and ``orders.json``, which it removes, so that
what happens to one call does not happen to the next: ``{"fin_model": {"at": [1, 2], "do": "hang"}}``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["fin_factor", "fin_model"])
    parser.add_argument("--loop-n", type=int, required=True)
    parser.add_argument("--all-duration")
    parser.add_argument("--path", type=Path)
    options = parser.parse_args()
    place = Path(os.environ["STANDIN"])
    log = Path(os.environ["LOG_TRACE_PATH"])
    names = (
        "LOAD_SOTA_FROM_LOG",
        "SOTA_LOG_PATH",
        "USE_ALPHA_FACTORS",
        "LOG_TRACE_PATH",
        "SOTA_STRICT",
        "RDAGENT_SOTA_SETTINGS",
    )
    call = {"arguments": sys.argv[1:], "pid": os.getpid(), **{name: os.environ.get(name) for name in names}}
    with (place / "calls.jsonl").open("a", encoding="utf-8") as calls:
        calls.write(json.dumps(call) + "\n")
    orders_file = place / "orders.json"
    orders = json.loads(orders_file.read_text(encoding="utf-8")) if orders_file.is_file() else {}
    order = orders.pop(options.command, {})
    orders_file.write_text(json.dumps(orders), encoding="utf-8")

    begin = (0, 0)
    if options.path is not None:
        begin = (int(options.path.parent.name), int(options.path.name.split("_")[0]) + 1)
        print(f"Loading latest session from {options.path}")
    prepared = place / options.command / "__session__"
    for snapshot in sorted(prepared.glob("*/*_*")):
        loop, (step, _, name) = int(snapshot.parent.name), snapshot.name.partition("_")
        if loop >= options.loop_n or (loop, int(step)) < begin:
            continue
        print(f"\x1b[32m2026-01-14 | INFO | Start Loop {loop}, Step {step}: {name}\x1b[0m", flush=True)
        target = log / "__session__" / str(loop) / snapshot.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if order.get("at") == [loop, int(step)]:
            if order["do"] == "stop":
                return 0
            if order["do"] == "fail":
                print("litellm.AuthenticationError: Incorrect API key provided", flush=True)
                return 1
            if order["do"] == "skip":
                print(f"Skip loop {loop} due to Metric 'Rank ICIR' is malformed", flush=True)
            if order["do"] == "tear":
                target.write_bytes(snapshot.read_bytes()[:-200])
            if order["do"] in ("hang", "tear"):
                (place / "hanging").touch()
                time.sleep(60)
        shutil.copyfile(snapshot, target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
