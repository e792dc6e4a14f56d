"""The host's source held to what the plugin needs of it: the installed one, and copies with one thing changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rdagent_sota_patch.host_source import MODEL_TEMPLATE, HostSource, find_host
from rdagent_sota_patch.plugin.host_check import check_host, host_problems, require_known_host

QLIB = "scenarios/qlib"
RUNNER = f"{QLIB}/developer/model_runner.py"


@pytest.fixture(scope="module")
def installed() -> HostSource:
    pytest.importorskip("rdagent")
    return find_host()


@pytest.fixture
def copy(installed: HostSource, tmp_path: Path) -> Path:
    """A copy of the installed RD-Agent's source, as far as it is looked at."""
    target = tmp_path / "rdagent"
    for part in ("app/qlib_rd_loop", "components", "core", "scenarios/qlib", "utils"):
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(installed.folder / part, target / part, ignore=ignored)
    return target


def change(folder: Path, file: str, old: str, new: str) -> None:
    path = folder / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_installed_release_is_known(installed: HostSource) -> None:
    """The RD-Agent of this environment passes."""
    assert check_host(installed) == ()
    require_known_host()


@pytest.mark.parametrize("named", ["rdagent", "."])
def test_source_in_a_folder(named: str, copy: Path) -> None:
    """A checkout is judged like the installed RD-Agent, named by its folder or by the package's."""
    root = copy if named == "rdagent" else copy.parent
    assert host_problems(root) == ()
    change(copy, "core/utils.py", "@functools.wraps(func)", "")
    (problem,) = host_problems(root, "3.4.5")
    assert problem.slug == "host-changed" and "3.4.5" in problem.message


@pytest.mark.parametrize("version", ["2.3.0", "1.0.1.dev7+g1234567", "0.1.dev1+g1234567", "0.7.0", ""])
def test_release_nobody_has_heard_of(version: str, copy: Path) -> None:
    """What counts is the source: a newer release, or a checkout of whatever number, passes if nothing has changed."""
    assert check_host(HostSource(copy, version)) == ()


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("core/proposal.py", "self.dag_parent:", "self.parents:", "Trace does not keep dag_parent"),
        ("core/proposal.py", "self.idx2loop_id:", "self.loops:", "Trace does not keep idx2loop_id"),
        (
            f"{QLIB}/developer/utils.py",
            "zip(exp.sub_workspace_list, exp.prop_dev_feedback)",
            "exp.sub_workspace_list",
            "does not pair sub-workspaces with verdicts",
        ),
        ("utils/workflow/loop.py", "self.loop_prev_out:", "self.outputs:", "does not keep loop_prev_out"),
        (
            f"{QLIB}/experiment/model_experiment.py",
            "def get_scenario_all_desc(",
            "def describe(",
            "has no QlibModelScenario.get_scenario_all_desc",
        ),
        (
            f"{QLIB}/developer/feedback.py",
            "class QlibModelExperiment2Feedback(",
            "class QlibModelFeedback(",
            "has no QlibModelExperiment2Feedback.generate_feedback",
        ),
        (RUNNER, "class QlibModelRunner(", "class QlibModelTrainer(", "no class QlibModelRunner"),
        (RUNNER, "def develop(self, exp:", "def develop(self, exp, plan, x:", "takes (self, exp, plan, x)"),
        (RUNNER, "@cache_with_pickle(", "@remembered(", "develop is not decorated with cache_with_pickle"),
        (
            RUNNER,
            "conf_sota_factors_model.yaml",
            "conf_mined.yaml",
            "does not name conf_sota_factors_model.yaml",
        ),
        (
            RUNNER,
            "QlibModelRunner(CachedRunner[",
            "QlibModelRunner(Runner[",
            "does not derive from CachedRunner",
        ),
        ("core/utils.py", "@functools.wraps(func)", "", "does not use functools.wraps"),
        (
            "components/workflow/rd_loop.py",
            "RDLoop(LoopBase,",
            "RDLoop(Flow,",
            "does not derive from LoopBase",
        ),
        (
            "app/qlib_rd_loop/model.py",
            "class ModelRDLoop(RDLoop)",
            "class ModelRDLoop(Loop)",
            "ModelRDLoop does not derive from RDLoop.",
        ),
        (
            "utils/workflow/loop.py",
            "def dump(self, path:",
            "def dump(self, where:",
            "LoopBase.dump takes (self, where)",
        ),
        (
            f"{QLIB}/experiment/workspace.py",
            "qlib_config_name: str =",
            "env=1, qlib_config_name: str =",
            "(self, env, ",
        ),
        (f"{QLIB}/experiment/workspace.py", '"ret.p', '"returns.p', "names no file of returns"),
        (
            f"{QLIB}/developer/utils.py",
            "def process_factor_data(",
            "def process(",
            "has no process_factor_data",
        ),
        (MODEL_TEMPLATE, "Alpha158DL", "Alpha360DL", "has 0 loaders Alpha158DL, where one is expected"),
        (MODEL_TEMPLATE, "feature:", "features:", "without them it loads all that Qlib knows"),
        (MODEL_TEMPLATE, "{{ num_features }}", "20", "has no variable num_features"),
        (MODEL_TEMPLATE, "combined_factors_df.parquet", "mined.parquet", "loads no combined_factors_df"),
        (MODEL_TEMPLATE, "train: [", "learn: [", "no train_start, train_end"),
        (RUNNER, ") > 1:", ") > 2:", "only from 3 factor experiments on"),
        (
            MODEL_TEMPLATE,
            "    infer_processors:\n",
            "    infer_processors:\n        - class: FilterCol\n          kwargs: {col_list: [KLEN, ROC60]}\n",
            "keeps 2 columns by name",
        ),
    ],
)
def test_broken_assumption_is_named(file: str, old: str, new: str, said: str, copy: Path) -> None:
    """One thing changed is one message, with the file and what is otherwise."""
    change(copy, file, old, new)
    (problem,) = check_host(HostSource(copy, "2.0.0"))
    assert problem.slug == "host-changed"
    assert said in problem.message
    assert Path(file).name in problem.message
    assert "2.0.0" in problem.message
    assert problem.hint


def test_every_change_is_told(copy: Path) -> None:
    """A source with two changes gives both, and the run is stopped with both."""
    change(copy, "core/utils.py", "@functools.wraps(func)", "")
    change(copy, f"{QLIB}/developer/utils.py", "def process_factor_data(", "def process(")
    assert len(check_host(HostSource(copy, "2.0.0"))) == 2


def test_another_package_of_that_name(tmp_path: Path) -> None:
    """A folder that has nothing of RD-Agent is told as such, without a traceback."""
    problems = check_host(HostSource(tmp_path, "3.0"))
    assert len(problems) > 10
    assert {problem.slug for problem in problems} == {"host-changed"}


def test_source_of_a_newer_python(copy: Path) -> None:
    """A file that this Python cannot parse counts as one without what is looked for."""
    (copy / RUNNER).write_text("def (:", encoding="utf-8")
    assert any("no class QlibModelRunner" in problem.message for problem in check_host(HostSource(copy, "9")))


@pytest.mark.parametrize("parses", [True, False])
def test_a_refusal_names_a_hand_edit(parses: bool, copy: Path) -> None:
    """Where the source holds a block that is known, and there alone; a source that works is not refused for one."""
    block = '        load_sota_from_log = os.getenv("LOAD_SOTA_FROM_LOG", "false") == "true"\n'
    first = "        if exp.based_experiments and exp.based_experiments[-1].result is None:\n"
    change(copy, RUNNER, first, block + ("" if parses else "        ===== end =====\n") + first)
    line = (copy / RUNNER).read_text(encoding="utf-8").split(block)[0].count("\n") + 1
    problems = check_host(HostSource(copy, "2.0.0"))
    assert [problem.slug for problem in problems[-1:]] == ([] if parses else ["hand-edit"])
    if not parses:
        assert f"{copy / RUNNER}, line {line}, holds" in problems[-1].message
        assert {problem.slug for problem in problems[:-1]} == {"host-changed"}
