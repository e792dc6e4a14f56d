"""The template for models on mined factors, however it is written; and the Alpha entry taken out of it."""

from __future__ import annotations

import pytest
import yaml

from rdagent_sota_patch.errors import HostError
from rdagent_sota_patch.plugin.template import Template, Variable

TEMPLATE = """\
qlib_init:
    provider_uri: "~/.qlib/cn_data"  # the data
market: &market csi300
data_handler_config: &data_handler_config
    end_time: 2022-08-01
    instruments: *market
    data_loader:
        class: NestedDataLoader
        kwargs:
            dataloader_l:
                - class: qlib.contrib.data.loader.Alpha158DL
                  kwargs:
                    config:
                        label:
                            - ["Ref($close, -2)/Ref($close, -1) - 1"]
                            - ["LABEL0"]
{feature}
                - class: qlib.data.dataset.loader.StaticDataLoader
                  kwargs:
                    config: "combined_factors_df.parquet"
task:
    model:
        kwargs:
            pt_model_kwargs: {
              "num_features": {{ num_features }}{% if num_timesteps %}, "num_timesteps": {{ num_timesteps }}{% endif %}
            }
    dataset:
        class: {{ dataset_cls | default("DatasetH") }}
        kwargs:
            handler:
                kwargs: *data_handler_config
            segments:
{dates}
            {% if step_len %}step_len: {{ step_len }}{% endif %}
"""
VARIABLES = """\
                        feature:
                            - {{ feature_expressions }}
                            - {{ feature_names }}"""
LISTS = """\
                        feature:
                            - ["($high-$low)/$open",
                               "Ref($close, 60)/$close"]
                            - ["KLEN",
                               "ROC60"]"""
BLOCKS = """\
                        # the user's own choice
                        feature:
                            -
                              - ($high-$low)/$open   # range
                              - 'Ref($close, 60)/$close'
                            - [ KLEN, ROC60 ]  # names
                        # nothing more"""
WRITTEN = """\
                train: [2008-01-01, 2014-12-31]
                valid: ['2015-01-01', "2016-12-31"]
                test:
                    - 2017-01-01
                    - 2020-08-01"""
DATE_VARIABLES = """\
                train: [{{ train_start | default("2008-01-01", true) }}, {{train_end}}]
                valid: [ {{ valid_start }},{{ valid_end }} ]  # {# to be moved #}
                test: [{{ test_start | default('2017-01-01') }}, {{ test_end | default(null, true) }}]"""
NAMES = ("KLEN", "ROC60")
EXPRESSIONS = ("($high-$low)/$open", "Ref($close, 60)/$close")


def template(feature: str = LISTS, dates: str = WRITTEN, newline: str = "\n") -> Template:
    text = TEMPLATE.replace("{feature}", feature).replace("{dates}", dates)
    return Template(text.replace("\n", newline), "conf.yaml")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("feature", [LISTS, BLOCKS])
def test_features_that_are_written_out(feature: str, newline: str) -> None:
    """Names and expressions, whatever the style of the lists, the quotes and the line ends."""
    alpha = template(feature, newline=newline).alpha()
    assert (alpha.names, alpha.expressions) == (NAMES, EXPRESSIONS)


def test_features_that_are_variables() -> None:
    """The variables' names, by their places."""
    alpha = template(VARIABLES.replace("{{ feature_names }}", "{{names|safe}}")).alpha()
    assert (alpha.names, alpha.expressions) == (Variable("names"), Variable("feature_expressions"))


def test_one_list_for_both() -> None:
    """A flat list is expressions that are their own names, as in Qlib."""
    alpha = template('                        feature: ["$close", "$open"]').alpha()
    assert alpha.names == alpha.expressions == ("$close", "$open")


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        ("                        other: []", "without them it loads all"),
        ("                        feature: []", "without them it loads all"),
        ('                        feature: [["$close"], ["A", "B"]]', "1 Alpha expressions and 2 names"),
        ('                        feature: ["{{ x }}", ["A"]]', "neither as two variables nor as two lists"),
        ("                        feature: [[$close]", "cannot be read as YAML"),
    ],
)
def test_features_that_are_not_known(feature: str, said: str) -> None:
    """What was looked for is named, and the file."""
    with pytest.raises(HostError, match=r"conf\.yaml") as caught:
        template(feature).alpha()
    assert said in str(caught.value)


def test_dates() -> None:
    """The dataset's segments, not the handler's later end; written out, or as variables with their defaults."""
    assert list(template().dates().values()) == [
        "2008-01-01",
        "2014-12-31",
        "2015-01-01",
        "2016-12-31",
        "2017-01-01",
        "2020-08-01",
    ]
    assert template(dates=DATE_VARIABLES).dates() == {
        "train_start": Variable("train_start", "2008-01-01"),
        "train_end": Variable("train_end"),
        "valid_start": Variable("valid_start"),
        "valid_end": Variable("valid_end"),
        "test_start": Variable("test_start", "2017-01-01"),
        "test_end": Variable("test_end"),
    }
    with pytest.raises(HostError, match="no test_start, test_end"):
        template(dates=WRITTEN.replace("test:", "check:")).dates()


def test_what_else_it_says() -> None:
    """Variables, the table's file, provider and market, comments and anchors aside."""
    read = template()
    assert read.variables == {"num_features", "num_timesteps", "dataset_cls", "step_len"}
    assert read.names_file("combined_factors_df.parquet") and not read.names_file("combined")
    assert (read.scalar("provider_uri"), read.scalar("market")) == ("~/.qlib/cn_data", "csi300")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("feature", [LISTS, VARIABLES, BLOCKS])
@pytest.mark.parametrize("dates", [WRITTEN, DATE_VARIABLES])
def test_alpha_is_dropped(feature: str, dates: str, newline: str) -> None:
    """Only the Alpha entry changes: another loader, no feature group; every other character stays."""
    before = template(feature, dates, newline)
    lines = [line for line in feature.split("\n") if line.strip().startswith("#")]
    kept = "".join(f"{line}{newline}" for line in lines)
    group = feature.replace("\n", newline) + newline
    assert before.drop_alpha() == before.text.replace(group, kept).replace(
        "qlib.contrib.data.loader.Alpha158DL", "qlib.data.dataset.loader.QlibDataLoader"
    )


def test_alpha_is_dropped_from_braces() -> None:
    """In flow style the entry goes with its comma."""
    text = (
        "loaders: [{class: Alpha158DL, kwargs: {config: {feature: [[$close], [A]], label: [[$open], [L]]}}},\n"
        "  {class: StaticDataLoader, kwargs: {config: combined_factors_df.parquet}}]\n"
    )
    dropped = yaml.safe_load(Template(text, "conf.yaml").drop_alpha())
    assert dropped["loaders"][0] == {
        "class": "qlib.data.dataset.loader.QlibDataLoader",
        "kwargs": {"config": {"label": [["$open"], ["L"]]}},
    }


def test_two_alpha_loaders_are_not_dropped() -> None:
    """Which of two would be meant is not guessed."""
    twice = TEMPLATE.replace("StaticDataLoader", "Alpha158DL").replace("{feature}", LISTS)
    with pytest.raises(HostError, match="has 2 loaders"):
        Template(twice.replace("{dates}", WRITTEN), "conf.yaml").drop_alpha()
