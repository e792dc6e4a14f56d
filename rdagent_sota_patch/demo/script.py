"""What the scripted LLM proposes: the factors of the factor stage and the models of the model stage.

The factor script accepts, rejects and accepts again; the second accepted proposal holds two factors. So
three loops leave three factors in the table of the last accepted experiment.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from textwrap import dedent

_READ = """\
import numpy as np
import pandas as pd

data = pd.read_hdf("daily_pv.h5", key="data").sort_index()
by_stock = lambda column: column.groupby(level="instrument", group_keys=False)
"""

_WRITE = """\
result = factor.rename("{name}").astype("float64").to_frame().dropna()
result.to_hdf("result.h5", key="data")
"""


class ModelType(str, Enum):
    """The two model types that RD-Agent's Qlib templates train."""

    TABULAR = "Tabular"
    TIME_SERIES = "TimeSeries"


@dataclass(frozen=True, slots=True)
class ScriptedFactor:
    """One factor: what is said about it, and the code that computes it."""

    name: str
    description: str
    formulation: str
    variables: tuple[tuple[str, str], ...]
    body: str

    @property
    def code(self) -> str:
        """Text of ``factor.py``: reads ``daily_pv.h5``, writes ``result.h5``."""
        return f"{_READ}{dedent(self.body)}{_WRITE.format(name=self.name)}"


@dataclass(frozen=True, slots=True)
class FactorProposal:
    """One loop of the factor stage."""

    hypothesis: str
    factors: tuple[ScriptedFactor, ...]
    accept: bool


@dataclass(frozen=True, slots=True)
class ModelProposal:
    """One loop of the model stage."""

    number: int
    model_type: ModelType

    @property
    def name(self) -> str:
        """Name that no other loop's model has: RD-Agent's model coder fails on a task it solved before."""
        kind = "GRU" if self.model_type is ModelType.TIME_SERIES else "MLP"
        return f"Scripted{kind}{self.number}"

    @property
    def hypothesis(self) -> str:
        """The hypothesis; it names the model, so that the following prompts can be told apart."""
        return f"{self.name}: a small network is enough to combine the features into a useful ranking."

    @property
    def hidden_size(self) -> int:
        """Width of the hidden layer, a little different in each loop."""
        return 24 + 4 * (self.number % 5)

    @property
    def epochs(self) -> int:
        """Few: in each one the templates start 20 worker processes three times over."""
        return 2 if self.model_type is ModelType.TIME_SERIES else 3

    @property
    def code(self) -> str:
        """Text of ``model.py``, which defines ``model_cls``."""
        template = _GRU if self.model_type is ModelType.TIME_SERIES else _MLP
        return dedent(template).format(name=self.name, hidden=self.hidden_size)


# The seed makes a training repeatable: it also rules the order in which torch's DataLoader shuffles.
_MLP = """\
    import torch
    from torch import nn


    class {name}(nn.Module):
        def __init__(self, num_features):
            super().__init__()
            torch.manual_seed(7)
            self.layers = nn.Sequential(
                nn.Linear(num_features, {hidden}),
                nn.SiLU(),
                nn.Linear({hidden}, 1),
            )

        def forward(self, x):
            return self.layers(x)


    model_cls = {name}
    """

_GRU = """\
    import torch
    from torch import nn


    class {name}(nn.Module):
        def __init__(self, num_features, num_timesteps):
            super().__init__()
            torch.manual_seed(7)
            self.recurrent = nn.GRU(num_features, {hidden}, batch_first=True)
            self.last_day = nn.Linear(num_features, {hidden})
            self.head = nn.Linear(2 * {hidden}, 1)

        def forward(self, x):
            states, _ = self.recurrent(x)
            today = nn.functional.silu(self.last_day(x[:, -1, :]))
            return self.head(torch.cat([states[:, -1, :], today], dim=1))


    model_cls = {name}
    """

_PRICES = (("open_t", "opening price of day t"), ("close_t", "closing price of day t"))

OVERNIGHT_GAP = ScriptedFactor(
    name="OvernightGap10",
    description="[Gap Factor] mean overnight return, previous close to open, of the last 10 days",
    formulation=r"\frac{1}{10}\sum_{i=0}^{9}\left(\frac{open_{t-i}}{close_{t-i-1}}-1\right)",
    variables=_PRICES,
    body="""\
        gap = data["$open"] / by_stock(data["$close"]).shift(1) - 1
        factor = by_stock(gap).transform(lambda values: values.rolling(10).mean())
        """,
)
VOLUME_LEVEL = ScriptedFactor(
    name="VolumeLevel20",
    description="[Volume Factor] logarithm of the mean volume of the last 20 days",
    formulation=r"\log\left(\frac{1}{20}\sum_{i=0}^{19} volume_{t-i}\right)",
    variables=(("volume_t", "shares traded on day t"),),
    body="""\
        factor = np.log(by_stock(data["$volume"]).transform(lambda values: values.rolling(20).mean()))
        """,
)
SKIPPED_MOMENTUM = ScriptedFactor(
    name="SkippedMomentum60",
    description="[Momentum Factor] return over the 60 days that ended 65 days ago",
    formulation=r"\frac{close_{t-65}}{close_{t-125}}-1",
    variables=_PRICES[1:],
    body="""\
        close = by_stock(data["$close"])
        factor = close.shift(65) / close.shift(125) - 1
        """,
)
GAP_VOLUME = ScriptedFactor(
    name="GapVolumeCorr20",
    description="[Gap Factor] correlation of overnight return and log volume over the last 20 days",
    formulation=r"\mathrm{corr}_{20}\left(\frac{open_t}{close_{t-1}}-1,\ \log volume_t\right)",
    variables=(*_PRICES, ("volume_t", "shares traded on day t")),
    body="""\
        gap = data["$open"] / by_stock(data["$close"]).shift(1) - 1
        pair = pd.DataFrame({"gap": gap, "volume": np.log(data["$volume"])})
        factor = pair.groupby(level="instrument", group_keys=False).apply(
            lambda rows: rows["gap"].rolling(20).corr(rows["volume"])
        ).sort_index()
        """,
)

FACTOR_SCRIPT = (
    FactorProposal(
        "Overnight gaps carry information that the day's trading has not yet priced in.",
        (OVERNIGHT_GAP,),
        accept=True,
    ),
    FactorProposal(
        "Stocks that trade large volumes are priced more efficiently and should lag.",
        (VOLUME_LEVEL,),
        accept=False,
    ),
    FactorProposal(
        "Old momentum, and gaps that volume confirms, add to the overnight gap.",
        (SKIPPED_MOMENTUM, GAP_VOLUME),
        accept=True,
    ),
)


def extra_factor_proposal(number: int) -> FactorProposal:
    """A proposal for runs that go on after the script: one more reversal, always rejected."""
    days = 5 + number
    factor = ScriptedFactor(
        name=f"Reversal{days}",
        description=f"[Reversal Factor] negative return of the last {days} days",
        formulation=rf"1-\frac{{close_t}}{{close_{{t-{days}}}}}",
        variables=_PRICES[1:],
        body=f"""\
            factor = 1 - data["$close"] / by_stock(data["$close"]).shift({days})
            """,
    )
    return FactorProposal(f"Returns of the last {days} days revert.", (factor,), accept=False)
