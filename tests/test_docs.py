"""README and docs: code in them runs, commands in them parse, words in them stand for one thing."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer

from cprune_rl.cli import app

from .test_house import ROOT, sources

MADE = ROOT / "docs" / "reference" / "cli.md"
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if p != MADE)]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROGRAMS = ("cprune-rl", ".venv/bin/cprune-rl")
GLOSSARY = ROOT / "docs" / "glossary.md"


def blocks(language: str) -> list[tuple[str, str]]:
    """Page and text of each fenced block of a language, outside generated pages."""
    return [
        (str(page.relative_to(ROOT)), text)
        for page in PAGES
        for kind, text in FENCE.findall(page.read_text())
        if kind == language
    ]


def commands() -> list[tuple[str, list[str]]]:
    """Page and arguments of each `cprune-rl` command that a reader may copy."""
    lines = [
        (page, shlex.split(line.removeprefix("$ "), comments=True))
        for page, text in blocks("console")
        for line in text.splitlines()
        if line.startswith("$ ")
    ]
    return [(page, words[1:]) for page, words in lines if words and words[0] in PROGRAMS]


@pytest.mark.parametrize(
    ("page", "arguments"), commands(), ids=lambda v: v if isinstance(v, str) else " ".join(v)
)
def test_a_command_of_the_docs_parses(page: str, arguments: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    context = command.make_context("cprune-rl", list(arguments))
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize(("page", "text"), blocks("python"), ids=lambda v: v.partition("\n")[0])
def test_code_of_the_docs_runs(
    page: str, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if "cprune_rl.prune(" in text:
        pytest.skip("a whole run: tests/pipeline/test_own_network.py makes it with these words")
    if "cprune_rl.Pruner(" in text:
        pytest.skip("a whole run: tests/test_pruner.py makes some")
    if any(needs in text for needs in ("cprune_rl.load(", "InferenceSession(", "torch.load(")):
        pytest.skip("a file is needed: tests/pruning/test_finished.py and tests/models open some")
    if any(live in text for live in ("/CPrune-v0", "/SchemeMapping-v0")):
        pytest.skip("a live environment: tests/pipeline opens it")
    if "SchemeMappingRecorded" in text:
        pytest.skip("no packaged recording has schemes: tests/envs opens one")
    monkeypatch.chdir(tmp_path)
    if ">>> " in text:
        test = doctest.DocTestParser().get_doctest(text, {}, page, page, 0)
        assert doctest.DocTestRunner().run(test).failed == 0
    else:
        exec(compile(text, page, "exec"), {})  # the project's own pages


def test_pages_that_are_made_from_the_code_are_up_to_date() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        made = importlib.import_module("generated_pages").pages()
    finally:
        sys.path.remove(str(ROOT / "docs"))
    old = [str(path) for path, text in made.items() if path.read_text() != text]
    assert old == [], "run `make docs`"


def glossary() -> list[str]:
    """Words of the glossary."""
    rows = [line for line in GLOSSARY.read_text().splitlines() if line.startswith("| ")]
    return [row.split("|")[1].strip() for row in rows[1:]]


def test_the_glossary_has_at_most_sixty_words_and_each_once() -> None:
    words = glossary()
    assert 0 < len(words) <= 60
    assert [word for word, n in Counter(words).items() if n > 1] == []
    assert words == sorted(words, key=str.lower)


def test_a_public_class_has_one_name_and_the_name_one_class() -> None:
    homes: dict[str, list[str]] = {}
    for _, path in sources():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


def test_a_word_of_the_glossary_is_one_class_at_most() -> None:
    homes = Counter(
        node.name.lower()
        for _, path in sources()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    )
    names = [word.replace(" ", "").replace("-", "") for word in glossary()]
    assert [name for name in names if homes[name] > 1] == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_every_link_between_pages_leads_somewhere() -> None:
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert missing == []
