"""A page to look at as one HTML file: no other file, no network, no script."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_STYLE = """
:root{--paper:#fbfaf7;--card:#fff;--ink:#1d232a;--soft:#68707a;--line:#e4e1da;--bar:#b9c6d3;--best:#1f6f5c;
--warn:#a4511a;--band:#eef1ee}
@media (prefers-color-scheme:dark){:root{--paper:#14171a;--card:#1b1f23;--ink:#e6e4df;--soft:#98a1aa;--line:#2c3238;
--bar:#46535f;--best:#5cbfa4;--warn:#e59a63;--band:#20262a}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.6rem;line-height:1.2;margin:.2rem 0}
h2{font-size:1.05rem;margin:0 0 .2rem}
p{margin:.2rem 0 .8rem}
.soft{color:var(--soft)}
section{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1rem;margin-top:1rem}
dl{display:flex;flex-wrap:wrap;gap:.6rem 2rem;margin:1rem 0 0}
dt{color:var(--soft);font-size:.8rem}dd{margin:0;font-size:1.15rem;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{font-weight:500;color:var(--soft);font-size:.8rem;text-align:left;padding:.2rem .5rem .2rem 0;vertical-align:bottom}
td{padding:.22rem .5rem .22rem 0;border-top:1px solid var(--line);vertical-align:middle}
.number{text-align:right}
.name{overflow-wrap:anywhere;min-width:6rem}
.wide{width:45%}
.warn{color:var(--warn)}
svg{display:block;width:100%}
.ticks{display:flex;justify-content:space-between;font-size:.8rem;font-variant-numeric:tabular-nums}
.axis{position:relative;height:1rem}.axis span{position:absolute;transform:translateX(-50%)}
.bar{fill:var(--bar)}.best{fill:var(--best)}.band{fill:var(--band)}.rule{stroke:var(--line)}
.whisker{stroke:var(--ink);stroke-width:1.5}.box{fill:var(--bar)}.middle{fill:var(--best)}
.out .middle{fill:var(--warn)}
ul{margin:.2rem 0;padding-left:1.1rem}
details{margin-top:.4rem}summary{cursor:pointer;color:var(--soft)}
@media (max-width:34rem){.wide{width:38%}td,th{padding-right:.35rem}body{font-size:14px}}
"""


def render_document(title: str, parts: Iterable[str]) -> str:
    """One HTML document.

    Args:
        title: As text.
        parts: Of its body, as HTML; what comes from elsewhere is escaped already.
    """
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        + "".join(parts)
        + "</main></body></html>\n"
    )
