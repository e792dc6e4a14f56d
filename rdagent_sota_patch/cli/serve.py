"""``rdagent-sota serve``."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from rdagent_sota_patch.cli.output import clean, err, out, print_json
from rdagent_sota_patch.errors import ApiError
from rdagent_sota_patch.settings import load_settings

if TYPE_CHECKING:
    from rdagent_sota_patch.server.access import Access


_EXTRA = ("fastapi", "httpx", "jinja2", "latex2mathml", "pygments", "uvicorn")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What ``serve`` takes.

    Attributes:
        data: Market data for figures of single factors; what RD-Agent's settings name if None.
        cache: The server's own folder; None for the user's cache.
        cache_gb: How much of bundles it may hold.
        origins: Websites whose scripts may read the answers.
    """

    log_root: Path
    host: str
    port: int
    token_file: Path | None
    qlib_dir: Path | None
    data: Path | None
    cache: Path | None
    cache_gb: float
    origins: tuple[str, ...]


def require_api() -> None:
    """Make sure that what the results API and its client need is installed.

    Raises:
        ApiError: ``api-extra-missing``.
    """
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise ApiError(
            "api-extra-missing",
            f"The results API needs {', '.join(missing)}, not installed here.",
            "pip install 'rdagent-sota-patch[api]'",
        )


def run_serve(options: ServeOptions, as_json: bool) -> None:
    """Serve until stopped by Ctrl-C or SIGTERM."""
    require_api()
    from rdagent_sota_patch.cli.output import find_market_data
    from rdagent_sota_patch.results.service import Folders
    from rdagent_sota_patch.server.access import decide_access
    from rdagent_sota_patch.server.app import create_app
    from rdagent_sota_patch.server.server import ServerOptions, run_server

    access = decide_access(options.host, options.token_file)
    folders = Folders(
        log_root=options.log_root,
        cache=options.cache or _default_cache(),
        cache_bytes=int(options.cache_gb * (1 << 30)),
        roots=load_settings().sota_workspace_root,
        qlib_dir=options.qlib_dir,
        data=options.data or find_market_data(),
    )
    app = create_app(folders, access, options.origins)

    def announce(url: str) -> None:
        if as_json:
            # One line, at once: the program that started the server waits for it.
            print_json({"url": url, "log_root": str(folders.log_root.absolute())})
            sys.stdout.flush()
        else:
            _show(url, folders.log_root, access)

    run_server(app, ServerOptions(options.host, options.port), announce)


def _show(url: str, log_root: Path, access: Access) -> None:
    out.print(Text.assemble("Results of ", clean(log_root.absolute()), " at ", (url, "bold")), soft_wrap=True)
    who = "anyone who has the token" if access.token is not None else "this machine only"
    out.print(f"Open to {who}; read-only. Ctrl-C stops it.", style="dim")
    if access.token is not None:
        err.print(
            "! The token and all answers go over the network unencrypted: put a proxy with TLS in front.",
            style="yellow",
        )


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "rdagent-sota" / "api"
