"""Feed the SOTA factors to one model experiment, for the duration of ``develop``, and take them away again."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rdagent.log import rdagent_logger as logger
from rdagent.scenarios.qlib.experiment.factor_experiment import QlibFactorExperiment

from rdagent_sota_patch.atomic import write_text_atomically
from rdagent_sota_patch.errors import HostError, SotaError, SourceError
from rdagent_sota_patch.factors.copying import copy_table
from rdagent_sota_patch.factors.features import combine_features
from rdagent_sota_patch.factors.schema import read_names
from rdagent_sota_patch.factors.sources import TABLE_NAME
from rdagent_sota_patch.factors.table import unchanged
from rdagent_sota_patch.plugin.synthetic import make_placeholder, make_sota_experiment
from rdagent_sota_patch.plugin.usage import describe_usage, write_usage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rdagent_sota_patch.plugin.active import ActiveSota

CONFIG_NAME = "conf_sota_factors_model.yaml"
"""RD-Agent's template for models on mined factors."""

SOTA_ONLY_CONFIG_NAME = "conf_sota_factors_only_model.yaml"
"""Ours, made from it in the experiment's workspace when no Alpha feature is wanted."""

# The Alpha entry of the template: its class, and the `feature` group of its config. An empty feature group is an
# error in Qlib, and Alpha158DL without one gives all 158 of its features, so another loader has to stand there.
_ALPHA_LOADER = "qlib.contrib.data.loader.Alpha158DL"
_LABEL_LOADER = "qlib.data.dataset.loader.QlibDataLoader"
_FEATURE_GROUP = re.compile(
    r"^[ ]*feature:[ ]*\n[ ]*- \{\{ feature_expressions \}\}[ ]*\n[ ]*- \{\{ feature_names \}\}[ ]*\n",
    re.MULTILINE,
)


@contextmanager
def feeding(exp: Any, sota: ActiveSota) -> Iterator[None]:
    """Make upstream's ``develop`` train ``exp`` on the SOTA factors.

    Within, ``based_experiments`` starts with a placeholder and the synthetic experiment, and the workspace's
    ``execute`` puts the table in place, and the features that are really used into the template's variables, just
    before the back-test. Afterwards, also when the back-test failed, both are as they were.
    """
    based = exp.based_experiments
    # In fin_quant the run's own accepted factors come on top. Then RD-Agent has to join the values itself.
    own_factors = any(isinstance(other, QlibFactorExperiment) for other in based)
    workspace = exp.experiment_workspace
    execute = workspace.execute

    def execute_on_sota(qlib_config_name: str, run_env: dict[str, Any]) -> Any:
        if qlib_config_name != CONFIG_NAME:
            raise HostError(
                "host-changed",
                f"RD-Agent chose {qlib_config_name} for a model on mined factors, not {CONFIG_NAME}.",
                "If its model_runner.py was edited by hand, undo that (docs/hand-edits.md).",
            )
        table = workspace.workspace_path / TABLE_NAME
        if own_factors:
            names = read_names(table)
        else:
            _require_unchanged(sota)
            _remove(table)
            copy_table(sota.table.path, table)
            names = sota.table.names
        features = combine_features(exp.base_features, names, sota.use_alpha)
        alpha = {name: exp.base_features[name] for name in features.alpha}
        if not alpha:
            write_text_atomically(
                workspace.workspace_path / SOTA_ONLY_CONFIG_NAME,
                drop_alpha(workspace.file_dict[CONFIG_NAME]),
                durable=False,
            )
            qlib_config_name = SOTA_ONLY_CONFIG_NAME
        exp.sota_source = describe_usage(exp, sota, features, alpha)
        write_usage(workspace.workspace_path, exp.sota_source)
        if sota.use_alpha:
            logger.info(f"叠加Alpha因子: {len(alpha)}个")
        # Upstream adds the two counts up, although a mined factor replaces the Alpha feature of its name.
        used = {
            "num_features": str(features.count),
            "feature_names": str(list(alpha)),
            "feature_expressions": str(list(alpha.values())),
        }
        return execute(qlib_config_name=qlib_config_name, run_env={**run_env, **used})

    ours = [make_placeholder(sota.source.metrics), make_sota_experiment(sota, whole=own_factors)]
    exp.based_experiments = [*ours, *based]
    workspace.execute = execute_on_sota
    logger.info("SOTA factor experiment added to based_experiments")
    try:
        yield
    finally:
        exp.based_experiments = based
        del workspace.execute
        for synthetic in ours:
            # Every experiment is born with a folder of templates; these two have no use for theirs.
            synthetic.experiment_workspace.clear()


def drop_alpha(template: str) -> str:
    """The Qlib template with a loader of the label alone where the Alpha features were.

    Raises:
        HostError: The template is not laid out as in the releases this package knows.
    """
    if template.count(_ALPHA_LOADER) != 1 or len(_FEATURE_GROUP.findall(template)) != 1:
        raise HostError(
            "host-changed",
            f"{CONFIG_NAME} of this RD-Agent does not name its Alpha features as expected.",
            "Set USE_ALPHA_FACTORS=true, or use a supported release (docs/activation.md).",
        )
    return _FEATURE_GROUP.sub("", template).replace(_ALPHA_LOADER, _LABEL_LOADER)


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


def _require_unchanged(sota: ActiveSota) -> None:
    if not unchanged(sota.table):
        raise SourceError(
            "source-changed",
            f"{sota.table.path} changed after this run checked it.",
            "Save the set you want with `rdagent-sota save` and name that file (LOAD_SOTA_FACTORS).",
        )
