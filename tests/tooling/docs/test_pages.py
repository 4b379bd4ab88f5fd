"""The documentation: its links have targets, and its generated pages are current."""

from __future__ import annotations

import ast
import functools
import itertools
import re
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt

from local.services import ROOT
from local.tasks import modules_page, reference_pages
from saldo.serve.functions import FUNCTIONS
from saldo.serve.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from markdown_it.token import Token

# A page may name a file in backticks: it must be there, too.
NAMED_PATH = re.compile(r"(?:docs|functions|infra_pulumi|loadtests|local|src|tests)/[\w./-]+")


def pages() -> list[Path]:
    """Return every Markdown file of the repository."""
    within = [
        path
        for entry in ROOT.iterdir()
        if entry.is_dir() and not entry.name.startswith(".") and entry.name != "build"
        for path in entry.rglob("*.md")
        if "node_modules" not in path.parts
    ]
    return sorted([*ROOT.glob("*.md"), *within])


def inline(page: Path) -> Iterator[Token]:
    """Yield every link, image and inline code of a page's text, without code blocks."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        yield from token.children or []


@functools.cache
def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))
    found: set[str] = set()
    for token, text in itertools.pairwise(tokens):
        if token.type == "heading_open":
            words = "".join(each.content for each in text.children or [])
            slug = re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")
            number = 0
            while (made := f"{slug}-{number}" if number else slug) in found:
                number += 1
            found.add(made)
    return found


def wrong(page: Path, link: str) -> str:
    """Return what is wrong with a link of a page; empty if it has a target."""
    parts = urlsplit(link)
    if parts.scheme:
        if parts.scheme not in {"https", "http"} or not parts.netloc or " " in link:
            return "no URL"
        return ""
    target = page if not parts.path else (page.parent / unquote(parts.path)).resolve()
    if not target.exists() or not target.is_relative_to(ROOT):
        return "no such file"
    if parts.fragment and parts.fragment not in anchors(target):
        return "no such heading"
    return ""


def links(page: Path) -> list[str]:
    found = []
    for token in inline(page):
        link = token.attrGet("href") or token.attrGet("src")
        if link is not None:
            found.append(str(link))
    return found


def test_pages_are_found() -> None:
    names = {str(page.relative_to(ROOT)) for page in pages()}
    assert {"README.md", "docs/README.md", "docs/how-to/retry-safely.md"} <= names


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_has_a_target(page: Path) -> None:
    assert [(link, said) for link in links(page) if (said := wrong(page, link))] == []


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("nothing.md", "no such file"),
        ("../../outside.md", "no such file"),
        ("operations.md#nothing", "no such heading"),
        ("#nothing", "no such heading"),
        ("http:", "no URL"),
        ("operations.md#with-pg_dump", ""),
        ("https://example.org/x", ""),
    ],
)
def test_broken_link_is_found(link: str, said: str) -> None:
    assert wrong(ROOT / "docs" / "README.md", link) == said


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_named_file_exists(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return  # it may tell of what is gone
    named = {
        token.content
        for token in inline(page)
        if token.type == "code_inline" and NAMED_PATH.fullmatch(token.content)
    }
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_every_page_can_be_reached_from_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    reached: set[Path] = set()
    waiting = [index]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        targets = [urlsplit(link) for link in links(page)]
        waiting += [
            target
            for target in ((page.parent / parts.path).resolve() for parts in targets if parts.path)
            if target.suffix == ".md" and target not in reached and target.exists()
        ]
    assert {page for page in pages() if page.is_relative_to(ROOT / "docs")} <= reached


# --- what is made from code -------------------------------------------------------------------


@pytest.mark.parametrize("path", reference_pages.PAGES, ids=lambda path: path.name)
def test_generated_page_is_current(path: Path) -> None:
    made = reference_pages.PAGES[path]()
    assert path.read_text(encoding="utf-8") == made, "run: make reference"


def test_tables_of_modules_are_current() -> None:
    assert modules_page.PAGE.read_text(encoding="utf-8") == modules_page.page(), (
        "run: make reference"
    )


def test_every_setting_of_the_functions_is_described() -> None:
    read = {
        name
        for function in FUNCTIONS
        for environ in reference_pages.environments()
        for name in reference_pages.settings_read(function.name, environ)
    }
    assert read == reference_pages.FUNCTIONS_SETTINGS.keys()


@pytest.mark.parametrize(
    ("name", "default"),
    [
        (name, each.default)
        for name, each in reference_pages.FUNCTIONS_SETTINGS.items()
        if each.default
    ],
)
def test_documented_default_applies_without_the_setting(name: str, default: str) -> None:
    for function in FUNCTIONS:
        absent = read_settings(function.name, reference_pages.GOOD)
        assert absent == read_settings(function.name, reference_pages.GOOD | {name: default})


def environment_names(folder: Path) -> set[str]:
    """Return the environment variables named in ``folder``: constants in capitals."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                asked = [*node.args, *(word.value for word in node.keywords)]
            elif isinstance(node, ast.Dict):
                asked = [key for key in node.keys if key is not None]
            else:
                continue
            found |= {
                each.value
                for each in asked
                if isinstance(each, ast.Constant)
                and isinstance(each.value, str)
                and re.fullmatch(r"[A-Z]+(_[A-Z0-9]+)+", each.value)
            }
    return found


def test_every_setting_of_the_command_is_described() -> None:
    named = environment_names(ROOT / "src" / "saldo" / "operate")
    named |= {f"{function.prefix}_URL" for function in FUNCTIONS}
    assert named >= {"SALDO_TOKEN", "ROLE_PASSWORD_QUERY"}
    assert (
        named
        <= reference_pages.OPERATOR_SETTINGS.keys() | reference_pages.FUNCTIONS_SETTINGS.keys()
    )
    assert (
        reference_pages.OPERATOR_SETTINGS.keys()
        <= named | reference_pages.FUNCTIONS_SETTINGS.keys()
    )


def test_documented_make_variables_match_the_makefile() -> None:
    said = subprocess.run(
        ["grep", "-rhoE", r"(RECORD|BALANCE|PROJECT|KAFKA)_PORT|DETACH|SALDO_CACHE"]
        + ["Makefile", "local"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(said.stdout.split()) == reference_pages.LOCAL_SETTINGS.keys()
