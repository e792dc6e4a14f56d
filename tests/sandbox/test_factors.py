"""Factor code on market data: its values to the last bit, and what becomes of code that does not deliver."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.sandbox import factors
from rdagent_sota_patch.sandbox import jail as jail_module
from rdagent_sota_patch.sandbox import jail as private_folder
from rdagent_sota_patch.sandbox.factors import Trial, run_factor, run_trials
from rdagent_sota_patch.sandbox.jail import Jail
from rdagent_sota_patch.sandbox.limits import Limits
from rdagent_sota_patch.sandbox.probe import Confinement, what_confines
from tests.sandbox.conftest import needs_walls

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is run on Windows")

MOMENTUM = """
import pandas as pd
data = pd.read_hdf("daily_pv.h5", key="data").sort_index()
close = data["$close"]
factor = close / close.groupby(level="instrument").shift(3) - 1
print("computed", len(factor))
factor.rename("Momentum3").to_frame().to_hdf("result.h5", key="data")
"""


def momentum(daily_pv: Path) -> pd.DataFrame:
    close = pd.read_hdf(daily_pv, key="data").sort_index()["$close"]
    return (close / close.groupby(level="instrument").shift(3) - 1).rename("Momentum3").to_frame()


def test_values_are_those_of_the_code_to_the_last_bit(jail: Jail, daily_pv: Path) -> None:
    """Rows, their order, missing values, names and types."""
    outcome = run_factor(MOMENTUM, daily_pv, jail=jail)
    pd.testing.assert_frame_equal(outcome.values, momentum(daily_pv), check_exact=True)
    assert outcome.log == "computed 100\n"
    assert outcome.seconds > 0


def test_a_series_and_small_numbers_are_taken_as_they_are(jail: Jail, daily_pv: Path) -> None:
    """RD-Agent reads a result of either kind; float32 stays float32."""
    code = """
import pandas as pd
volume = pd.read_hdf("daily_pv.h5")["$volume"].rename("v")
volume.to_hdf("result.h5", key="anything")
"""
    values = run_factor(code, daily_pv, jail=jail).values
    expected = pd.read_hdf(daily_pv, key="data")[["$volume"]].rename(columns={"$volume": "v"})
    pd.testing.assert_frame_equal(values, expected, check_exact=True)
    assert values.dtypes["v"] == np.float32


def test_code_that_opens_the_data_for_writing_gets_a_copy(jail: Jail, daily_pv: Path) -> None:
    """``pandas.HDFStore`` does so unless told otherwise, and RD-Agent lets it."""
    before = daily_pv.read_bytes()
    code = MOMENTUM.replace('pd.read_hdf("daily_pv.h5", key="data")', 'pd.HDFStore("daily_pv.h5")["data"]')
    values = run_factor(
        code + "pd.Series([1.0]).to_hdf('daily_pv.h5', key='more')", daily_pv, jail=jail
    ).values
    pd.testing.assert_frame_equal(values, momentum(daily_pv), check_exact=True)
    assert daily_pv.read_bytes() == before


def test_code_that_fails_is_named_with_its_error(jail: Jail, daily_pv: Path) -> None:
    """The line that matters of its traceback, and the exit code."""
    code = MOMENTUM.replace("$close", "$vwap")
    with pytest.raises(BundleError, match=r"factor Vwap failed: KeyError: '\$vwap'") as caught:
        run_factor(code, daily_pv, name="Vwap", jail=jail)
    assert caught.value.slug == "factor-failed"


def test_code_that_crashes_is_no_result(jail: Jail, daily_pv: Path) -> None:
    """Even when it has written one before."""
    with pytest.raises(BundleError, match="it is ended by SIGSEGV") as caught:
        run_factor(MOMENTUM + "\nimport os; os.kill(os.getpid(), 11)", daily_pv, jail=jail)
    assert caught.value.slug == "factor-failed"


def test_a_result_that_is_no_factor_is_refused(jail: Jail, daily_pv: Path) -> None:
    """By name, with what is wrong with it; every kind is tried in ``test_inside``."""
    with pytest.raises(
        BundleError, match=r"The result of factor F is not usable: it was not written\."
    ) as caught:
        run_factor("print('done')", daily_pv, name="F", jail=jail)
    assert caught.value.slug == "factor-bad-result"


@pytest.mark.parametrize(
    ("code", "limits", "message"),
    [
        ("while True: pass", Limits(seconds=2), "not done after 2 seconds"),
        ("x = bytearray(900_000_000)", Limits(memory_mb=600), "more than 600 MB of memory"),
        ("open('big', 'wb').write(bytes(9_000_000))", Limits(output_mb=4), "more than 4 MB of files"),
    ],
)
def test_limits_are_named_when_they_are_reached(
    jail: Jail, daily_pv: Path, code: str, limits: Limits, message: str
) -> None:
    """So that whoever knows better can raise them."""
    with pytest.raises(BundleError, match=message) as caught:
        run_factor(code, daily_pv, limits, jail=jail)
    assert caught.value.slug == "factor-over-limit"


@needs_walls
def test_a_result_that_runs_code_when_read_does_so_in_the_jail(daily_pv: Path, tmp_path: Path) -> None:
    """An HDF5 file can hold a pickle, which pandas loads: it gets no further than the code did."""
    touched = tmp_path / "touched"
    code = f"""
import numpy as np, tables
class Bomb:
    def __reduce__(self):
        return (exec, ("print('went off'); open({str(touched)!r}, 'w')",))
with tables.open_file("result.h5", "w") as file:
    group = file.create_group("/", "data")
    group._v_attrs.pandas_type = "frame"
    file.create_vlarray(group, "axis0", tables.ObjectAtom()).append(Bomb())
    group._v_attrs.encoding = Bomb()
"""
    with pytest.raises(BundleError, match="cannot be read") as caught:
        run_factor(code, daily_pv)
    assert caught.value.slug == "factor-bad-result"
    assert not touched.exists()


@needs_walls
def test_what_it_leaves_running_cannot_touch_the_result(jail: Jail, daily_pv: Path) -> None:
    """It is ended before the result is read."""
    code = (
        MOMENTUM
        + """
import os, time
if os.fork() == 0:
    os.setsid()
    while True:
        time.sleep(0.001)
        open("result.h5", "w").close()
        open("result.values", "w").close()
time.sleep(0.1)
factor.rename("Momentum3").to_frame().to_hdf("other.h5", key="data")
os.replace("other.h5", "result.h5")
os._exit(0)
"""
    )
    try:
        values = run_factor(code, daily_pv, jail=jail).values
    except BundleError as error:  # It may have been written over before the code ended.
        assert error.slug == "factor-bad-result"
    else:
        assert list(values.columns) == ["Momentum3"]


@pytest.fixture
def folder(tmp_path: Path, daily_pv: Path) -> Path:
    """The market data with a second file, as a fork's data folder has it."""
    shutil.copy(daily_pv, tmp_path / "daily_pv.h5")
    frame = pd.read_hdf(daily_pv, key="data")[["$close"]].rename(columns={"$close": "mf_net"})
    frame.to_parquet(tmp_path / "static_factors.parquet")
    return tmp_path


OPENERS = {
    "pandas": "pd.read_parquet('static_factors.parquet')",
    "columns": "pd.read_parquet('static_factors.parquet', columns=['mf_net'])",
    "whole path": "pd.read_parquet(os.path.abspath('static_factors.parquet'))",
    "pathlib": "pd.read_parquet(Path.cwd() / 'static_factors.parquet')",
    "arrow": "pq.read_table('static_factors.parquet').to_pandas()",
    "one by one": "pq.ParquetFile('static_factors.parquet').read().to_pandas()",
    "dataset": "pa.dataset.dataset('static_factors.parquet').to_table().to_pandas()",
    "bytes": "pd.read_parquet(io.BytesIO(open('static_factors.parquet', 'rb').read()))",
}


@pytest.mark.parametrize("how", OPENERS)
def test_a_file_that_is_opened_is_told(jail: Jail, folder: Path, how: str) -> None:
    """However it is opened."""
    code = f"""
import io, os
from pathlib import Path
import pandas as pd, pyarrow as pa, pyarrow.dataset, pyarrow.parquet as pq
{OPENERS[how]}.to_hdf("result.h5", key="data")
"""
    with run_trials(code, [Trial(folder)], Limits(), jail=jail) as (ran,):
        assert (ran.slug, ran.asked, ran.missing) == ("", {"static_factors.parquet"}, ())
        assert len(ran.values()) == 100


def test_a_result_that_was_not_written_is_not_missing(jail: Jail, folder: Path) -> None:
    """Code that looks through its folder, and fails before it writes: it fails, and asks for nothing."""
    code = """
import os
import pandas as pd
os.listdir(".")
raise ValueError("too few rows")
pd.read_hdf("daily_pv.h5").to_hdf("result.h5", key="data")
"""
    with run_trials(code, [Trial(folder)], Limits(), jail=jail) as (ran,):
        assert (ran.slug, ran.missing) == ("factor-failed", ())


FALLBACKS = {
    "exists": "if os.path.exists('{}'): raise SystemExit(1)",
    "pathlib": "if Path('{}').is_file(): raise SystemExit(1)",
    "try": "try:\n    pd.read_parquet('{}')\nexcept Exception:\n    pass",
    "try hdf": "try:\n    pd.read_hdf('{}')\nexcept Exception:\n    pass",
    "arrow": "try:\n    pq.read_table('{}')\nexcept Exception:\n    pass",
    "access": "if os.access('{}', os.R_OK): raise SystemExit(1)",
    "glob": "import glob\nif glob.glob('{}'): raise SystemExit(1)",
    "listdir": "if '{}' in os.listdir('.'): raise SystemExit(1)",
    "elsewhere": "if os.path.exists('/mnt/data/{}'): raise SystemExit(1)",
}


@pytest.mark.parametrize("how", FALLBACKS)
def test_a_fallback_for_a_file_that_was_not_given_is_no_factor(jail: Jail, folder: Path, how: str) -> None:
    """Its values are not the factor's: an error that names the file."""
    head = "import os\nfrom pathlib import Path\nimport pandas as pd, pyarrow.parquet as pq\n"
    with pytest.raises(BundleError, match=r"factor F asks for .*basics\.parquet") as caught:
        run_factor(head + FALLBACKS[how].format("basics.parquet") + MOMENTUM, folder, name="F", jail=jail)
    assert caught.value.slug == "factor-file-missing"


def test_a_file_of_its_own_is_no_question_for_data(jail: Jail, daily_pv: Path) -> None:
    """What the code writes itself, looked for before and read after, or removed."""
    code = (
        "import os\nfrom pathlib import Path\n"
        "assert not os.path.exists('kept.pkl')\nPath('kept.pkl').write_text('x')\nPath('kept.pkl').read_text()\n"
        "if os.path.exists('gone.csv'): os.remove('gone.csv')\nopen('gone.csv', 'w').close()\nos.remove('gone.csv')\n"
    )
    assert len(run_factor(code + MOMENTUM, daily_pv, jail=jail).values) == 100


@pytest.mark.parametrize(
    "opened", ["pd.HDFStore('daily_pv.h5')['data']", "pd.read_hdf('daily_pv.h5', mode='a')"]
)
def test_the_same_values_however_the_data_is_opened(jail: Jail, folder: Path, opened: str) -> None:
    """For writing, too: a file that is given is copied when it is opened so, and the user's is not changed."""
    before = (folder / "daily_pv.h5").read_bytes()
    code = MOMENTUM.replace('pd.read_hdf("daily_pv.h5", key="data")', opened)
    assert opened in code
    values = run_factor(code, folder, jail=jail).values
    pd.testing.assert_frame_equal(values, momentum(folder / "daily_pv.h5"), check_exact=True)
    assert (folder / "daily_pv.h5").read_bytes() == before


@needs_walls
def test_factor_code_that_cannot_be_kept_in_asks_for_trust(
    daily_pv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a bundle's model.py does; with the user's word it runs, within its limits."""
    real = what_confines()
    found = Confinement(0, real.namespaces, real.seccomp)
    for module in (factors, jail_module, private_folder):
        monkeypatch.setattr(module, "what_confines", lambda: found)
    with pytest.raises(BundleError, match=r"Factor code is Python.* every file that you can") as caught:
        run_factor(MOMENTUM, daily_pv)
    assert caught.value.slug == "trust-needed"
    with Jail(trusted=True) as jail:
        assert len(run_factor(MOMENTUM, daily_pv, jail=jail).values) == 100


def test_folders_too_deep_for_a_path_are_no_error_of_the_systems(daily_pv: Path) -> None:
    """A factor that makes them has no result, or is over its limit."""
    code = "import os, time\nfor _ in range(25): os.mkdir('x' * 255); os.chdir('x' * 255)\ntime.sleep(1)\n"
    with pytest.raises(BundleError) as caught:
        run_factor(code, daily_pv)
    assert caught.value.slug in {"factor-bad-result", "factor-over-limit"}
