"""The tables of docs/modules.md, made from the docstrings of the modules.

python -m local.tasks.modules_page
"""

from __future__ import annotations

import ast
import sys
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from local.services import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGE = ROOT / "docs" / "modules.md"
LIBRARY = ROOT / "src" / "saldo"
BEGIN, END = "<!-- modules -->\n", "<!-- /modules -->\n"


def page() -> str:
    """Return docs/modules.md with new tables; the text around them is kept."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def tables() -> str:
    """Return a table of modules for each package, as Markdown."""
    modules = sorted(
        (path for path in LIBRARY.rglob("*.py") if not path.name.startswith("__")),
        key=lambda path: (path.parent, path.name),
    )
    made = []
    for package, own in groupby(modules, key=attrgetter("parent")):
        name = ".".join(("saldo", *package.relative_to(LIBRARY).parts))
        rows = [f"| `{path.stem}` | {subject(path)} |" for path in own]
        made.append("\n".join([f"### {name}", "", "| module | subject |", "|---|---|", *rows, ""]))
    return "\n".join(made)


def subject(module: Path) -> str:
    """Return the first line of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE.relative_to(ROOT))
    sys.exit(0)
