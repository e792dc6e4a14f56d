"""What this RD-Agent does, asked of its source: each question by itself, so that any mixture of answers works.

The only place that knows how releases and checkouts differ. The source is read as text; what a setting is worth is
asked of RD-Agent's own settings, when it is needed.
"""

from __future__ import annotations

import ast
import functools
import re
from typing import TYPE_CHECKING, Any

from rdagent_sota_patch.alpha_switch import ALPHA, find_alpha_reading
from rdagent_sota_patch.environment import find_override
from rdagent_sota_patch.errors import HostError, SotaError
from rdagent_sota_patch.factor_table.segments import Segments
from rdagent_sota_patch.factor_table.sources import TABLE_NAME
from rdagent_sota_patch.host_source import CONFIG_NAME, MODEL_TEMPLATE, HostSource, bare_name, find_host
from rdagent_sota_patch.plugin.template import Template, Variable, read_template

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rdagent_sota_patch.alpha_switch import AlphaReading

_WORKSPACE = "scenarios/qlib/experiment/workspace.py"
_MODEL_RUNNER = "scenarios/qlib/developer/model_runner.py"
_FACTOR_RUNNER = "scenarios/qlib/developer/factor_runner.py"
_LOOP = "utils/workflow/loop.py"
_SIGNING = "core/serialization.py"
_ALPHA_FILE = "utils/qlib.py"
_SETTINGS_FILES = ("app/qlib_rd_loop/conf.py", "components/workflow/conf.py")
_SETTINGS = "ModelBasePropSetting"
_PLAIN_PICKLES = frozenset({"pickle", "_pickle", "dill", "cloudpickle", "joblib"})
_FEATURE_ATTRIBUTES = (
    ("components/workflow/rd_loop.py", "plan"),
    ("scenarios/qlib/experiment/model_experiment.py", "base_features"),
)

_RETURNS = re.compile(r"ret\.\w+")
"""The daily returns of a back-test, whatever their format."""

GIVEN = 2
"""Factor experiments that a model's experiment is built on while it is fed: a placeholder and the synthetic one."""

_HINT = "docs/activation.md says what a source of RD-Agent has to have."


class Traits:
    """The answers of one RD-Agent, each found when it is asked for.

    Attributes:
        host: Its source.
    """

    def __init__(self, host: HostSource) -> None:
        self.host = host

    @functools.cached_property
    def template(self) -> Template:
        """The template for models on mined factors, as RD-Agent copies it into workspaces.

        Raises:
            HostError: It is not there, or cannot be read.
        """
        text = self.host.read(MODEL_TEMPLATE)
        if not text:
            raise HostError("host-changed", f"There is no {MODEL_TEMPLATE}.", _HINT)
        return read_template(text, MODEL_TEMPLATE)

    @functools.cached_property
    def returns_names(self) -> tuple[str, ...]:
        """The files that it looks for after a back-test, of which one is enough; empty if none is named.

        Usually one: ``ret.parquet`` in 1.0.0, ``ret.pkl`` before.
        """
        named = _texts(self.host.parse(_WORKSPACE))
        return tuple(sorted(text for text in named if _RETURNS.fullmatch(text)))

    @functools.cached_property
    def other_templates(self) -> tuple[str, ...]:
        """Further templates on mined factors that the model runner names, for other markets for example."""
        folder = MODEL_TEMPLATE.rpartition("/")[0]
        return tuple(
            name
            for name in sorted(_texts(self.host.parse(_MODEL_RUNNER)) - {CONFIG_NAME})
            if name.endswith((".yaml", ".yml")) and TABLE_NAME in self.host.read(f"{folder}/{name}")
        )

    @functools.cached_property
    def signs_sessions(self) -> bool | None:
        """Whether its snapshots are signed; None where neither is found. Where not, it executes any it is given."""
        tree = self.host.parse(_LOOP)
        dump = next((node for node in ast.walk(tree) if _is_function(node, "dump")), None)
        if dump is None:
            return None
        origins = {
            _origin_of(call.func, tree)
            for call in ast.walk(dump)
            if isinstance(call, ast.Call)
            and call.args
            and isinstance(call.args[0], ast.Name)
            and call.args[0].id == "self"
        }
        if any(origin.endswith("serialization") for origin in origins):
            return True if "RDAGENT_SIGNED_PICKLE" in self.host.read(_SIGNING) else None
        return False if origins & _PLAIN_PICKLES else None

    @functools.cached_property
    def runs_feature_codes(self) -> bool:
        """Whether experiments may bring base features as code (``base_feature_codes``)."""
        return "base_feature_codes" in self.host.read(_FACTOR_RUNNER)

    @functools.cached_property
    def factor_experiments(self) -> int | None:
        """How many factor experiments a model has to be built on for mined factors to be used; None if not found."""
        tree = self.host.parse(_MODEL_RUNNER)
        counted = {
            target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and "QlibFactorExperiment" in ast.unparse(node.value)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare) and ast.unparse(node.left) in {
                f"len({name})" for name in counted
            }:
                return _least(node)
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id in counted:
                return 1
        return None

    @property
    def override(self) -> str | None:
        """``file:line`` where its command line lets ``.env`` beat the environment; None if it does not."""
        return find_override(self.host)

    @property
    def alpha_reading(self) -> AlphaReading | None:
        """How its own code reads ``USE_ALPHA_FACTORS``; None where it does not."""
        return find_alpha_reading(self.host)

    def describe(self) -> str:
        """The answers that a user may want to know, in a line."""
        signed = {True: "signed", False: "unsigned", None: "signed or not: not found"}[self.signs_sessions]
        parts = [
            f"a back-test leaves {' or '.join(self.returns_names) or 'no file that was found'}",
            f"snapshots {signed}",
        ]
        if self.override:
            parts.append(f".env beats the environment ({self.override})")
        if self.alpha_reading:
            parts.append(f"reads {ALPHA} itself ({self.alpha_reading.place})")
        return "; ".join(parts)

    def alpha_features(self) -> dict[str, str]:
        """The Alpha features that a new run uses, name to Qlib expression.

        Raises:
            HostError: They are not written out anywhere.
        """
        alpha = self.template.alpha()
        if isinstance(alpha.names, Variable) or isinstance(alpha.expressions, Variable):
            return self._declared_features()
        return _written(self.template)

    def features_of_run(self, loop: Any) -> Mapping[str, str]:
        """The Alpha features of a run (an ``RDLoop``): its plan's, where the template takes them from there."""
        if not self._features_are_variables:
            return self.alpha_features()
        features: Mapping[str, str] = loop.plan["features"]
        return features

    def features_of(self, exp: Any, template: Template | None = None) -> Mapping[str, str]:
        """The Alpha features of an experiment (``QlibModelExperiment`` or ``QlibFactorExperiment``).

        Args:
            exp: The experiment; where its template has them as variables, they are its own ``base_features``.
            template: The template that it is back-tested with; a model experiment's own by default, and RD-Agent's for
                a factor experiment.
        """
        if self._features_are_variables:
            features: Mapping[str, str] = exp.base_features
            return features
        own = template or _own_template(exp)
        return self.alpha_features() if own is None else _written(own)

    def segments(self, template: Template | None = None) -> Segments:
        """The dates of the model stage, in RD-Agent's template or another of its.

        Raises:
            HostError: The template does not give them.
            SettingsError: They are no dates.
        """
        dates = (template or self.template).dates()
        settings: Mapping[str, Any] = {}
        if any(isinstance(day, Variable) and day.name in self._handed_over for day in dates.values()):
            from rdagent.app.qlib_rd_loop.conf import ModelBasePropSetting

            settings = ModelBasePropSetting().model_dump()
        return Segments.parse({edge: self._day(day, settings) for edge, day in dates.items()})

    def run_variables(
        self, alpha: Mapping[str, str], count: int, template: Template | None = None
    ) -> dict[str, str]:
        """What to put in the place of the variables of the template, or of another.

        Args:
            alpha: The Alpha features that remain, name to expression. Of those written out in a template, Qlib
                replaces the ones that a mined factor is named like.
            count: Number of features in all.
        """
        variables = {"num_features": str(count)}
        features = (template or self.template).alpha()
        if isinstance(features.names, Variable) and isinstance(features.expressions, Variable):
            variables[features.names.name] = str(list(alpha))
            variables[features.expressions.name] = str(list(alpha.values()))
        return variables

    def problems(self) -> Iterator[str]:
        """What of all this the source does not answer, in words."""
        if not self.returns_names:
            yield f"{_WORKSPACE} names no file of returns that a back-test leaves (ret.parquet, ret.pkl)."
        if self.factor_experiments is not None and self.factor_experiments > GIVEN:
            yield (
                f"{_MODEL_RUNNER} uses mined factors only from {self.factor_experiments} factor experiments on; the "
                f"plugin gives {GIVEN}."
            )
        try:
            template = self.template
            if not template.names_file(TABLE_NAME):
                yield f"{MODEL_TEMPLATE} loads no {TABLE_NAME}."
            if "num_features" not in template.variables:
                yield f"{MODEL_TEMPLATE} has no variable num_features."
        except HostError as error:
            yield error.problems[0].message
            return
        for step in (self._feature_problems, self._date_problems):
            try:
                yield from step()
            except SotaError as error:
                yield error.problems[0].message

    @functools.cached_property
    def _features_are_variables(self) -> bool:
        return isinstance(self.template.alpha().names, Variable)

    @functools.cached_property
    def _handed_over(self) -> frozenset[str]:
        """The texts that the model runner names, among them the variables that it gives a value."""
        return _texts(self.host.parse(_MODEL_RUNNER))

    def _day(self, day: str | Variable, settings: Mapping[str, Any]) -> str | None:
        if isinstance(day, Variable):
            given = settings.get(day.name) if day.name in self._handed_over else None
            day = str(given) if given else day.default or ""
        return None if day in ("", "null", "None", "~") else day

    def _declared_features(self) -> dict[str, str]:
        """``ALPHA20``, which new runs are given as ``plan["features"]``."""
        for node in self.host.parse(_ALPHA_FILE).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(isinstance(target, ast.Name) and target.id == "ALPHA20" for target in targets):
                assert isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign))
                try:
                    features = ast.literal_eval(node.value) if node.value is not None else None
                except ValueError:
                    break
                if isinstance(features, dict):
                    return {str(name): str(expression) for name, expression in features.items()}
        raise HostError("host-changed", f"{_ALPHA_FILE} does not define ALPHA20 as a dictionary.", _HINT)

    def _feature_problems(self) -> Iterator[str]:
        self.alpha_features()
        if not self._features_are_variables:
            return
        for file, attribute in _FEATURE_ATTRIBUTES:
            if attribute not in _attributes_set(self.host.parse(file)):
                yield f"{file} does not set self.{attribute}, from which the template's Alpha features come."

    def _date_problems(self) -> Iterator[str]:
        declared = self._declared_settings()
        for edge, day in self.template.dates().items():
            if not isinstance(day, Variable):
                continue
            if day.name in self._handed_over:
                if day.name not in declared:
                    yield f"{_SETTINGS_FILES[0]}: {_SETTINGS} has no {day.name}, from which {edge} comes."
            elif day.default is None and edge != "test_end":
                yield f"{_MODEL_RUNNER} gives the template's {day.name} no value, from which {edge} comes."

    def _declared_settings(self) -> set[str]:
        """The fields of ``ModelBasePropSetting`` and of what it derives from."""
        classes = {
            cls.name: cls
            for file in reversed(_SETTINGS_FILES)
            for cls in self.host.parse(file).body
            if isinstance(cls, ast.ClassDef)
        }
        fields: set[str] = set()
        wanted = [_SETTINGS]
        while wanted:
            found = classes.pop(wanted.pop(), None)
            if found is not None:
                wanted.extend(map(bare_name, found.bases))
                fields.update(
                    node.target.id
                    for node in found.body
                    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
                )
        return fields


def installed_traits() -> Traits:
    """The answers of the RD-Agent of this Python.

    Raises:
        HostError: There is none.
    """
    return traits_of(find_host())


@functools.cache
def traits_of(host: HostSource) -> Traits:
    """The answers of ``host``, kept for this process."""
    return Traits(host)


def _own_template(exp: Any) -> Template | None:
    text = exp.experiment_workspace.file_dict.get(CONFIG_NAME)
    return None if text is None else read_template(text, CONFIG_NAME)


def _written(template: Template) -> dict[str, str]:
    alpha = template.alpha()
    assert not isinstance(alpha.names, Variable) and not isinstance(alpha.expressions, Variable)
    return dict(zip(alpha.names, alpha.expressions, strict=True))


def _texts(tree: ast.AST) -> frozenset[str]:
    return frozenset(
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _attributes_set(tree: ast.AST) -> frozenset[str]:
    """Names of the attributes that something in ``tree`` sets on ``self``."""
    return frozenset(
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    )


def _is_function(node: ast.AST, name: str) -> bool:
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name


def _origin_of(function: ast.expr, tree: ast.AST) -> str:
    """The module that a called function comes from, as far as the file's imports tell."""
    name = ast.unparse(function).partition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(
            (alias.asname or alias.name) == name for alias in node.names
        ):
            return node.module or ""
        if isinstance(node, ast.Import):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return alias.name
    return name


def _least(comparison: ast.Compare) -> int | None:
    """The least number for which ``len(…) OP number`` holds."""
    (operator, *_), (bound, *_) = comparison.ops, comparison.comparators
    if len(comparison.ops) != 1 or not isinstance(bound, ast.Constant) or not isinstance(bound.value, int):
        return None
    if isinstance(operator, ast.Gt):
        return bound.value + 1
    if isinstance(operator, ast.NotEq) and bound.value == 0:
        return 1
    return bound.value if isinstance(operator, ast.GtE) else None
