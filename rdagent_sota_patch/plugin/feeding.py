"""Feed the SOTA factors to one model experiment, for the duration of ``develop``, and take them away again."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rdagent.log import rdagent_logger as logger
from rdagent.scenarios.qlib.experiment.factor_experiment import QlibFactorExperiment

from rdagent_sota_patch.atomic import write_text_atomically
from rdagent_sota_patch.errors import HostError, SotaError, SourceError
from rdagent_sota_patch.factor_table.canonical import copy_table
from rdagent_sota_patch.factor_table.combining import combine_features
from rdagent_sota_patch.factor_table.schema import read_names
from rdagent_sota_patch.factor_table.sources import TABLE_NAME
from rdagent_sota_patch.factor_table.table import unchanged
from rdagent_sota_patch.host_source import CONFIG_NAME
from rdagent_sota_patch.plugin.inheritance import without_inherited
from rdagent_sota_patch.plugin.synthetic import make_placeholder, make_sota_experiment
from rdagent_sota_patch.plugin.template import Template, read_template
from rdagent_sota_patch.plugin.traits import installed_traits
from rdagent_sota_patch.plugin.usage import describe_usage, write_usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rdagent_sota_patch.plugin.active import ActiveSota

SOTA_ONLY_CONFIG_NAME = "conf_sota_factors_only_model.yaml"
"""Ours, made from RD-Agent's in the experiment's workspace when no Alpha feature is wanted."""


@contextmanager
def feeding(exp: Any, sota: ActiveSota) -> Iterator[None]:
    """Make upstream's ``develop`` train ``exp`` on the SOTA factors.

    Within, ``based_experiments`` starts with a placeholder and the synthetic experiment, and the workspace's
    ``execute`` puts the table in place, and the features that are really used into the template's variables, just
    before the back-test. Afterwards, also when the back-test failed, both are as they were.
    """
    # What was inherited is in the SOTA table already.
    own = without_inherited(exp.based_experiments)
    # In fin_quant the run's own accepted factors come on top. Then RD-Agent has to join the values itself.
    own_factors = any(isinstance(other, QlibFactorExperiment) for other in own)
    workspace = exp.experiment_workspace
    execute = workspace.execute
    traits = installed_traits()

    def execute_on_sota(qlib_config_name: str, run_env: dict[str, Any]) -> Any:
        template = _checked_template(workspace, qlib_config_name, sota)
        table = workspace.workspace_path / TABLE_NAME
        if own_factors:
            names = read_names(table)
        else:
            require_unchanged(sota)
            _remove(table)
            copy_table(sota.table.path, table)
            names = sota.table.names
        base_features = traits.features_of(exp, template)
        features = combine_features(base_features, names, sota.use_alpha)
        alpha = {name: base_features[name] for name in features.alpha}
        if not alpha:
            write_text_atomically(
                workspace.workspace_path / SOTA_ONLY_CONFIG_NAME,
                template.drop_alpha(),
                durable=False,
            )
            qlib_config_name = SOTA_ONLY_CONFIG_NAME
        exp.sota_source = describe_usage(exp, sota, features, alpha)
        write_usage(workspace.workspace_path, exp.sota_source)
        if sota.use_alpha:
            logger.info(f"叠加Alpha因子: {len(alpha)}个")
        # Upstream adds the two counts up, although a mined factor replaces the Alpha feature of its name.
        used = traits.run_variables(alpha, features.count, template)
        return execute(qlib_config_name=qlib_config_name, run_env={**run_env, **used})

    with put_in_front(exp, sota, own, whole=own_factors, execute=execute_on_sota):
        yield


@contextmanager
def put_in_front(
    exp: Any, sota: ActiveSota, own: list[Any], *, whole: bool, execute: Callable[..., Any]
) -> Iterator[None]:
    """Have ``exp`` built on the synthetic experiments and ``own``, and back-tested by ``execute``; then as before.

    Args:
        own: What the run accepted itself, as far as ``exp`` is built on it.
        whole: Whether RD-Agent needs the SOTA factors' values, or the columns alone.
    """
    based, workspace = exp.based_experiments, exp.experiment_workspace
    ours = [make_placeholder(sota.source.metrics), make_sota_experiment(sota, whole=whole)]
    exp.based_experiments = [*ours, *own]
    workspace.execute = execute
    logger.info("SOTA factor experiment added to based_experiments")
    try:
        yield
    finally:
        exp.based_experiments = based
        del workspace.execute
        for synthetic in ours:
            # Every experiment is born with a folder of templates; these two have no use for theirs.
            synthetic.experiment_workspace.clear()


def _checked_template(workspace: Any, name: str, sota: ActiveSota) -> Template:
    """The template that RD-Agent chose, compared with what the run was checked for.

    Usually `CONFIG_NAME`; a checkout may have another for another market.

    Raises:
        HostError: It does not load mined factors, or its dates are not those that the factors were checked on.
    """
    text = workspace.file_dict.get(name)
    template = read_template(text, name) if text else None
    if template is None or not template.names_file(TABLE_NAME):
        raise HostError(
            "host-changed",
            f"RD-Agent back-tests this model with {name}, which does not load {TABLE_NAME}: its model runner did not "
            "take the factor experiments that it was given.",
            "docs/activation.md says what a model runner has to do.",
        )
    if name != CONFIG_NAME and (segments := installed_traits().segments(template)) != sota.segments:
        raise HostError(
            "host-changed",
            f"RD-Agent back-tests this model with {name}, from {segments.train_start} to {segments.test_end}. The SOTA "
            f"factors were checked for the dates of {CONFIG_NAME}, {sota.segments.train_start} to "
            f"{sota.segments.test_end}.",
            f"Give both templates the same dates, or have RD-Agent use {CONFIG_NAME}.",
        )
    return template


def _remove(table: Path) -> None:
    """Remove the one row that RD-Agent wrote: replacing a file, some file systems wait for the new one's blocks."""
    try:
        table.unlink(missing_ok=True)
    except OSError as error:
        raise SotaError(
            "cannot-write",
            f"Cannot replace {table}: {error.strerror}.",
            "Check that its folder is writable.",
        ) from error


def require_unchanged(sota: ActiveSota) -> None:
    """Make sure that the table is still the one that was checked.

    Raises:
        SourceError: It is not.
    """
    if not unchanged(sota.table):
        raise SourceError(
            "source-changed",
            f"{sota.table.path} changed after this run checked it.",
            "Save the set you want with `rdagent-sota save` and name that file (LOAD_SOTA_FACTORS).",
        )
