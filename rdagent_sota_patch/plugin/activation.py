"""How the plugin gets into this environment's RD-Agent, and whether the runner that will be used is one it feeds."""

from __future__ import annotations

import ast
import sys
from typing import TYPE_CHECKING

from rdagent_sota_patch._startup import RUNNER_MODULE, AttachFinder, is_disabled
from rdagent_sota_patch.errors import HostError, Problem, SotaError
from rdagent_sota_patch.host_source import HostSource, find_host
from rdagent_sota_patch.patching.source import SourceState, inspect_source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RUNNER = f"{RUNNER_MODULE}.QlibModelRunner"
SUMMARIZER = "rdagent.scenarios.qlib.developer.feedback.QlibModelExperiment2Feedback"

_RUNNERS = (
    ("fin_model", "QLIB_MODEL_RUNNER", "ModelBasePropSetting", "runner"),
    ("fin_quant", "QLIB_QUANT_MODEL_RUNNER", "QuantBasePropSetting", "model_runner"),
)
"""Command, variable, and the class and field of its default (``rdagent/app/qlib_rd_loop/conf.py``)."""


def find_activation() -> str:
    """What attaches the plugin in an ``rdagent`` of this Python: the start-up hook, the source patch, or both.

    Raises:
        HostError: ``not-active``, or what is wrong with a patch where there is no hook.
    """
    if is_disabled():
        raise HostError(
            "not-active",
            "RDAGENT_SOTA_DISABLE is on, so RD-Agent would run without the plugin.",
            "Unset RDAGENT_SOTA_DISABLE, in the environment and in .env.",
        )
    hooked = AttachFinder in sys.meta_path
    try:
        source = inspect_source(find_host().folder)
    except SotaError:  # There is no RD-Agent, or not a readable one, which is told elsewhere.
        patched = False
    else:
        patched = source.state is SourceState.PATCHED
        if source.problems and not hooked:
            raise HostError.of(source.problems)
    if not hooked and not patched:
        raise HostError(
            "not-active",
            "The start-up hook is not in this Python and RD-Agent's source is not patched, so RD-Agent would run "
            "without the plugin.",
            "Install rdagent-sota-patch again (pip install -e .), or patch the source: "
            "rdagent-sota patch apply --source DIR",
        )
    return " and ".join(["start-up hook"] * hooked + ["source patch"] * patched)


def runner_problems(host: HostSource, variables: Mapping[str, str]) -> Iterator[Problem]:
    """Model runners in force that the plugin cannot feed, as far as ``host``'s source tells; for ``fin_model`` alone.

    A run stops at them before its first LLM call.
    """
    command, where, runner, fits = next(_judge_runners(host, variables))
    if fits is False:
        yield Problem(
            "runner-without-sota",
            f"{where} names {runner} for {command}, which does not derive from {RUNNER}, so that it cannot be fed "
            "SOTA factors.",
            "Set QLIB_MODEL_RUNNER to a class that derives from it, or switch LOAD_SOTA_* off.",
        )


def runner_notices(host: HostSource, variables: Mapping[str, str]) -> Iterator[Problem]:
    """Model runners in force that are not RD-Agent's own, other than those of `runner_problems`."""
    for command, where, runner, fits in _judge_runners(host, variables):
        if runner != RUNNER and (fits is not False or command != "fin_model"):
            yield Problem(
                "own-runner",
                f"{where} names a runner of its own for {command}, {runner}; "
                + ("it does not derive" if fits is False else "it is fed if it derives")
                + " from QlibModelRunner.",
                "The run checks it before the first LLM call.",
            )


def summarizer_notices(variables: Mapping[str, str]) -> Iterator[Problem]:
    """A summarizer of ``fin_model`` that is not RD-Agent's own, for ``SOTA_ACCEPT_SEEDS``."""
    summarizer = variables.get("QLIB_MODEL_SUMMARIZER") or SUMMARIZER
    if summarizer != SUMMARIZER:
        yield Problem(
            "own-summarizer",
            f"QLIB_MODEL_SUMMARIZER names {summarizer}, which decides on acceptances; SOTA_ACCEPT_SEEDS needs it to "
            "leave that to QlibModelExperiment2Feedback.",
            "The run checks it before the first LLM call.",
        )


def _judge_runners(
    host: HostSource, variables: Mapping[str, str]
) -> Iterator[tuple[str, str, str, bool | None]]:
    conf = "app/qlib_rd_loop/conf.py"
    for command, variable, owner, field in _RUNNERS:
        default = _default(host.parse(conf), owner, field) or RUNNER
        runner = variables.get(variable) or default
        yield command, variable if variables.get(variable) else conf, runner, _derives(host, runner)


def _default(tree: ast.Module, owner: str, field: str) -> str | None:
    for node in tree.body:
        for entry in node.body if isinstance(node, ast.ClassDef) and node.name == owner else ():
            if (
                isinstance(entry, ast.AnnAssign)
                and isinstance(entry.target, ast.Name)
                and entry.target.id == field
                and isinstance(entry.value, ast.Constant)
                and isinstance(entry.value.value, str)
            ):
                return entry.value.value
    return None


def _derives(host: HostSource, path: str, depth: int = 8) -> bool | None:
    """Whether the class of that dotted path derives from ``QlibModelRunner``; None where the source does not tell."""
    module, _, name = path.rpartition(".")
    package = module.partition(".")[0]
    if path == RUNNER or package in sys.stdlib_module_names:
        return path == RUNNER
    if package != "rdagent" or not depth:
        return None
    file = module.removeprefix("rdagent.").replace(".", "/")
    for node in (*host.parse(f"{file}.py").body, *host.parse(f"{file}/__init__.py").body):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return _derives(host, f"{node.module}.{alias.name}", depth - 1)
        if isinstance(node, ast.ClassDef) and node.name == name:
            bases = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
            answers = {
                _derives(host, f"{module}.{base.id}", depth - 1) if isinstance(base, ast.Name) else None
                for base in bases
            }
            return True in answers or (None if None in answers else False)
    return None
