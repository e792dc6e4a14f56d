"""Blocks put into RD-Agent's runners by hand: found as text, and what they do to RD-Agent's own ``develop``."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pytest_mock import MockerFixture

from rdagent_sota_patch.errors import HostError
from rdagent_sota_patch.host_source import find_host
from rdagent_sota_patch.plugin import hand_edits
from rdagent_sota_patch.plugin.hand_edits import (
    Effect,
    find_hand_edits,
    hand_edit_notices,
    hand_edit_problems,
)

Factory = Callable[..., Any]

MODEL = "scenarios/qlib/developer/model_runner.py"
FACTOR = "scenarios/qlib/developer/factor_runner.py"
FIRST_LINE = "        if exp.based_experiments and exp.based_experiments[-1].result is None:\n"

READS = """\
{name} = os.getenv("{switch}", "false") == "true"
if {name}:
    frame = pd.read_parquet(Path(os.getenv("{path}", "")){tail}, engine="pyarrow")
    by_hand = QlibFactorExperiment(sub_tasks=[])
    by_hand.result = {{"IC": 0.0}}
"""
REPLACES = "    exp.based_experiments = [by_hand]\n"
ADDS = """\
    if exp.based_experiments is None:
        exp.based_experiments = []
    exp.based_experiments.append(by_hand)
"""
IN_WORKSPACE = ' / "combined_factors_df.parquet"'

WORKSPACE = READS.format(
    name="load_sota_from_workspace",
    switch="LOAD_SOTA_FROM_WORKSPACE",
    path="SOTA_WORKSPACE_PATH",
    tail=IN_WORKSPACE,
)
FILE = READS.format(name="load_sota_factors", switch="LOAD_SOTA_FACTORS", path="SOTA_FACTORS_PATH", tail="")
LOG = READS.format(
    name="load_sota_from_log", switch="LOAD_SOTA_FROM_LOG", path="SOTA_LOG_PATH", tail=IN_WORKSPACE
)
SAVE = """\
save_sota_factors = os.getenv("SAVE_SOTA_FACTORS", "false") == "true"
if save_sota_factors and SOTA_factor is not None:
    SOTA_factor.to_parquet(Path(os.getenv("SOTA_FACTORS_PATH", "./sota_factors.parquet")))
"""
HELPER = "def find_workspace_from_log(log_path):\n    return None\n"


def indent(block: str, by: str) -> str:
    return "".join(f"{by}{line}" for line in block.splitlines(keepends=True))


def write(root: Path, file: str, text: str, newline: str = "\n") -> Path:
    path = root / "rdagent" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.replace("\n", newline).encode())
    return path


@pytest.mark.parametrize("by", ["", "        ", "\t\t"], ids=["none", "spaces", "tabs"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize(
    ("file", "block", "switch", "effect"),
    [
        (MODEL, WORKSPACE + REPLACES, "LOAD_SOTA_FROM_WORKSPACE", Effect.REPLACES),
        (MODEL, WORKSPACE + ADDS, "LOAD_SOTA_FROM_WORKSPACE", Effect.ADDS),
        (MODEL, FILE + REPLACES, "LOAD_SOTA_FACTORS", Effect.REPLACES),
        (MODEL, LOG + ADDS, "LOAD_SOTA_FROM_LOG", Effect.ADDS),
        (FACTOR, SAVE, "SAVE_SOTA_FACTORS", Effect.SAVES),
        (MODEL, HELPER, "", Effect.NONE),
    ],
    ids=["workspace", "workspace, appended", "file", "log", "save", "helper"],
)
def test_a_block_is_found(
    tmp_path: Path, file: str, block: str, switch: str, effect: Effect, newline: str, by: str
) -> None:
    """Whatever its indentation and line ends, with its file, its line and what it does."""
    head = "import os\n\n" + ("if True:  # 因子\n" if by else "# 因子\n")
    upstream = indent(f"{FIRST_LINE.strip()}\n    pass\n", by)
    path = write(tmp_path, file, head + indent(block, by) + upstream, newline)
    (edit,) = find_hand_edits(tmp_path)
    assert (edit.file, edit.line, edit.switch, edit.effect) == (path, 4, switch, effect)
    assert find_hand_edits(tmp_path / "rdagent") == (edit,)
    assert f"{path}, line 4, holds" in str(edit)


def test_several_blocks_are_told_apart(tmp_path: Path) -> None:
    """One that replaces does not make its neighbour do so, nor does RD-Agent's own code behind it."""
    text = HELPER + LOG + ADDS + WORKSPACE + REPLACES + FILE + ADDS + FIRST_LINE.strip()
    write(tmp_path, MODEL, f"{text}\n    exp.based_experiments = [placeholder]\n")
    write(tmp_path, FACTOR, SAVE)
    assert [(edit.line, edit.effect) for edit in find_hand_edits(tmp_path)] == [
        (1, Effect.NONE),
        (3, Effect.ADDS),
        (11, Effect.REPLACES),
        (17, Effect.ADDS),
        (1, Effect.SAVES),
    ]


def test_a_block_that_does_not_parse_is_found(tmp_path: Path) -> None:
    """Pasted with its closing line, which is not a comment, the file is not Python any more, and that is a problem."""
    write(tmp_path, MODEL, f"{LOG}{ADDS}===== end =====\n")
    (edit,) = find_hand_edits(tmp_path)
    assert edit.effect is Effect.BREAKS
    (problem,) = hand_edit_problems((edit,), {})
    assert "does not parse" in problem.message
    assert hand_edit_notices((edit,), {}) == ()


@pytest.mark.parametrize(
    "text",
    [
        "# load_sota_from_log = os.getenv('LOAD_SOTA_FROM_LOG', 'false') == 'true'\n",
        "load_sota_from_log = settings.load_sota_from_log\n",
        "use_alpha = os.getenv('USE_ALPHA_FACTORS', 'true') == 'true'\n",
        "logger.info('SOTA factors loaded from workspace')\n",
        "find_workspace_from_log(path)\n",
    ],
)
def test_what_is_not_such_a_block(tmp_path: Path, text: str) -> None:
    """A comment, a fork's own settings or a call is nobody's to take out."""
    write(tmp_path, MODEL, text)
    assert find_hand_edits(tmp_path) == ()


def test_released_sources_have_none() -> None:
    """Nobody is told to undo what nobody did."""
    pytest.importorskip("rdagent")
    assert find_hand_edits(find_host().folder) == ()


@pytest.mark.parametrize(
    ("value", "breaks"), [("true", True), ("1", False), ("True", False), ("false", False), (None, False)]
)
def test_only_a_block_that_is_on_is_a_problem(tmp_path: Path, value: str | None, breaks: bool) -> None:
    """The block knows no other word than "true"; off, or appending, it is a notice."""
    write(tmp_path, MODEL, WORKSPACE + REPLACES + LOG + ADDS)
    edits = find_hand_edits(tmp_path)
    variables = {"LOAD_SOTA_FROM_LOG": "true"} | ({"LOAD_SOTA_FROM_WORKSPACE": value} if value else {})
    problems, notices = hand_edit_problems(edits, variables), hand_edit_notices(edits, variables)
    assert (len(problems), len(notices)) == (breaks, 2 - breaks)
    if breaks:
        assert "line 1, holds a block for LOAD_SOTA_FROM_WORKSPACE" in problems[0].message


@pytest.fixture
def edited_develop(rdagent: Path, tmp_path: Path, mocker: MockerFixture) -> Factory:
    """Have the plugin call RD-Agent's own ``develop`` with a block at its beginning."""
    from rdagent_sota_patch.plugin import model_runner

    def edit(block: str) -> None:
        text = find_host().read(MODEL)
        assert text.count(FIRST_LINE) == 1
        text = text.replace(FIRST_LINE, indent(block, "        ") + FIRST_LINE)
        path = tmp_path / "edited_model_runner.py"
        path.write_text(f"import os\nfrom pathlib import Path\n{text}", encoding="utf-8")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        mocker.patch.object(model_runner, "_develop_upstream", module.QlibModelRunner.develop.__wrapped__)

    return edit


@pytest.mark.parametrize(
    ("block", "value", "breaks"),
    [
        (WORKSPACE + REPLACES, "true", True),
        (WORKSPACE + REPLACES, "1", False),
        (WORKSPACE + REPLACES, "false", False),
        (WORKSPACE + ADDS, "true", False),
    ],
    ids=["replaces", "spelled otherwise", "off", "appends"],
)
def test_what_a_block_does_to_a_run(
    block: str,
    value: str,
    breaks: bool,
    edited_develop: Factory,
    make_experiment: Factory,
    make_sota: Factory,
    backtest: list[dict[str, Any]],
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mocker: MockerFixture,
) -> None:
    """In RD-Agent's own ``develop``, a block breaks the run where it is announced to, and nowhere else."""
    from rdagent_sota_patch.plugin import model_runner

    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", value)
    monkeypatch.setenv("SOTA_WORKSPACE_PATH", str(table.parent))
    edited_develop(block)
    read = mocker.spy(pd, "read_parquet")
    mocker.patch.object(model_runner, "active_sota", return_value=make_sota())
    write(tmp_path / "checkout", MODEL, block)
    announced = hand_edit_problems(
        find_hand_edits(tmp_path / "checkout"), {"LOAD_SOTA_FROM_WORKSPACE": value}
    )
    experiment = make_experiment()
    if breaks:
        with pytest.raises(HostError, match="host-changed"):
            model_runner.SotaModelRunner(None).develop(experiment)
        assert backtest == []
    else:
        experiment = model_runner.SotaModelRunner(None).develop(experiment)
        (call,) = backtest
        assert (call["table"], call["env"]["num_features"]) == (table.read_bytes(), "21")
    assert [problem.slug for problem in announced] == ["hand-edit"] * breaks
    assert (read.call_count > 0) is (value == "true"), "the block itself ran"


@pytest.mark.parametrize("loop", ["ModelRDLoop", "FactorRDLoop"])
def test_a_run_says_it_first(
    loop: str, rdagent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture
) -> None:
    """The pre-flight stops at a block in a runner that this stage uses, and warns of one that is off."""
    from rdagent_sota_patch.plugin import preflight
    from rdagent_sota_patch.settings import Settings

    write(tmp_path, MODEL, WORKSPACE + REPLACES)
    write(tmp_path, FACTOR, SAVE)
    mocker.patch.object(preflight, "find_host", return_value=mocker.Mock(folder=tmp_path / "rdagent"))
    log = mocker.patch.object(preflight, "logger")
    target = tmp_path / "sota_factors.parquet"
    switch, other = "LOAD_SOTA_FROM_WORKSPACE", "SAVE_SOTA_FACTORS"
    if loop == "FactorRDLoop":
        switch, other = other, switch
    monkeypatch.setenv(other, "true")
    monkeypatch.setenv(switch, "true")
    settings = Settings(
        load_sota_from_workspace=True,
        sota_workspace_path=tmp_path,
        save_sota_factors=True,
        sota_factors_path=target,
    )
    with pytest.raises(HostError, match=f"hand-edit.*{switch} is on") as caught:
        preflight.prepare_run(type(loop, (), {"runner": object()})(), settings)
    assert len(caught.value.problems) == 1
    monkeypatch.setenv(switch, "1")
    if loop == "FactorRDLoop":
        preflight.prepare_run(type(loop, (), {"runner": object()})(), settings)
        assert "hand-edit" in log.warning.call_args_list[0].args[0]


def test_the_doctor_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture) -> None:
    """With the same words."""
    pytest.importorskip("rdagent")
    from rdagent_sota_patch.plugin import diagnosis as doctor

    monkeypatch.chdir(tmp_path)
    edit = hand_edits.HandEdit(Path("model_runner.py"), 7, "LOAD_SOTA_FROM_WORKSPACE", Effect.REPLACES)
    mocker.patch.object(doctor, "find_hand_edits", return_value=(edit,))
    monkeypatch.setenv("SOTA_WORKSPACE_PATH", str(tmp_path))
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "true")
    found = doctor.diagnose()
    assert hand_edit_problems((edit,), {"LOAD_SOTA_FROM_WORKSPACE": "true"})[0] in found.problems
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "1")
    assert "hand-edit" in [notice.slug for notice in doctor.diagnose().notices]
