"""The base as files: found wherever it is named from, whole before it is told apart from others."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agent.errors import ModelError
from agent.models.base import SEEDLING, Base, digest_of, gpu
from agent.settings import ModelTable
from tests.being import ROOT

COMMIT = "b" * 40
OPENED = """
from agent.models.base import digest_of
from agent.models.embedded import EmbeddedBody
from agent.settings import ModelTable
body = EmbeddedBody(ModelTable(name="me/llama", device="cpu"))
print(body.digest, digest_of(body.path), len(list(body.path.glob("*.safetensors"))))
"""


def clothed(folder: Path) -> Path:
    """``folder`` with all that the seedling has beside its weights."""
    folder.mkdir()
    for file in SEEDLING.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            shutil.copy(file, folder)
    return folder


def tiny(folder: Path, shard: str) -> Path:
    """A Llama of random weights in files no larger than ``shard``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    words = json.loads((SEEDLING / "config.json").read_text("utf-8"))["vocab_size"]
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=words, num_key_value_heads=2, max_position_embeddings=1024, **size)
    LlamaForCausalLM(config).save_pretrained(clothed(folder), max_shard_size=shard)
    return folder


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """The folder of a hub's one model, ``me/llama``, and where the hub answers."""
    repository = tmp_path / "repository"

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def give(self, body: bytes, status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path, files = self.path.partition("?")[0], sorted(repository.iterdir())
            file = repository / path.rpartition("/")[2]
            if "/resolve/" in path and file.is_file():
                tag = hashlib.sha1(file.read_bytes()).hexdigest()
                self.give(file.read_bytes(), ETag=f'"{tag}"', X_Repo_Commit=COMMIT)
            elif path.startswith("/api/models/me/llama/tree/") and path.count("/") == 6:
                tree = [{"type": "file", "path": p.name, "size": p.stat().st_size, "oid": p.name} for p in files]
                self.give(json.dumps(tree).encode())
            elif path.startswith("/api/models/me/llama/revision/"):
                told = {"id": "me/llama", "sha": COMMIT, "siblings": [{"rfilename": p.name} for p in files]}
                self.give(json.dumps(told).encode())
            else:
                self.give(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield repository, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("shard", "files"), [("10KB", 12), ("1GB", 1)])
def test_a_model_of_the_hub_is_told_apart_by_its_weights_from_the_first_process_on(
    tmp_path: Path, hub: tuple[Path, str], shard: str, files: int
) -> None:
    repository, url = hub
    tiny(repository, shard)
    (repository / "README.md").write_text("what nobody needs to fetch")
    env = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
    env |= {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    seen = []
    for offline in ({}, {"HF_HUB_OFFLINE": "1"}):
        done = subprocess.run(
            [sys.executable, "-c", OPENED], cwd=ROOT, env=env | offline, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        seen.append(done.stdout.split())
    assert seen[0] == seen[1] == [digest_of(repository), digest_of(repository), str(files)]


def test_a_model_named_from_here_is_found_by_a_training_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "llama").symlink_to(SEEDLING)
    monkeypatch.chdir(tmp_path)
    body = Base(ModelTable(name="llama"))
    monkeypatch.chdir("/")
    assert digest_of(body.path) == body.digest


def test_a_model_that_sees_says_elsewhere_how_much_it_reads(tmp_path: Path) -> None:
    from transformers import LlavaConfig

    config = LlavaConfig()
    config.save_pretrained(clothed(tmp_path / "llava"))
    body = Base(ModelTable(name=str(tmp_path / "llava")))
    assert body.sees
    assert body.context == config.text_config.max_position_embeddings


def test_a_model_that_is_nowhere_is_named() -> None:
    with pytest.raises(ModelError, match="'me/nobody' cannot be loaded"):
        Base(ModelTable(name="me/nobody"))


@pytest.mark.parametrize(
    ("device", "seen", "found"),
    [
        ("auto", None, "0"), ("cuda:1", None, "1"), ("cuda:1", "2,3", "3"), ("auto", "2, 3", "2"),
        ("cuda:1", "GPU-a, GPU-b", "GPU-b"), ("auto", "", ""), ("cuda:2", "2,3", ""),
    ],
)  # fmt: skip
def test_a_training_gets_the_gpu_that_the_body_has(
    device: str, seen: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    assert gpu(device) == found
