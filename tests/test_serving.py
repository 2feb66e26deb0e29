"""Finding the model server that runs for a bag."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agent import notice
from agent.errors import ConflictError, LostAdapterError, ModelError
from agent.models.base import SEEDLING
from agent.models.vllm import Server, VllmBody
from agent.settings import ModelTable, Settings
from app import serving
from app.serving import found
from tests.being import ROOT

TOLD = {"url": "http://127.0.0.1:9", "key": "k", "rank": 64, "sleep": 1, "still": False, "pid": 1, "model": str(SEEDLING)}  # fmt: skip


def test_a_model_server_of_another_model_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    """A fine-tune shares tokenizer and template with its base: by asking they could not be told apart."""
    with notice.posted(tmp_path / "serving.json", json.dumps(TOLD | {"model": "/models/llama"})):
        with pytest.raises(ModelError, match="does not serve 'seedling': it serves /models/llama"):
            found(tmp_path, Settings())
        with pytest.raises(ConflictError, match="runs for this bag"):
            serving.serve(tmp_path, Settings(), 0, lambda *_: None)


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
def test_a_server_that_does_not_know_what_is_asked_is_no_vllm_however_its_address_ends(
    tmp_path: Path, ending: str
) -> None:
    asked: list[str] = []

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(ModelError, match=f"{url} does not serve 'seedling'") as refused:
            VllmBody(ModelTable(), Server(url + ending), tmp_path / "served")
        server.shutdown()
    assert not isinstance(refused.value, LostAdapterError)
    assert asked == ["/v1/models"]


def test_a_model_server_is_there_while_its_watcher_lives_and_not_while_its_number_does(tmp_path: Path) -> None:
    told = json.dumps(TOLD)
    file = tmp_path / "serving.json"
    file.write_text(told.replace('"pid": 1', f'"pid": {os.getpid()}'), "utf-8")  # left over, its number another's
    assert found(tmp_path, Settings()) is None
    line = [sys.executable, "-c", "import sys; from pathlib import Path; from agent import notice\n"
            "with notice.posted(Path(sys.argv[1]), sys.argv[2]): print(flush=True); input()", str(file), told]  # fmt: skip
    watcher = subprocess.Popen(line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert watcher.stdout is not None
    watcher.stdout.readline()
    try:
        for _ in range(2):  # looking does not loosen it
            there = found(tmp_path, Settings())
            assert there is not None
            assert (there.url, there.rank) == ("http://127.0.0.1:9", 64)
        assert file.stat().st_mode & 0o777 == 0o600, "its key is its owner's"
        with pytest.raises(ConflictError, match=r"runs for this bag at http://127\.0\.0\.1:9"):
            serving.serve(tmp_path, Settings(), 0, lambda *_: None)
    finally:
        watcher.kill()
        watcher.wait()
    assert file.exists()
    assert found(tmp_path, Settings()) is None
    with notice.posted(file, told):
        assert found(tmp_path, Settings())
    assert not file.exists()


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_whether_a_server_answers_is_asked_of_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "PATIENCE", 0)
    monkeypatch.delenv("no_proxy", raising=False)
    alive = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as server, alive:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        up, down = f"http://127.0.0.1:{server.server_port}", "http://127.0.0.1:9"
        found = []
        for proxy in (down, up):  # one that is gone, and one that says yes to everything
            monkeypatch.setenv("http_proxy", proxy)
            found += [[serving._answers(url, alive, 0.0) for url in (up, down)]]
        server.shutdown()
        alive.kill()
    assert found == [[True, False]] * 2


@pytest.mark.parametrize("ignored", [False, True], ids=["a closed terminal", "under nohup"])
def test_a_closed_terminal_ends_the_server_and_what_it_watches(tmp_path: Path, ignored: bool) -> None:
    python, born = tmp_path / "python", tmp_path / "born"
    python.write_text(f"#!/bin/sh\necho $$ > {born}.new && mv {born}.new {born}\nexec sleep 60\n")
    python.chmod(0o755)
    (tmp_path / "habitus.toml").write_text(f'[serving]\npython = "{python}"\n')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    line = [sys.executable, "-m", "app.cli", "--home", str(tmp_path), "serve-model", "--port", port]

    def born_so() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)

    watcher = subprocess.Popen(line, cwd=ROOT, preexec_fn=born_so, stdout=subprocess.DEVNULL)
    for _ in range(600):
        if born.exists():
            break
        time.sleep(0.1)
    watched = int(born.read_text())
    watcher.send_signal(signal.SIGHUP)
    if ignored:
        with pytest.raises(subprocess.TimeoutExpired):
            watcher.wait(1)
        watcher.send_signal(signal.SIGTERM)
    assert watcher.wait(30) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(watched, 0)


def test_a_server_gets_the_gpu_that_the_settings_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    on = [Settings.model_validate({"model": {"device": d}, "serving": {"python": "p"}}) for d in ("cuda:1", "cpu")]
    assert [serving.command(s, 1)[1].get("CUDA_VISIBLE_DEVICES") for s in on] == ["7", None]
