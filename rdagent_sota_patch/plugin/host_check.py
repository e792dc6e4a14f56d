"""Whether this RD-Agent is still built as the plugin needs it: what it calls, replaces and edits, by its source.

Read as text, so that the doctor stays quick. A newer release passes as long as nothing of this has changed; where
something has, the message names it.
"""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import HostError, Problem
from rdagent_sota_patch.factor_table.sources import TABLE_NAME
from rdagent_sota_patch.host_source import CONFIG_NAME, HostSource, bare_name, find_host
from rdagent_sota_patch.plugin.hand_edits import hand_edit_suspects
from rdagent_sota_patch.plugin.traits import Traits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_HINT = (
    "The plugin works with RD-Agent 0.8.0 and 1.0.0 and with checkouts that have what docs/activation.md lists; "
    "what was looked for is not where it was looked for."
)


@dataclass(frozen=True, slots=True)
class _Function:
    """A function that the plugin calls, wraps or overrides.

    Attributes:
        name: ``Class.method``, or a function's name.
        parameters: Those that are given, in order; further ones must be optional.
        decorator: The one it must have.
    """

    file: str
    name: str
    parameters: tuple[str, ...]
    decorator: str = ""


_FACTOR = "components/coder/factor_coder/factor.py"
_UTILS = "core/utils.py"
_CACHE = "cache_with_pickle"
_QLIB = "scenarios/qlib"

_CLASSES = (
    ("components/workflow/rd_loop.py", "RDLoop", "LoopBase"),
    ("app/qlib_rd_loop/model.py", "ModelRDLoop", "RDLoop"),
    (f"{_QLIB}/developer/model_runner.py", "QlibModelRunner", "CachedRunner"),
    (f"{_QLIB}/experiment/factor_experiment.py", "QlibFactorExperiment", "FactorExperiment"),
    (f"{_QLIB}/experiment/model_experiment.py", "QlibModelExperiment", "ModelExperiment"),
    (f"{_QLIB}/experiment/workspace.py", "QlibFBWorkspace", "FBWorkspace"),
)
"""File, class and the base that makes it what the plugin takes it for."""

_FUNCTIONS = (
    _Function("utils/workflow/loop.py", "LoopBase.run", ("self",)),
    _Function("utils/workflow/loop.py", "LoopBase.dump", ("self", "path")),
    _Function(_UTILS, _CACHE, ("hash_func", "post_process_func")),
    _Function(f"{_QLIB}/developer/model_runner.py", "QlibModelRunner.develop", ("self", "exp"), _CACHE),
    _Function(f"{_QLIB}/developer/factor_runner.py", "QlibFactorRunner.develop", ("self", "exp"), _CACHE),
    _Function(f"{_QLIB}/developer/utils.py", "process_factor_data", ("exp_or_list",)),
    _Function(
        f"{_QLIB}/experiment/workspace.py", "QlibFBWorkspace.execute", ("self", "qlib_config_name", "run_env")
    ),
    _Function(
        _FACTOR,
        "FactorTask.__init__",
        ("self", "factor_name", "factor_description", "factor_formulation"),
    ),
    _Function(_FACTOR, "FactorFBWorkspace.execute", ("self", "data_type")),
    _Function(
        "components/coder/CoSTEER/evaluators.py", "CoSTEERMultiFeedback.__init__", ("self", "feedback_list")
    ),
    _Function(
        "core/experiment.py", "Experiment.__init__", ("self", "sub_tasks", "based_experiments", "hypothesis")
    ),
    _Function("core/experiment.py", "FBWorkspace.__init__", ("self",)),
    _Function("core/experiment.py", "FBWorkspace.inject_files", ("self",)),
    _Function("core/experiment.py", "Task.__init__", ("self", "name")),
    _Function(
        "core/proposal.py",
        "Hypothesis.__init__",
        (
            "self",
            "hypothesis",
            "reason",
            "concise_reason",
            "concise_observation",
            "concise_justification",
            "concise_knowledge",
        ),
    ),
    _Function("core/experiment.py", "FBWorkspace.clear", ("self",)),
    _Function(
        f"{_QLIB}/experiment/model_experiment.py", "QlibModelScenario.get_scenario_all_desc", ("self",)
    ),
    _Function(
        f"{_QLIB}/experiment/quant_experiment.py", "QlibQuantScenario.get_scenario_all_desc", ("self",)
    ),
    _Function(
        f"{_QLIB}/developer/feedback.py",
        "QlibModelExperiment2Feedback.generate_feedback",
        ("self", "exp", "trace"),
    ),
)

_HISTORY = ("hist", "dag_parent", "idx2loop_id", "NEW_ROOT")
"""What ``Trace`` keeps a run's history in (``core/proposal.py``), for ``SOTA_INHERIT_TRACE``."""

_PAIRING = "zip(exp.sub_workspace_list, exp.prop_dev_feedback)"
"""How ``process_factor_data`` finds what it runs: no sub-workspace without a verdict, such as that of the weights."""


def require_known_host() -> None:
    """Make sure that the plugin fits the RD-Agent of this Python.

    Raises:
        HostError: It does not; says all of what is otherwise.
    """
    if problems := _installed_problems(find_host()):
        raise HostError.of(problems)


@functools.cache
def _installed_problems(host: HostSource) -> tuple[Problem, ...]:
    # It does not change while this process has it loaded, and is asked for at every snapshot.
    return check_host(host)


def host_problems(root: Path, version: str = "") -> tuple[Problem, ...]:
    """Everything that keeps the plugin from working in the RD-Agent below ``root``; nothing is imported.

    The same answer as `require_known_host` acts on, for a source that need not be this Python's.

    Args:
        root: A checkout, a folder of installed packages, or the package's own folder ``…/rdagent``.
        version: What the source is called in messages, where that is known.
    """
    package = root / "rdagent"
    return check_host(HostSource(package if package.is_dir() else root, version))


def check_host(host: HostSource) -> tuple[Problem, ...]:
    """Everything in which ``host`` is not as the plugin needs it."""
    problems = tuple(Problem("host-changed", f"{host}: {what}", _HINT) for what in _changes(host))
    return (*problems, *hand_edit_suspects(host.folder)) if problems else ()


def _changes(host: HostSource) -> Iterator[str]:
    missing = set()
    for file, name, base in _CLASSES:
        found = _find(host.parse(file), name)
        if not isinstance(found, ast.ClassDef):
            missing.add(name)
            yield f"{file} has no class {name}."
        elif base not in {bare_name(node) for node in found.bases}:
            yield f"{file}: {name} does not derive from {base}."
    for expected in _FUNCTIONS:
        if expected.name.partition(".")[0] not in missing:
            yield from _function_changes(host, expected)
    if not _keeps_wrapped(_find(host.parse(_UTILS), _CACHE)):
        yield f"{_UTILS}: {_CACHE} does not use functools.wraps, so the bare develop cannot be reached."
    history = _attributes_of(host.parse("core/proposal.py"))
    for name in _HISTORY:
        if name not in history:
            yield f"core/proposal.py: Trace does not keep {name}."
    utils = host.parse(f"{_QLIB}/developer/utils.py")
    if not any(isinstance(node, ast.Call) and ast.unparse(node) == _PAIRING for node in ast.walk(utils)):
        yield f"{_QLIB}/developer/utils.py does not pair sub-workspaces with verdicts: {_PAIRING}."
    if "loop_prev_out" not in _attributes_of(host.parse("utils/workflow/loop.py")):
        yield "utils/workflow/loop.py: LoopBase does not keep loop_prev_out."
    runner = {
        node.value
        for node in ast.walk(host.parse(f"{_QLIB}/developer/model_runner.py"))
        if isinstance(node, ast.Constant)
    }
    for text in (CONFIG_NAME, TABLE_NAME):
        if text not in runner:
            yield f"{_QLIB}/developer/model_runner.py does not name {text}."
    yield from Traits(host).problems()


def _attributes_of(tree: ast.AST) -> set[str]:
    """Names that something in ``tree`` sets, on ``self`` or in a class's body."""
    return {
        node.attr if isinstance(node, ast.Attribute) else node.id
        for node in ast.walk(tree)
        if isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Store)
    }


def _function_changes(host: HostSource, expected: _Function) -> Iterator[str]:
    found = _find(host.parse(expected.file), expected.name)
    if not isinstance(found, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield f"{expected.file} has no {expected.name}."
        return
    arguments = found.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    given = len(expected.parameters)
    optional = len(arguments.defaults)
    keywords_required = any(default is None for default in arguments.kw_defaults)
    if tuple(names[:given]) != expected.parameters or len(names) - optional > given or keywords_required:
        yield (
            f"{expected.file}: {expected.name} takes ({', '.join(names)}), where "
            f"({', '.join(expected.parameters)}) is expected, and the rest optional."
        )
    if expected.decorator and expected.decorator not in map(bare_name, found.decorator_list):
        yield f"{expected.file}: {expected.name} is not decorated with {expected.decorator}."


def _find(tree: ast.AST | None, name: str) -> ast.AST | None:
    """The class or function of that (dotted) name."""
    for part in name.split("."):
        body = getattr(tree, "body", [])
        tree = next((node for node in body if getattr(node, "name", None) == part), None)
    return tree


def _keeps_wrapped(decorator: ast.AST | None) -> bool:
    return decorator is not None and any(
        bare_name(used) == "wraps"
        for node in ast.walk(decorator)
        if isinstance(node, ast.FunctionDef)
        for used in node.decorator_list
    )
