from __future__ import annotations

import subprocess
import sys


def test_reading_a_log_imports_nothing_heavy() -> None:
    """Importing the sessions package loads neither numpy, pandas, pydantic nor rdagent."""
    heavy = "{'numpy', 'pandas', 'pyarrow', 'pydantic', 'rdagent', 'qlib', 'torch'}"
    script = f"import sys, rdagent_sota_patch.sessions; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
