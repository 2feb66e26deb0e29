"""The documents fail when they go stale."""

from __future__ import annotations

import re
import shlex

import pytest

from agent.settings import Settings
from app.cli import parser
from tests.being import ROOT

COMMANDS = [
    (page, line.split("#")[0].strip())
    for page in ("README.md", "README.ko.md")
    for line in (ROOT / page).read_text("utf-8").splitlines()
    if line.startswith(".venv/bin/habitus ")
]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{p}:{c[18:40]}" for p, c in COMMANDS])
def test_every_command_in_the_readme_is_one(page: str, line: str) -> None:
    parser().parse_args(shlex.split(line)[1:])


def test_both_readmes_show_the_same_commands() -> None:
    shown = {page: [shlex.split(c)[:2] for p, c in COMMANDS if p == page] for page in ("README.md", "README.ko.md")}
    assert shown["README.md"] == shown["README.ko.md"]


def test_the_makefile_has_what_the_readme_promises() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    promised = set(re.findall(r"^make (\w+)", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE))
    assert promised
    assert promised <= targets


def test_the_readme_names_every_table_of_settings() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert [name for name in Settings.model_fields if f"[{name}]" not in text] == []


def test_no_figure_is_left_open() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "seedling" / "README.md"]
    assert [p.name for p in pages if "TODO" in p.read_text("utf-8")] == []


@pytest.mark.parametrize("page", ["README.md", "README.ko.md"])
def test_what_a_scheduler_runs_names_its_bag(page: str) -> None:
    """Neither cron nor systemd has the environment of a shell."""
    lines = [x for x in (ROOT / page).read_text("utf-8").splitlines() if re.search("^(30 4|ExecStart=)", x)]
    assert len(lines) == 2
    assert all(re.search(r"habitus --home \S+ sleep", x) for x in lines)
