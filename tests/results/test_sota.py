"""Keys, code and weights of a run's last accepted factor experiment."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from rdagent_sota_patch.results.describing import describe_anchor, describe_manifest
from rdagent_sota_patch.results.sota import Sota, Spool, describe_sota, take_out_weights
from rdagent_sota_patch.sessions.records import ExperimentRecord, Session
from tests.export.made_run import MadeRun, factor_experiment, make_run, model_experiment

WEIGHTS = b"weights of the back-test"


@pytest.fixture
def run(tmp_path: Path) -> MadeRun:
    """Three loops: accepted, rejected, accepted with two implemented factors and a broken one."""
    return make_run(tmp_path)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    folder = tmp_path / "spool"
    folder.mkdir()
    return Spool(folder, 1 << 20)


def describe(session: Session, spool: Spool) -> Sota:
    light, weights = take_out_weights(session)
    sota = describe_sota(light, weights, (), spool)
    assert sota is not None
    return sota


def change_last(session: Session, **changed: object) -> Session:
    *rest, last = session.experiments
    return replace(session, experiments=(*rest, replace(last, **changed)))  # type: ignore[arg-type]


def test_every_factor_with_code_has_a_key(run: MadeRun, spool: Spool) -> None:
    """`factor.py` is the first implemented one; of several, each has its own; earlier ones bear their number."""
    sota = describe(run.session, spool)
    assert sota.index == 2
    assert [keyed.keys for keyed in sota.experiments] == [
        ("based_factor_0/factor.py",),
        ("GapA.py", "Extra.py", "Broken.py"),
    ]
    assert sota.own.entry == "factor.py"
    codes = {factor.name: factor.code for factor in run.session.experiments[2].factors}
    assert sota.codes["factor.py"].content == str(codes["GapA"]).encode()
    assert sota.codes["Extra.py"].content == str(codes["Extra"]).encode()
    assert set(sota.codes) == {"based_factor_0/factor.py", "factor.py", "GapA.py", "Extra.py", "Broken.py"}


def test_names_become_keys_that_are_no_paths_and_no_two_alike(run: MadeRun, spool: Spool) -> None:
    """Whatever a language model called its factors."""
    names = ("factor", "a/b", "a_b", "..", "因子", "x" * 300)
    last = factor_experiment(2, names)
    session = replace(run.session, experiments=(*run.session.experiments[:2], last))
    keys = describe(session, spool).own.keys
    assert keys == ("factor_2.py", "a_b.py", "a_b_2.py", "...py", "因子.py", "x" * 80 + ".py")
    assert len({*keys, "factor.py"}) == len(names) + 1


def test_the_weights_are_the_recorders(run: MadeRun, spool: Spool) -> None:
    """Where the session holds none, they are the file of that experiment's own recorder."""
    weights = describe(run.session, spool).weights
    assert weights.asset is not None
    assert weights.asset.path is not None
    assert weights.asset.path.is_relative_to(run.workspace)
    assert weights.asset.sha256 == hashlib.sha256(weights.asset.path.read_bytes()).hexdigest()


def test_the_session_s_own_weights_come_first(run: MadeRun, spool: Spool) -> None:
    """They are found in the log alone, whatever became of the workspace, and are kept as a file."""
    session = change_last(run.session, embedded_weights=WEIGHTS, workspace=Path("/gone/away"))
    sota = describe(session, spool)
    assert sota.weights.asset is not None
    assert sota.weights.asset.path == spool.folder / hashlib.sha256(WEIGHTS).hexdigest()
    assert sota.weights.asset.path.read_bytes() == WEIGHTS
    assert "is gone" in str(sota.recorder_error)
    anchor = describe_anchor(session, sota)
    assert anchor.resolved_model_weight_source == "factor_exp"
    assert anchor.resolved_model_weight_sha256 == sota.weights.asset.sha256
    assert anchor.resolved_model_meta_key is None
    assert anchor.resolved_model_meta_key_error == sota.recorder_error
    assert not anchor.ok


def test_a_view_keeps_no_weights_in_memory(run: MadeRun) -> None:
    """Not in the history, and not in what its experiments are based on."""
    heavy = replace(run.session.experiments[2], embedded_weights=WEIGHTS)
    model = model_experiment(3, run.workspace, based_on=(heavy,))
    session = replace(run.session, experiments=(*run.session.experiments[:2], heavy, model))
    light, weights = take_out_weights(session)
    assert weights == WEIGHTS

    def all_of(record: ExperimentRecord) -> list[ExperimentRecord]:
        return [record, *(each for base in record.based_on for each in all_of(base))]

    records = [each for experiment in light.experiments for each in all_of(experiment)]
    assert [each.embedded_weights for each in records] == [None] * len(records)
    assert light.experiments[3].based_on[0] is light.experiments[2]
    assert light.sota is light.experiments[2]


def test_weights_that_are_not_those_recorded_are_refused(run: MadeRun, spool: Spool) -> None:
    """A session whose weights were exchanged names a hash that they do not have."""
    record = {
        "schema_version": 1,
        "experiment_id": "1",
        "run_id": "2",
        "weights": {"name": "params.pkl", "size": len(WEIGHTS), "sha256": "0" * 64},
    }
    session = change_last(run.session, embedded_weights=WEIGHTS, artifacts=MappingProxyType(record))
    sota = describe(session, spool)
    assert sota.weights.asset is None
    assert "weights-changed" in str(sota.weights.error)
    assert list(spool.folder.iterdir()) == []


def test_a_run_without_a_sota_says_why(run: MadeRun) -> None:
    """Each field that is null has its reason, and the run's other facts are there."""
    session = replace(run.session, experiments=run.session.experiments[1:2])
    anchor = describe_anchor(session, describe_sota(session, None, (), Spool(Path(), 0)))
    plain = anchor.model_dump()
    assert not anchor.ok
    errors = {name: text for name, text in plain.items() if name.endswith("_error")}
    for name, text in errors.items():
        assert (plain[name.removesuffix("_error")] is None) == (text is not None), name
    assert anchor.last_sota_factor_index_error == (
        "The run accepted no factor experiment; it holds 1 rejected factor experiment."
    )
    assert describe_manifest(session, None, 0.0).bundle_stages == ()


def test_an_inherited_sota_is_another_run_s(run: MadeRun, spool: Spool) -> None:
    """Its weights and code are to be had from that run, which is named."""
    origin = MappingProxyType({"task_id": "the-first", "loop": 2})
    inherited = replace(run.session.experiments[2], inherited_from=origin)
    session = replace(run.session, experiments=(inherited,))
    assert describe_sota(session, None, (), spool) is None
    assert "those of the-first" in str(describe_anchor(session, None).last_sota_factor_index_error)


def test_code_that_the_session_lacks_is_said_to_be_missing(run: MadeRun, spool: Spool) -> None:
    """Of the SOTA no key, of an earlier experiment a null in its place."""
    first, _, last = run.session.experiments
    bare = replace(first, factors=(replace(first.factors[0], code=None),))
    own = replace(last, based_on=(bare,), factors=tuple(replace(each, code=None) for each in last.factors))
    session = replace(run.session, experiments=(first, own))
    anchor = describe_anchor(session, describe(session, spool))
    assert anchor.resolved_factor_entry_key is None
    assert "does not hold the code" in str(anchor.resolved_factor_entry_key_error)
    assert anchor.based_factor_entries is not None
    entry = anchor.based_factor_entries[0]
    assert entry.resolved_factor_entry_keys == (None,)
    assert "ZMom" in str(entry.resolved_factor_entry_keys_error)
    assert not anchor.ok


def test_the_spool_stays_within_its_limit(tmp_path: Path) -> None:
    """What was used last stays; what is there already is not written again."""
    spool = Spool(tmp_path, 25)
    first, second = (spool.keep(name, content) for name, content in (("a", b"1" * 20), ("b", b"2" * 20)))
    os.utime(first, (1, 1))
    os.utime(second, (2, 2))
    assert spool.keep("a", b"1" * 20) == first
    third = spool.keep("c", b"3" * 20)
    assert [path.exists() for path in (first, second, third)] == [True, False, True]
