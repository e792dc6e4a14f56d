"""What an RD-Agent does, asked of small written sources: each trait by itself, and every mixture of them."""

from __future__ import annotations

import sys
from datetime import date
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from rdagent_sota_patch.errors import HostError
from rdagent_sota_patch.factor_table.segments import Segments
from rdagent_sota_patch.host_source import CONFIG_NAME, MODEL_TEMPLATE, HostSource
from rdagent_sota_patch.plugin.traits import Traits, installed_traits
from tests.plugin.test_template import DATE_VARIABLES, LISTS, TEMPLATE, VARIABLES, WRITTEN

ALPHA = {"KLEN": "($high-$low)/$open", "ROC60": "Ref($close, 60)/$close"}
OTHER = {"Own": "$close"}

WORKSPACE = "scenarios/qlib/experiment/workspace.py"
RUNNER = "scenarios/qlib/developer/model_runner.py"
FACTOR_RUNNER = "scenarios/qlib/developer/factor_runner.py"
LOOP = "utils/workflow/loop.py"
SETTINGS = "app/qlib_rd_loop/conf.py"

COUNTED = "sota_list = [e for e in exp.based_experiments if isinstance(e, QlibFactorExperiment)]\n"
EDGES = ("train_start", "train_end", "valid_start", "valid_end", "test_start", "test_end")

RETURNS = {"parquet": "ret.parquet", "pickle": "ret.pkl"}
DUMPS = {
    "signed": "from rdagent.core.serialization import dump as secure_dump\nclass LoopBase:\n"
    "    def dump(self, path):\n        with open(path) as f:\n            secure_dump(self, f)\n",
    "plain": "import pickle\nclass LoopBase:\n    def dump(self, path):\n"
    "        with open(path) as f:\n            pickle.dump(self, f)\n",
}
THRESHOLDS = {
    "more than one": "if len(sota_list) > 1:\n    pass\n",
    "one": "if len(sota_list) >= 1:\n    pass\n",
}
COMMAND_LINES = {
    "environment first": 'load_dotenv(".env")\n',
    "file first": 'load_dotenv(".env", override=True)\n',
}
READINGS = {"not read": "", "read": 'use = os.getenv("USE_ALPHA_FACTORS", "true") == "true"\n'}
FEATURES = {"variables": VARIABLES, "lists": LISTS}
DATES = {"variables": DATE_VARIABLES, "written": WRITTEN}

ALL = (RETURNS, DUMPS, THRESHOLDS, COMMAND_LINES, READINGS, FEATURES, DATES)


def write(folder: Path, files: dict[str, str], newline: str = "\n") -> HostSource:
    for file, text in files.items():
        path = folder / "rdagent" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.replace("\n", newline).encode())
    return HostSource(folder / "rdagent", "1.2.3")


def source(
    returns: str = "parquet",
    dump: str = "signed",
    threshold: str = "more than one",
    command_line: str = "environment first",
    reading: str = "not read",
    features: str = "variables",
    dates: str = "variables",
) -> dict[str, str]:
    names = ", ".join(f'"{edge}": settings.{edge}' for edge in EDGES)
    return {
        WORKSPACE: f"path = self.workspace_path / '{RETURNS[returns]}'\n",
        LOOP: DUMPS[dump],
        "core/serialization.py": 'MAGIC = b"RDAGENT_SIGNED_PICKLE_V1\\n"\n' if dump == "signed" else "",
        RUNNER: f"{COUNTED}{THRESHOLDS[threshold]}{READINGS[reading]}env = {{{names}}}\n",
        FACTOR_RUNNER: "",
        "app/cli.py": COMMAND_LINES[command_line],
        "components/workflow/conf.py": "class BasePropSetting(Base):\n    train_start: str\n",
        SETTINGS: "class ModelBasePropSetting(BasePropSetting):\n"
        + "".join(f"    {edge}: str\n" for edge in EDGES[1:]),
        "components/workflow/rd_loop.py": "class RDLoop:\n    def __init__(self):\n        self.plan = {}\n",
        "scenarios/qlib/experiment/model_experiment.py": "class E:\n    def __init__(self):\n"
        "        self.base_features: dict = {}\n",
        "utils/qlib.py": f"ALPHA20: dict[str, str] = {ALPHA!r}\n",
        MODEL_TEMPLATE: TEMPLATE.replace("{feature}", FEATURES[features]).replace("{dates}", DATES[dates]),
    }


@pytest.mark.parametrize("mixture", list(product(*ALL)), ids="-".join)
def test_every_mixture(mixture: tuple[str, ...], tmp_path: Path) -> None:
    """No answer depends on another: each is the same in every mixture, with Windows' line ends as well."""
    returns, dump, threshold, command_line, reading, features, dates = mixture
    host = write(tmp_path, source(*mixture), "\r\n" if dump == "plain" else "\n")
    traits = Traits(host)
    assert list(traits.problems()) == []
    assert traits.returns_names == (RETURNS[returns],)
    assert traits.signs_sessions is (dump == "signed")
    assert traits.factor_experiments == (2 if threshold == "more than one" else 1)
    assert bool(traits.override) is (command_line == "file first")
    assert bool(traits.alpha_reading) is (reading == "read")
    assert traits.alpha_features() == ALPHA
    assert isinstance(traits.template.dates()["train_end"], str) is (dates == "written")
    told = traits.run_variables(OTHER, 4)
    assert told["num_features"] == "4" and len(told) == (3 if features == "variables" else 1)


def test_features_as_variables(tmp_path: Path) -> None:
    """A run and an experiment bring their own."""
    traits = Traits(write(tmp_path, source(features="variables")))
    assert traits.features_of_run(SimpleNamespace(plan={"features": OTHER})) == OTHER
    assert traits.features_of(SimpleNamespace(base_features=OTHER)) == OTHER
    assert traits.run_variables(ALPHA, 5) == {
        "num_features": "5",
        "feature_names": "['KLEN', 'ROC60']",
        "feature_expressions": "['($high-$low)/$open', 'Ref($close, 60)/$close']",
    }


def test_features_as_lists(tmp_path: Path) -> None:
    """Written into the template, they are those of the experiment's own copy; a plan beside it changes nothing."""
    files = source(features="lists")
    traits = Traits(write(tmp_path, files))
    own = {CONFIG_NAME: files[MODEL_TEMPLATE].replace('"ROC60"', '"MINE"')}
    experiment = SimpleNamespace(base_features=OTHER, experiment_workspace=SimpleNamespace(file_dict=own))
    assert list(traits.features_of(experiment)) == ["KLEN", "MINE"]
    factors = SimpleNamespace(experiment_workspace=SimpleNamespace(file_dict={"conf_baseline.yaml": ""}))
    assert traits.features_of(factors) == ALPHA
    assert traits.features_of_run(SimpleNamespace(plan={"features": OTHER})) == ALPHA


@pytest.mark.parametrize("text", ["", "ALPHA20 = make_features()\n", "ALPHA20 = ['A']\n"])
def test_computed_features_are_an_error(text: str, tmp_path: Path) -> None:
    """What is not written out is not guessed."""
    traits = Traits(write(tmp_path, {**source(), "utils/qlib.py": text}))
    with pytest.raises(HostError, match="ALPHA20"):
        traits.alpha_features()
    assert [problem for problem in traits.problems() if "ALPHA20" in problem]


@pytest.mark.parametrize(
    ("given", "last"),
    [({"test_end": "2021-06-30"}, date(2021, 6, 30)), ({"test_end": None}, None), ({}, None)],
)
def test_dates_from_the_settings(
    given: dict[str, str | None], last: date | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables have the settings' dates; where a setting is empty, the template's default."""
    days = {
        "train_start": "",
        "train_end": "2014-12-31",
        "valid_start": "2015-01-01",
        "valid_end": "2016-12-31",
        "test_start": "2018-01-01",
        **given,
    }
    module = ModuleType("rdagent.app.qlib_rd_loop.conf")
    module.ModelBasePropSetting = lambda: SimpleNamespace(model_dump=lambda: days)
    for name in ("rdagent", "rdagent.app", "rdagent.app.qlib_rd_loop"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    traits = Traits(write(tmp_path, source()))
    assert traits.segments() == Segments(
        date(2008, 1, 1), date(2014, 12, 31), date(2015, 1, 1), date(2016, 12, 31), date(2018, 1, 1), last
    )


def test_dates_from_the_template(tmp_path: Path) -> None:
    """Written dates need no settings, and nothing is imported."""
    traits = Traits(write(tmp_path, source(dates="written")))
    assert traits.segments().test_end == date(2020, 8, 1)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({WORKSPACE: "path = 'returns'\n"}, f"{WORKSPACE} names no file of returns"),
        ({RUNNER: "if len(sota_list) > 3: pass\n" + COUNTED}, "only from 4 factor experiments on"),
        ({SETTINGS: "class ModelBasePropSetting(BasePropSetting):\n    x: str\n"}, "has no train_end"),
        ({RUNNER: COUNTED}, "gives the template's train_end no value"),
        ({"components/workflow/rd_loop.py": ""}, "does not set self.plan"),
        ({MODEL_TEMPLATE: ""}, f"There is no {MODEL_TEMPLATE}"),
        ({MODEL_TEMPLATE: "a: [b"}, "cannot be read as YAML"),
    ],
)
def test_what_is_not_answered(changed: dict[str, str], said: str, tmp_path: Path) -> None:
    """The message names the file and what was looked for in it."""
    problems = list(Traits(write(tmp_path, {**source(), **changed})).problems())
    assert any(said in problem for problem in problems), problems


def test_both_files_of_returns(tmp_path: Path) -> None:
    """A workspace module that looks for either is content with one of them."""
    either = 'for name in ("ret.pkl", "ret.parquet", "ret_group.pkl"):\n    pass\n'
    assert Traits(write(tmp_path, {**source(), WORKSPACE: either})).returns_names == (
        "ret.parquet",
        "ret.pkl",
    )


@pytest.mark.parametrize(
    ("text", "signs"),
    [
        ("from pickle import dump as write\ndef dump(self, p):\n    write(self, p)\n", False),
        ("import dill\ndef dump(self, p):\n    dill.dump(self, p)\n", False),
        ("from rdagent.own import save\ndef dump(self, p):\n    save(self, p)\n", None),
        ("", None),
    ],
)
def test_who_writes_snapshots(text: str, signs: bool | None, tmp_path: Path) -> None:
    """A plain pickle is not signed; of a writer that is not known, nothing is said."""
    assert Traits(write(tmp_path, {**source(), LOOP: text})).signs_sessions is signs


def test_another_template_is_named(tmp_path: Path) -> None:
    """A template on mined factors that the model runner may choose instead is told."""
    files = source()
    files[RUNNER] += 'names = ("conf_us_sota_model.yaml", "conf_baseline_factors_model.yaml")\n'
    folder = MODEL_TEMPLATE.rpartition("/")[0]
    files[f"{folder}/conf_us_sota_model.yaml"] = files[MODEL_TEMPLATE]
    files[f"{folder}/conf_baseline_factors_model.yaml"] = "x: 1\n"
    assert Traits(write(tmp_path, files)).other_templates == ("conf_us_sota_model.yaml",)


def test_the_installed_one() -> None:
    """The RD-Agent of this environment has its twenty Alpha features, and every answer."""
    pytest.importorskip("rdagent")
    traits = installed_traits()
    assert len(traits.alpha_features()) == 20
    assert list(traits.problems()) == []
    assert traits.signs_sessions is not None and traits.factor_experiments == 2
    assert traits.override is None and traits.alpha_reading is None
