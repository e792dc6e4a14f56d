from __future__ import annotations

from pathlib import Path

import pytest

from rdagent_sota_patch.errors import SourceError
from rdagent_sota_patch.sessions.locate import locate_sota, summarize
from rdagent_sota_patch.sessions.records import Session
from rdagent_sota_patch.sessions.snapshots import read_session

from .forged import Made, factor_experiment, feedback, model_experiment, put, saved_loop


def session(tmp_path: Path, *history: tuple[object, bool]) -> Session:
    put(tmp_path, 0, "0_record", saved_loop(*((exp, feedback(accepted)) for exp, accepted in history)))
    return read_session(tmp_path)


def test_the_last_accepted_factor_experiment(tmp_path: Path) -> None:
    """Accept, accept, reject, and a model accepted after them: the second is the SOTA."""
    found = locate_sota(
        session(
            tmp_path,
            (factor_experiment("A"), True),
            (factor_experiment("B"), True),
            (factor_experiment("C"), False),
            (model_experiment(), True),
        )
    )
    assert (found.loop, found.factors[0].name) == (1, "B")


def test_a_model_log(tmp_path: Path) -> None:
    """Without any factor experiment the error says so in the words users grep for."""
    with pytest.raises(SourceError) as caught:
        locate_sota(session(tmp_path, *[(model_experiment(), True)] * 3))
    assert caught.value.slug == "no-accepted-factors"
    assert "No QlibFactorExperiment found in session" in str(caught.value)
    assert "it holds 3 model experiments." in str(caught.value)


def test_none_accepted(tmp_path: Path) -> None:
    """With only rejected ones the error counts what there is."""
    mixed = [(model_experiment(), True)] * 3 + [(factor_experiment("A"), False)] * 2
    with pytest.raises(SourceError) as caught:
        locate_sota(session(tmp_path, *mixed))
    assert "3 model experiments, 2 rejected factor experiments" in str(caught.value)
    assert "No QlibFactorExperiment" not in str(caught.value)


def test_summaries(tmp_path: Path) -> None:
    """Nothing, one thing and unknown classes are put in words."""
    assert summarize(session(tmp_path)) == "no finished loop"
    unknown = session(tmp_path, (Made("kaggle.exp", "KGExperiment"), True), (None, False))
    assert summarize(unknown) == "1 other experiment (KGExperiment), 1 loop without an experiment"
