"""Which factors a bundle lists, and under which name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rdagent_sota_patch.bundle.documents import ShippedFactors
from rdagent_sota_patch.bundle.writing import BundleWriter
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.export.choice import Choice, choose_experiment
from rdagent_sota_patch.export.shipped_factors import codes_of, list_factors, write_factors
from rdagent_sota_patch.sessions.records import ExperimentRecord
from tests.export.made_run import MadeRun, factor_experiment, make_run, model_experiment


@pytest.fixture
def run(tmp_path: Path) -> MadeRun:
    return make_run(tmp_path / "project")


def choice_of(run: MadeRun, *experiments: ExperimentRecord) -> Choice:
    return choose_experiment(replace(run.session, experiments=experiments))


def test_every_factor_of_every_accepted_experiment(run: MadeRun) -> None:
    """Several of one experiment, too; one that was not implemented is listed with the reason."""
    factors = list_factors(choose_experiment(run.session), ("ZMom", "GapA", "Extra"))
    assert [(factor.name, factor.loop, factor.in_table) for factor in factors] == [
        ("ZMom", 0, True),
        ("GapA", 2, True),
        ("Extra", 2, True),
        ("Broken", 2, False),
    ]
    assert factors[0].metrics == {"IC": 0.03, "ICIR": None}
    assert factors[3].code is None
    assert "did not accept" in factors[3].missing
    assert set(codes_of(factors)) == {"ZMom", "GapA", "Extra"}


def test_a_factor_that_the_table_dropped(run: MadeRun) -> None:
    """RD-Agent drops what correlates with an earlier factor: its code is shipped, and it is not an input."""
    factors = {
        factor.name: factor for factor in list_factors(choose_experiment(run.session), ("ZMom", "Extra"))
    }
    assert factors["GapA"].code is not None
    assert not factors["GapA"].in_table
    assert "GapA" not in codes_of(factors.values())


def test_a_column_named_by_the_code(run: MadeRun) -> None:
    """The table has the name that the code gives its result, whatever the task was called."""
    experiment = factor_experiment(0, ("ZMom",))
    task = replace(experiment.factors[0], name="momentum of z")
    experiment = replace(experiment, factors=(task,))
    (factor,) = list_factors(choice_of(run, experiment), ("ZMom",))
    assert (factor.name, factor.in_table, factor.loop) == ("ZMom", True, 0)


def test_two_factors_of_one_name(run: MadeRun) -> None:
    """The later one's column is in the table (`factor_runner.py` keeps the last)."""
    factors = list_factors(
        choice_of(run, factor_experiment(0, ("ZMom",)), factor_experiment(1, ("ZMom",))), ("ZMom",)
    )
    assert [(factor.loop, factor.in_table) for factor in factors] == [(0, False), (1, True)]


def test_code_that_is_not_there(run: MadeRun) -> None:
    """Neither a factor without code nor a column without a factor is skipped."""
    experiment = factor_experiment(0, ("ZMom",))
    experiment = replace(experiment, factors=(replace(experiment.factors[0], code=None),))
    first, second = list_factors(choice_of(run, experiment), ("ZMom", "Stranger"))
    assert (first.name, first.in_table, first.missing) == ("ZMom", True, "the session does not hold its code")
    assert (second.name, second.in_table, second.code, second.loop) == ("Stranger", True, None, -1)
    assert "no factor of the session" in second.missing
    # An audit of the others alone would look like one of all.
    with pytest.raises(BundleError) as caught:
        codes_of((first, second))
    assert [problem.slug for problem in caught.value.problems] == ["factor-code-missing"] * 2
    assert "Stranger" in str(caught.value)


def test_factors_of_another_run(run: MadeRun) -> None:
    """What the plugin recorded with a model: names, code, the loop and metrics of that run."""
    recorded = {
        "factors": [
            {
                "name": "ZMom",
                "description": "d",
                "formulation": "f",
                "variables": {"a": "b"},
                "code": "x",
                "loop": 4,
            },
            {"name": "Lost", "code": None, "loop": None},
            "damaged",
        ],
        "metrics": {"IC": 0.5, "ICIR": "nan"},
    }
    choice = choice_of(run, model_experiment(0, run.workspace, sota_source=recorded))
    first, second = list_factors(choice, ("ZMom", "Lost"))
    assert (first.loop, first.code, first.variables, first.metrics) == (
        4,
        "x",
        {"a": "b"},
        {"IC": 0.5, "ICIR": None},
    )
    assert (second.loop, second.code, second.in_table) == (-1, None, True)


def test_without_a_table_to_ask(run: MadeRun) -> None:
    """What was implemented counts as being in it."""
    factors = list_factors(choose_experiment(run.session), None)
    assert [factor.name for factor in factors if factor.in_table] == ["ZMom", "GapA", "Extra"]


def test_file_names_are_safe(run: MadeRun, tmp_path: Path) -> None:
    """A factor's name may be a path, or have letters that no file system takes."""
    names = ("../../etc/passwd", "动量", "a" * 300)
    factors = list_factors(choice_of(run, factor_experiment(0, names)), names)
    writer = BundleWriter(tmp_path / "bundle")
    document = write_factors(writer, "run", factors)
    assert [factor.code_relpath for factor in document.factors] == [
        "factors/factor_1_.._.._etc_passwd.py",
        "factors/factor_2___.py",
        f"factors/factor_3_{'a' * 80}.py",
    ]
    read = ShippedFactors.model_validate_json((tmp_path / "bundle" / "sota_factors.json").read_bytes())
    assert read == document
    assert tuple(factor.name for factor in read.factors) == names
    assert not (tmp_path / "etc").exists()
