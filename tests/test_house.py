"""The house rules: importing does nothing, the help is the contract, one tool to a file."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.base import Tool

ROOT = Path(__file__).parents[1]
TOOLS = sorted(p.stem for p in (ROOT / "tools").glob("*.py") if p.stem not in ("__init__", "base"))

# Imports every module of the house and reports each file opened for writing, each socket and the like.
# urllib3, which LangChain brings along, opens one socket to see whether there is IPv6; that one is let pass.
WATCH = """
import importlib, json, os, pkgutil, sys

done = []
TOUCHES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
           "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "shutil.rmtree", "sqlite3.connect",
           "tempfile.mkstemp", "tempfile.mkdtemp", "socket.__new__", "socket.bind", "socket.connect",
           "socket.getaddrinfo", "urllib.Request"}

def watch(event, arguments):
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC)
    if not writes and event not in TOUCHES:
        return
    frame, files = sys._getframe(1), []
    while frame:
        files.append(frame.f_code.co_filename)
        frame = frame.f_back
    if not (event.startswith("socket.") and any(f.endswith("urllib3/util/connection.py") for f in files)):
        done.append(f"{event} {arguments}")

sys.addaudithook(watch)
names = []
for package in ("agent", "tools", "graphs", "app", "prompts", "seedling"):
    found = importlib.import_module(package)
    names += [package, *(m.name for m in pkgutil.walk_packages(found.__path__, package + "."))]
for name in names:
    importlib.import_module(name)
open(os.devnull, "w").close()  # shows that the watch is awake
print(json.dumps({"names": names, "done": done}))
"""


def fresh(code: str, cwd: Path) -> str:
    """What ``code`` prints in a new interpreter that finds the house and writes no bytecode."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=cwd, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def test_importing_anything_touches_neither_disk_nor_network(tmp_path: Path) -> None:
    found = json.loads(fresh(WATCH, tmp_path))
    assert {"agent.models.embedded", "graphs.update", "app.habitus", "seedling.train"} <= set(found["names"])
    *done, awake = found["done"]
    assert "/dev/null" in awake
    assert done == []
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_imports_nothing_heavy(tmp_path: Path) -> None:
    loaded = fresh("import sys, app.cli; print(*sys.modules)", tmp_path).split()
    heavy = {"torch", "transformers", "peft", "trl", "chromadb", "langgraph", "langchain_core", "sqlalchemy", "fastapi"}
    assert "app.cli" in loaded
    assert heavy.isdisjoint(loaded)


def helped(*command: str) -> str:
    return fresh(f"from app.cli import main; main({[*command, '--help']})", ROOT)


def commands(text: str) -> set[str]:
    return set(re.findall(r"^    ([a-z-]+)(?:\s|$)", text, re.MULTILINE))


CONTRACT = {"chat", "ask", "mask", "ruminate", "proposals", "approve", "veto", "edit", "learn", "sleep", "self",
            "rollback", "forget", "erase", "why", "doctor", "demo", "lid", "serve", "serve-model"}  # fmt: skip


def test_help_lists_the_contract_and_nothing_that_does_not_work() -> None:
    assert commands(helped()) == CONTRACT


@pytest.mark.parametrize(
    ("command", "subcommands"),
    [("mask", {"add", "drop", "use"}), ("proposals", {"show", "report"})],
    ids=["mask", "proposals"],
)
def test_a_command_lists_its_parts(command: str, subcommands: set[str]) -> None:
    assert commands(helped(command)) == subcommands


def test_self_lists_its_parts() -> None:
    assert commands(helped("self")) == {"log", "show", "diff", "rebuild", "export"}


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("chat", {"--say", "--thread", "--sandbox"}),
        ("ask", {"--no-mask", "--self"}),
        ("approve", {"--digest", "--note"}),
        ("veto", {"--reason"}),
        ("edit", {"--drop", "--file"}),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_command_takes_the_options_of_the_contract(command: str, options: set[str]) -> None:
    assert options | {"--home", "--json"} <= set(re.findall(r"--[a-z-]+", helped(command)))


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_file_holds_one_tool_named_as_the_file_and_explained(name: str) -> None:
    held = {
        key: value for key, value in vars(importlib.import_module(f"tools.{name}")).items() if isinstance(value, Tool)
    }
    assert set(held) == {name}
    assert held[name].name == name
    assert held[name].description


@pytest.mark.parametrize("name", TOOLS)
def test_the_model_sees_only_what_it_may_choose(name: str) -> None:
    parameters = getattr(importlib.import_module(f"tools.{name}"), name).schema()["function"]["parameters"]
    assert "desk" not in parameters["properties"]
    assert parameters["required"] == list(parameters["properties"])
    assert parameters["additionalProperties"] is False


def test_no_tool_approves() -> None:
    assert [name for name in TOOLS if re.search("approve|promote|train|veto", name)] == []
