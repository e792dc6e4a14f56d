"""The whole job on RD-Agent as people change it: factor stage, model stage, bundles, audit, predict, serve and sync."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rdagent_sota_patch.demo.sandbox import Sandbox
from rdagent_sota_patch.demo.years import Segments
from rdagent_sota_patch.sessions.records import Session
from tests.integration import checkouts
from tests.integration.checkouts import Trait
from tests.integration.conftest import CheckoutRuns
from tests.integration.evidence import look_at_training, run_tool, usage_of
from tests.integration.test_serving import serving

ALPHA_COUNT = 20
FORK_MINED = ("OvernightGap10", "VolumeLevel20")
MINED = {"fork": FORK_MINED, "between": FORK_MINED[:1], "signed": FORK_MINED[:1]}

TRAITS: dict[str, tuple[Trait, ...]] = {
    "one loader, unsorted": (checkouts.loads_unsorted,),
    ".env wins": (checkouts.env_file_wins,),
    "reads USE_ALPHA_FACTORS": (checkouts.reads_use_alpha_factors,),
    "one experiment is enough": (checkouts.one_experiment_is_enough,),
    "weights in file_dict": (checkouts.weights_in_file_dict,),
    "ret.pkl": (checkouts.returns_as_pickle,),
    "unsigned": (checkouts.unsigned_sessions,),
    "ret.pkl, unsigned": (checkouts.returns_as_pickle, checkouts.unsigned_sessions),
    "features in templates": (checkouts.features_in_templates,),
    "dates in templates": (checkouts.dates_in_templates(Segments()),),
    "MLFLOW_TRACKING_URI": (checkouts.tracking_uri_of_the_workspace,),
    "000001.SZ": (checkouts.exchange_at_the_end,),
    "CRLF": (checkouts.windows_line_ends,),
    "between the releases": checkouts.BETWEEN,
    "the fork": checkouts.FORK,
}

on_1_0 = pytest.mark.skipif(not checkouts.is_editable(), reason="the edits are made on RD-Agent 1.0.0")
real = [pytest.mark.real, on_1_0]


@on_1_0
@pytest.mark.parametrize("traits", TRAITS.values(), ids=TRAITS)
def test_each_trait_is_understood(traits: tuple[Trait, ...], tmp_path: Path) -> None:
    """A host that was edited is like any other: nothing is wrong with it, and the patch says the same."""
    tree = checkouts.copy_of_rdagent(tmp_path, traits)
    assert host_problems(tree) == ()
