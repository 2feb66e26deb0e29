"""What the command line says when something is wrong. No command here needs the model's weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.ledger import Ledger
from agent.records import Proposal

ROOT = Path(__file__).parents[1]
Done = subprocess.CompletedProcess[str]


def habitus(home: Path, *arguments: str) -> Done:
    """One run of the real program, in a folder of its own."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("HABITUS_")} | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "app.cli", "--home", str(home), *arguments],
        cwd=home.parent, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def error(done: Done) -> dict[str, Any]:
    """The one JSON document on stderr; stdout stays empty."""
    assert done.stdout == ""
    (key,) = found = json.loads(done.stderr)
    assert key == "error"
    assert set(found["error"]) == {"type", "message", "hint"}
    return dict(found["error"])


@pytest.fixture
def waiting(bag_path: Path) -> Path:
    """A bag in which one proposal waits."""
    Ledger(bag_path / "ledger.db").add(
        Proposal(kind="learn", habit="h1", rule="끝에 냥", scope=("ko",), digest="d" * 64)
    )
    return bag_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dance"], "dance"),
        (["veto", "p1"], "--reason"),
        (["approve"], "ID"),
        (["ask"], "TEXT"),
        (["mask", "drop", "first"], "first"),
        (["chat", "--loud"], "--loud"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_a_request_that_makes_no_sense_is_exit_2_with_a_sentence_and_a_step(
    bag_path: Path, arguments: list[str], said: str
) -> None:
    done = habitus(bag_path, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    sentence, step = done.stderr.splitlines()
    assert sentence.startswith("habitus: ")
    assert said in sentence
    assert step.startswith("  → See `habitus")
    assert not bag_path.exists()


def test_with_json_a_request_that_makes_no_sense_is_a_json_error(bag_path: Path) -> None:
    done = habitus(bag_path, "--json", "dance")
    assert done.returncode == 2
    assert error(done)["type"] == "UsageError"


def test_without_a_command_the_help_is_shown(bag_path: Path) -> None:
    done = habitus(bag_path)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: habitus")


def test_broken_settings_are_exit_1_and_name_the_line(bag_path: Path) -> None:
    bag_path.mkdir()
    (bag_path / "habitus.toml").write_text("[sampling]\ntemperature = hot\n")
    done = habitus(bag_path, "proposals", "--json")
    assert done.returncode == 1
    assert error(done)["type"] == "SettingsError"
    assert "line 2" in error(done)["message"]
    assert [p.name for p in bag_path.iterdir()] == ["habitus.toml"]


def test_an_impossible_setting_is_exit_1_and_says_what_is_allowed(bag_path: Path) -> None:
    bag_path.mkdir()
    (bag_path / "habitus.toml").write_text("[sampling]\ntemperature = 9\n")
    done = habitus(bag_path, "proposals")
    assert done.returncode == 1
    assert "line 2: sampling.temperature" in done.stderr
    assert "→ Allowed: from 0 to 2." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_fresh_bag_has_proposed_nothing(bag_path: Path) -> None:
    done = habitus(bag_path, "proposals")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "It has proposed nothing yet. Talk with it, then `habitus ruminate`.\n"


def test_a_fresh_bags_proposals_as_json_are_an_empty_list(bag_path: Path) -> None:
    done = habitus(bag_path, "proposals", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


@pytest.mark.parametrize("arguments", [["proposals", "show", "p9"], ["approve", "p9", "--digest", "x"], ["veto", "p9", "--reason", "no"], ["edit", "p9", "--drop", "1"]], ids=lambda x: x[0])  # fmt: skip
def test_an_unknown_proposal_is_exit_1_and_names_those_there_are(waiting: Path, arguments: list[str]) -> None:
    done = habitus(waiting, *arguments, "--json")
    assert done.returncode == 1
    assert error(done) == {"type": "NotFoundError", "message": "There is no proposal 'p9'.", "hint": "Known: p1."}


def test_a_veto_with_an_empty_reason_is_exit_2(waiting: Path) -> None:
    done = habitus(waiting, "veto", "p1", "--reason", " ", "--json")
    assert done.returncode == 2
    assert error(done)["message"] == "A veto needs a reason."


def test_a_script_cannot_approve_without_a_digest(waiting: Path) -> None:
    done = habitus(waiting, "approve", "p1", "--json")
    assert done.returncode == 2
    assert error(done)["message"] == "A script approves with --digest."


def test_an_approval_of_something_else_is_exit_1(waiting: Path) -> None:
    done = habitus(waiting, "approve", "p1", "--digest", "e" * 64, "--json")
    assert done.returncode == 1
    assert error(done)["type"] == "ConflictError"
    assert Ledger(waiting / "ledger.db").get(Proposal, "p1").status == "waiting"


def test_a_file_where_the_bag_should_be_is_exit_1(bag_path: Path) -> None:
    bag_path.write_text("not a folder")
    done = habitus(bag_path, "proposals", "--json")
    assert done.returncode == 1
    assert str(bag_path) in error(done)["message"]
    assert error(done)["hint"]


def test_a_damaged_ledger_is_exit_1_and_says_what_to_do(bag_path: Path) -> None:
    bag_path.mkdir()
    (bag_path / "ledger.db").write_bytes(b"this is no database " * 400)
    done = habitus(bag_path, "proposals", "--json")
    assert done.returncode == 1
    assert error(done)["type"] == "StorageError"
    assert "Restore it" in error(done)["hint"]


def test_a_model_that_is_not_there_is_exit_1_and_says_what_to_do(bag_path: Path) -> None:
    done = habitus(bag_path, "--model", "/no/such/model", "self", "--json")
    assert done.returncode == 1
    assert error(done)["type"] == "ModelError"
    assert "/no/such/model" in error(done)["message"]
    assert "habitus.toml" in error(done)["hint"]
