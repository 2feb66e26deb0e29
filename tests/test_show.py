"""What a person reads at the terminal of what the functions give: times, commands to copy, what came of a proposal."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from typing import Any

import pytest

from app import show

AT = "2026-01-01T20:30:00.123456+00:00"


@pytest.fixture
def seoul(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Seoul")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("seoul")
def test_times_are_the_persons(capsys: pytest.CaptureFixture[str]) -> None:
    self_ = {"name": "self-0001", "base": "b", "cause": "born", "at": AT, "parts": [], "sampling": {}}
    mask = {"persona": {}, "mood": "", "rules": [], "silenced": [], "few_shot": []}
    turn = {"turn_id": "t1", "at": AT, "user": "x", "source": "user", "verdict": None}
    step = {"at": AT, "stage": "told", "evidence": [], "kept": 0, "reason": ""}
    decision, run = {"at": AT, "verdict": "veto", "note": ""}, {"at": AT, "id": "r1", "adapter": "a", "seconds": 1.0}
    p = {
        "id": "p1", "kind": "learn", "status": "waiting", "habit": "h1", "rule": "r", "quote": "", "rationale": "",
        "scope": [], "method": "sft", "risks": [], "conflicts": [], "preview": [], "config": {}, "digest": "d",
        "gate": {}, "from_turns": [], "tombstones": 0, "decisions": [decision], "runs": [run],
    }  # fmt: skip
    why = {"habit": "h1", "rule": "r", "parts": [], "self": "", "put_aside": False, "in_mask": False, "road": [step]}
    show.self_(self_ | {"mask": mask})
    show.self_log([self_ | {"habits": [], "rules": []}])
    show.proposal(p | {"examples": [], "evidence": [turn]})
    show.why(why | {"evidence": [turn], "proposals": [p | {"examples": 0}]})
    read = capsys.readouterr().out
    assert read.count("2026-01-02T05:30:00") == 5
    assert read.count("2026-01-02") == 7
    assert "2026-01-01" not in read


def test_what_is_not_recorded_yet_has_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    show.self_log([{"at": "", "name": "self-0001", "habits": [], "rules": [], "cause": "born"}])
    assert "self-0001" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fresh", "said"),
    [
        ("p7", "p5 no longer fits the weights of now; p7 takes its place and waits for you.\n"),
        ("", "p5 no longer fits the weights of now, and nothing takes its place.\n"),
    ],
)
def test_what_no_longer_fits_is_not_said_to_have_failed_the_gate(
    capsys: pytest.CaptureFixture[str], fresh: str, said: str
) -> None:
    row = {"proposal": "p5", "self": "self-0002", "promoted": False, "gate": {"passed": False, "probes": []}}
    show.learned([row | {"replaced_by": fresh}])
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("status", "passed", "said"),
    [
        ("promoted", True, "p5 passed the gate: self-0002 speaks now."),
        ("promoted", False, "p5 is done as you decided, whatever the gate says: self-0002 speaks now."),
        ("withdrawn", True, "p5 was withdrawn meanwhile; self-0002 goes on speaking."),
        ("rejected", False, "p5 did not pass the gate (); self-0002 goes on speaking."),
    ],
)
def test_what_training_came_to_is_said_as_it_is(
    capsys: pytest.CaptureFixture[str], status: str, passed: bool, said: str
) -> None:
    row = {"proposal": "p5", "self": "self-0002", "status": status, "promoted": status == "promoted"}
    seconds = {"train": 1.0, "gate": 1.0, "swap": 0.0}
    show.learned([row | {"gate": {"passed": passed, "probes": []}, "seconds": seconds}])
    assert capsys.readouterr().out.splitlines()[0] == said


@pytest.mark.parametrize(("rank", "served"), [(4, 8), (64, 64), (96, 128), (300, 320), (1024, 1024)])
def test_an_export_names_a_command_that_a_shell_and_vllm_take(
    capsys: pytest.CaptureFixture[str], rank: int, served: int
) -> None:
    made: dict[str, Any] = {"language": "ko", "path": "my bags/me/ko", "rank": rank, "error": 0.0}
    show.exported({"base": "my models/llama", "exported": [made]})
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[:3] == ["vllm", "serve", "my models/llama"]
    assert words[words.index("--max-lora-rank") + 1] == str(served)
    assert words[-1] == "ko=my bags/me/ko"


@pytest.mark.parametrize("docs", ["", "http://h:1/docs"])
def test_the_docs_are_named_where_a_browser_gets_them(capsys: pytest.CaptureFixture[str], docs: str) -> None:
    show.serving({"event": "listening", "url": "http://h:1", "docs": docs})
    read = capsys.readouterr().out
    assert "http://h:1/v1" in read
    assert ("/docs" in read) is bool(docs)
