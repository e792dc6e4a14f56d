"""The descriptions of the releases, on templates spelled as theirs; and which one fits the installed RD-Agent."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rdagent_sota_patch.errors import HostError
from rdagent_sota_patch.factors.segments import Segments
from rdagent_sota_patch.plugin.host_source import CONFIG_NAME, MODEL_TEMPLATE, HostSource, find_host
from rdagent_sota_patch.plugin.release import installed_release, release_of
from rdagent_sota_patch.plugin.release_0_8 import Release08
from rdagent_sota_patch.plugin.release_1_0 import Release10

TEMPLATE = """\
data_handler_config: &data_handler_config
    end_time: 2022-08-01
    data_loader:
        kwargs:
            dataloader_l:
                - class: qlib.contrib.data.loader.Alpha158DL
                  kwargs:
                    config:
                        label:
                            - ["Ref($close, -2)/Ref($close, -1) - 1"]
                            - ["LABEL0"]
                        feature:
{feature}
                - class: qlib.data.dataset.loader.StaticDataLoader
    segments:
                train: [2008-01-01, 2014-12-31]
                valid: [2015-01-01, 2016-12-31]
                test: [2017-01-01, 2020-08-01]
"""
VARIABLES = """\
                            - {{ feature_expressions }}
                            - {{ feature_names }}"""
LISTS = """\
                            - ["($high-$low)/$open",
                               "Ref($close, 60)/$close"]
                            - ["KLEN",
                               "ROC60"]"""
ALPHA = {"KLEN": "($high-$low)/$open", "ROC60": "Ref($close, 60)/$close"}


@pytest.fixture
def host(tmp_path: Path) -> HostSource:
    return HostSource(tmp_path, "1.2.3")


def write(host: HostSource, file: str, text: str) -> str:
    path = host.folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return text


def write_template(host: HostSource, feature: str) -> str:
    return write(host, MODEL_TEMPLATE, TEMPLATE.replace("{feature}", feature))


@pytest.mark.parametrize(("feature", "family"), [(VARIABLES, Release10), (LISTS, Release08)])
def test_chosen_by_the_source(feature: str, family: type, host: HostSource) -> None:
    """The template decides, whatever the version says."""
    write_template(host, feature)
    assert isinstance(release_of(host), family)


@pytest.mark.parametrize("feature", [None, "                            []"])
def test_neither(feature: str | None, host: HostSource) -> None:
    """A template of a third kind, or none, is no known release."""
    if feature is not None:
        write_template(host, feature)
    with pytest.raises(HostError, match="host-changed"):
        release_of(host)


def test_features_are_read_from_the_lists(host: HostSource) -> None:
    """0.8.0: names and expressions in pairs, over several lines, of the installed template or of an experiment's."""
    text = write_template(host, LISTS)
    release = Release08(host)
    assert release.alpha_features() == release.features_of_run(None) == ALPHA
    workspace = SimpleNamespace(file_dict={CONFIG_NAME: text.replace('"ROC60"', '"MINE"')})
    assert list(release.features_of(SimpleNamespace(experiment_workspace=workspace))) == ["KLEN", "MINE"]
    factors = SimpleNamespace(experiment_workspace=SimpleNamespace(file_dict={"conf_baseline.yaml": ""}))
    assert release.features_of(factors) == ALPHA


def test_features_are_read_from_the_source(host: HostSource) -> None:
    """1.0.0: ``ALPHA20`` as a dictionary; a run and an experiment bring their own."""
    write(host, "utils/qlib.py", f"ALPHA20 = {ALPHA!r}\n")
    release = Release10(host)
    assert release.alpha_features() == ALPHA
    assert release.features_of_run(SimpleNamespace(plan={"features": {"A": "b"}})) == {"A": "b"}
    assert release.features_of(SimpleNamespace(base_features={"A": "b"})) == {"A": "b"}


@pytest.mark.parametrize("source", ["", "ALPHA20 = make_features()\n"])
def test_computed_features_are_an_error(source: str, host: HostSource) -> None:
    """What is not written out is not guessed."""
    write(host, "utils/qlib.py", source)
    with pytest.raises(HostError, match="ALPHA20"):
        Release10(host).alpha_features()


def test_dates_of_the_template(host: HostSource) -> None:
    """0.8.0: the dataset's segments, not the handler's later end."""
    write_template(host, LISTS)
    assert Release08(host).segments() == Segments(
        train_start=date(2008, 1, 1),
        train_end=date(2014, 12, 31),
        valid_start=date(2015, 1, 1),
        valid_end=date(2016, 12, 31),
        test_start=date(2017, 1, 1),
        test_end=date(2020, 8, 1),
    )


def test_missing_dates_are_an_error(host: HostSource) -> None:
    """A template without a test segment gives no dates."""
    write(host, MODEL_TEMPLATE, write_template(host, LISTS).replace(" test: ", " check: "))
    with pytest.raises(HostError, match="segments"):
        Release08(host).segments()


@pytest.mark.parametrize(("feature", "family"), [(VARIABLES, Release10), (LISTS, Release08)])
def test_alpha_is_dropped(feature: str, family: Any, host: HostSource) -> None:
    """Only the Alpha entry changes: another loader, no feature group, the label as it was."""
    template = TEMPLATE.replace("{feature}", feature)
    dropped = family(host).drop_alpha(template)
    group = f"                        feature:\n{feature}\n"
    assert dropped == template.replace(group, "").replace(
        "qlib.contrib.data.loader.Alpha158DL", "qlib.data.dataset.loader.QlibDataLoader"
    )
    assert "LABEL0" in dropped


@pytest.mark.parametrize("family", [Release10, Release08])
@pytest.mark.parametrize("feature", [VARIABLES, LISTS])
def test_two_groups_are_not_dropped(feature: str, family: Any, host: HostSource) -> None:
    """A template with a second feature group is not one of these releases."""
    twice = TEMPLATE.replace("{feature}", f"{feature}\n                        feature:\n{feature}")
    with pytest.raises(HostError, match="host-changed"):
        family(host).drop_alpha(twice)


def test_variables_of_a_run(host: HostSource) -> None:
    """1.0.0 is told features and number, 0.8.0 the number alone."""
    assert Release08(host).run_variables(ALPHA, 5) == {"num_features": "5"}
    assert Release10(host).run_variables(ALPHA, 5) == {
        "num_features": "5",
        "feature_names": "['KLEN', 'ROC60']",
        "feature_expressions": "['($high-$low)/$open', 'Ref($close, 60)/$close']",
    }


def test_installed_release() -> None:
    """The RD-Agent of this environment has its twenty Alpha features, and is what its version says."""
    pytest.importorskip("rdagent")
    release = installed_release()
    assert len(release.alpha_features()) == 20
    host = find_host()
    assert host.release is None or (release.name == "0.8.0") == (host.release < (1, 0, 0))
