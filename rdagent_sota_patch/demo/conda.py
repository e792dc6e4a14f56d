"""Stand-ins for the programs that RD-Agent finds on a user's machine: ``conda``, and Qlib's ``qrun``.

RD-Agent runs back-tests in a conda environment called ``rdagent4qlib`` (``rdagent/utils/env.py``:
``QlibCondaConf``, ``QlibCondaEnv``, ``CondaConf``). It asks ``conda env list`` for the name and
``conda run -n NAME env`` for the environment's PATH. Here both answers lead to the running interpreter's own
environment, where Qlib is installed.

Why there is a ``qrun`` as well: MLflow's file store appends to a metric's file by opening it, which creates
it empty, and writing afterwards (``mlflow/utils/file_utils.py``: ``append_to``). Qlib logs metrics from a
second thread (``qlib/workflow/recorder.py``: ``AsyncCaller``) while its main thread saves artifacts, and for
each artifact MLflow reads the whole run back. When the read falls into the gap, the back-test dies with
"Metric 'Rank ICIR' is malformed. No data found", about once in ten runs, and RD-Agent skips the loop. The
``qrun`` written here is Qlib's own, with one lock around the file store's reads and writes: the gap can then
not be seen, and nothing else is different.
"""

from __future__ import annotations

import shlex
import stat
import sys
from pathlib import Path
from textwrap import dedent

QLIB_ENVIRONMENT = "rdagent4qlib"

_CONDA = """\
    #!/bin/sh
    # Stand-in for conda: one environment, {name}, which is {prefix}.
    case "$1 $2" in
    "env list")
        echo "# conda environments:"
        echo "{name}  "{prefix}
        exit 0 ;;
    "run -n")
        if [ "$3" != {name} ]; then
            echo "conda stand-in: no environment named $3" >&2
            exit 1
        fi
        shift 3 ;;
    *)
        echo "conda stand-in: only 'env list' and 'run -n {name} [--no-capture-output] COMMAND' are known" >&2
        exit 2 ;;
    esac
    if [ "$1" = "--no-capture-output" ]; then shift; fi
    PATH={bins}:"$PATH"
    export PATH
    exec "$@"
    """

_QRUN = """\
    # Qlib's qrun, with MLflow's file store guarded against its own readers (see the demo's conda.py).
    import functools
    import sys
    import threading

    from mlflow.store.tracking.file_store import FileStore

    from qlib.cli.run import run

    guard = threading.RLock()


    def guarded(method):
        @functools.wraps(method)
        def call(*args, **kwargs):
            with guard:
                return method(*args, **kwargs)

        return call


    for name in ("get_run", "log_metric", "log_batch", "log_param", "set_tag", "update_run_info"):
        setattr(FileStore, name, guarded(getattr(FileStore, name)))

    if __name__ == "__main__":
        sys.exit(run())
    """


def write_conda(bin_folder: Path, prefix: Path) -> None:
    """Write ``conda`` into ``bin_folder`` and the environment it knows of at ``prefix``.

    The environment holds ``python`` and ``qrun``; its other programs are those beside the interpreter.
    """
    environment_bin = prefix / "bin"
    python = shlex.quote(sys.executable)
    bins = ":".join(shlex.quote(str(folder)) for folder in (environment_bin, Path(sys.executable).parent))
    conda = dedent(_CONDA).format(name=QLIB_ENVIRONMENT, prefix=shlex.quote(str(prefix)), bins=bins)
    _write_program(bin_folder / "conda", conda)
    qrun = prefix / "lib" / "qrun.py"
    qrun.parent.mkdir(parents=True, exist_ok=True)
    qrun.write_text(dedent(_QRUN), encoding="utf-8")
    # Shell scripts rather than a #! line with the interpreter: that one ends at a space and is short.
    _write_program(environment_bin / "python", f'#!/bin/sh\nexec {python} "$@"\n')
    _write_program(environment_bin / "qrun", f'#!/bin/sh\nexec {python} {shlex.quote(str(qrun))} "$@"\n')


def _write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
