"""An audit's cost: how often it reads the market's file for its cuts, and what a factor takes beside its bare code."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.comparison import Bound, Comparison, Limit, compare
from tests.benchmarks.processes import run_child

MODULE = "audit"
STOCKS, DAYS = 200, 300
FACTORS = 4

_CODE = """import pandas as pd

data = pd.read_hdf("daily_pv.h5", key="data").sort_index()
by_stock = data["$close"].groupby(level="instrument", group_keys=False)
factor = by_stock.transform(lambda values: values / values.rolling({days}).mean())
factor.rename("Factor").to_frame().to_hdf("result.h5", key="data")
"""


def measure(folder: Path) -> list[Comparison]:
    """Measure on a market that is made for it in ``folder``."""
    place = folder / "audit"
    place.mkdir()
    run_child(MODULE, ["make", place], place)
    one, all_ = run_child(MODULE, ["one", place], place), run_child(MODULE, ["all", place], place)
    bare = run_child(MODULE, ["bare", place], place)
    shutil.rmtree(place)
    market = f"{STOCKS} stocks, {DAYS} days"
    a_factor = (all_["seconds"] - one["seconds"]) / (FACTORS - 1)
    return [
        compare(
            f"readings of the market's file for all cuts that factors share, {FACTORS} factors / one factor",
            "",
            [all_["readings"]],
            [one["readings"]],
            Limit(Bound.RATIO, 1.0),
        ),
        compare(
            f"audit of one factor more, {market}, processor / its bare code once", "s", [a_factor], [bare]
        ),
        compare("the same, runs of its code", "", [all_["runs"] / FACTORS]),
    ]


def _make(place: Path) -> bool:
    from tests.lookahead.factor_zoo import write_market

    write_market(place / "daily_pv.h5", STOCKS, DAYS)
    return True


def _audit(place: Path, count: int) -> dict[str, float]:
    from rdagent_sota_patch.lookahead.auditing import AuditOptions, audit_factors
    from rdagent_sota_patch.sandbox.jail import Jail

    readings, runs = 0, 0
    attempt = Jail.attempt

    def counting(self: Jail, program: str, **how: Any) -> Any:
        nonlocal readings, runs
        readings += len(re.findall(r"^cut\(", program, re.MULTILINE))
        plan = how.get("texts", {}).get("plan.json")
        runs += len(json.loads(plan)["trials"]) if plan else 0
        return attempt(self, program, **how)

    Jail.attempt = counting  # type: ignore[method-assign]
    codes = {f"Factor{number}": _CODE.format(days=5 + number) for number in range(count)}
    audit = audit_factors(codes, place / "daily_pv.h5", AuditOptions(jobs=1, lookback=False))
    assert all(verdict.causal for verdict in audit.factors)
    times = os.times()
    busy = times.user + times.system + times.children_user + times.children_system
    return {"seconds": busy, "readings": readings, "runs": runs}


def _bare(place: Path) -> float:
    """Processor seconds of the code, without those of starting Python and importing pandas."""
    import pandas as pd

    os.chdir(place)
    pd.HDFStore("loaded.h5", mode="w").close()
    start = time.process_time()
    exec(_CODE.format(days=5), {})
    return time.process_time() - start


if __name__ == "__main__":
    _place = Path(sys.argv[2])
    _found = {
        "make": lambda: _make(_place),
        "one": lambda: _audit(_place, 1),
        "all": lambda: _audit(_place, FACTORS),
        "bare": lambda: _bare(_place),
    }[sys.argv[1]]()
    print(json.dumps(_found))
