"""serve-model: a vLLM for a bag's base, started with what Habitus needs of it, watched, started again when it dies.

It tells the bag where it listens (``serving.json``, readable by its owner alone), so every other command of the
same bag speaks through it. What it prints goes to ``serving.log``; vLLM logs no prompts.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agent import notice
from agent.errors import ConflictError, ModelError, UsageError
from agent.models.base import gpu, locate
from agent.phrase import Phrase

if TYPE_CHECKING:
    from agent.models.vllm import Server
    from agent.settings import Settings

ROOT = Path(__file__).parents[1]
FILE, KEY, LOG = "serving.json", "serving.key", "serving.log"
PORT = 8001
PIECE = 4  # tokens in a streamed piece: each piece costs LangChain more than the network (docs/benchmarks.md)
PATIENCE = 900  # seconds until it must answer: a large base is read from disk first
TRIES = 3  # times in a row that it may die before it ever answered
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # what a Llama is trained in
Tell = Callable[[str, dict[str, Any]], None]


def found(home: Path, settings: Settings) -> Server | None:
    """The server that speaks for this bag: the one the settings name, else the one ``serve-model`` runs.

    Raises:
        ModelError: that one runs for another model. One of the same template could not be told apart by asking it.
    """
    from agent.models.vllm import Server, foreign

    table = settings.serving
    if table.url:
        key = os.environ.get("HABITUS_SERVING_KEY") or table.key
        here = urlsplit(table.url).hostname in ("127.0.0.1", "localhost", "::1")
        return Server(table.url, key, table.rank, 1 if table.training == "sleep" else None, here and _on_cpu(settings))
    if (said := notice.read(home / FILE)) is None:
        return None
    told = json.loads(said)
    if told["model"] != _model(settings):
        raise foreign(told["url"], settings.model.name, Phrase("it serves {model}", model=told["model"]))
    return Server(told["url"], told["key"], told["rank"], told["sleep"], told["still"])


def _model(settings: Settings) -> str:
    """The model's folder, from wherever it is looked at; else its hub id."""
    where = locate(settings.model.name)
    return str(Path(where).resolve()) if Path(where).is_dir() else where


def command(settings: Settings, port: int) -> tuple[list[str], dict[str, str]]:
    """vLLM's command line and what it needs in its environment, its key apart.

    Raises:
        UsageError: no interpreter has vLLM.
    """
    table, model = settings.serving, settings.model
    own = ROOT / ".venv-vllm" / "bin" / "python"
    python = table.python or (str(own) if own.exists() else sys.executable)
    if python == sys.executable and importlib.util.find_spec("vllm") is None:
        raise UsageError(
            "vLLM is not installed here.",
            "`make serving` installs it into .venv-vllm; or set [serving] python, or [serving] url to one that runs.",
        )
    on_cpu, sleep = _on_cpu(settings), _depth(settings)  # on a CPU the base takes a place, too
    line = [
        python, "-m", "vllm.entrypoints.openai.api_server",
        "--model", locate(model.name), "--served-model-name", "base",
        "--host", "127.0.0.1", "--port", str(port),
        "--enable-lora", "--max-lora-rank", str(table.rank), "--max-loras", str(table.adapters + on_cpu),
        "--max-cpu-loras", str(2 * table.adapters + on_cpu),
        "--lora-target-modules", *LINEAR,  # not the head: weighing a prompt under an adapter would kill the engine
        "--structured-outputs-config", '{"backend": "guidance"}', "--generation-config", "vllm",
        "--max-logprobs", "100",
        "--stream-interval", str(PIECE),
        "--gpu-memory-utilization", str(table.memory),
    ]  # fmt: skip
    line += ["--dtype", model.dtype if model.dtype != "auto" else "float32" if on_cpu else "auto"]
    if model.context:
        line += ["--max-model-len", str(model.context)]
    if model.template:
        line += ["--chat-template", model.template]
    needs = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CPU_KVCACHE_SPACE": str(table.cache),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if Path(locate(model.name)).is_dir():
        needs["HF_HUB_OFFLINE"] = "1"
    if model.device.startswith("cuda:"):
        needs["CUDA_VISIBLE_DEVICES"] = gpu(model.device)
    if sleep:
        line += ["--enable-sleep-mode"]
    if sleep is not None:
        needs["VLLM_SERVER_DEV_MODE"] = "1"
    return [*line, *table.options], needs


def _on_cpu(settings: Settings) -> bool:
    device = settings.model.device
    if device != "auto":
        return device == "cpu"
    return not Path("/proc/driver/nvidia").exists() and shutil.which("nvidia-smi") is None  # WSL has the second alone


def _depth(settings: Settings) -> int | None:
    """How deep it can sleep: on a CPU there is nothing to leave, so it only pauses, and only where that is asked for."""
    wanted = settings.serving.training
    if wanted == "beside" or (wanted == "auto" and _on_cpu(settings)):
        return None
    return 0 if _on_cpu(settings) else 1


def unused(host: str, port: int) -> None:
    """Nobody listens there.

    Raises:
        UsageError: no such address is known.
        ConflictError: somebody does.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        try:
            taken = probe.connect_ex((host, port)) == 0
        except socket.gaierror as error:
            raise UsageError("The address {host!r} is not known.", "Choose another with --host.", host=host) from error
    if taken:
        raise ConflictError("Port {port} is taken.", "Choose another with --port.", port=port)


def serve(home: Path, settings: Settings, port: int, tell: Tell) -> None:
    """Run until stopped. ``tell`` hears ``starting``, ``ready``, ``died`` and ``stopped``.

    Raises:
        ConflictError: one runs for this bag already, or the port is taken.
        ModelError: it does not come up, or keeps dying.
    """
    if settings.serving.url:
        raise UsageError(
            "[serving] url names a server that runs already: {url}.",
            "Leave it empty to have one started.",
            url=settings.serving.url,
        )
    if said := notice.read(home / FILE):
        raise ConflictError("A model server runs for this bag at {url}.", "Stop it first.", url=json.loads(said)["url"])
    unused("127.0.0.1", port)
    line, needs = command(settings, port)
    home.mkdir(parents=True, exist_ok=True)
    key = _key(home)
    needs["PYTHONPATH"] = str(_guarded(home))
    line += ["--middleware", "guard.Guard"]
    url = f"http://127.0.0.1:{port}"
    told = {
        "url": url,
        "key": key,
        "model": _model(settings),
        "pid": os.getpid(),
        "rank": settings.serving.rank,
        "sleep": _depth(settings),
        "still": _on_cpu(settings),
    }
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # a closed terminal; under nohup it is not heard
        signal.signal(signal.SIGHUP, _interrupt)
    try:
        with notice.posted(home / FILE, json.dumps(told)):
            _watch(line, {**os.environ, **needs, "VLLM_API_KEY": key}, url, home / LOG, tell)
    except KeyboardInterrupt:
        tell("stopped", {})


def _watch(line: list[str], environment: dict[str, str], url: str, file: Path, tell: Tell) -> None:
    """Start it, again and again; ends only by raising."""
    deaths = 0
    while True:
        started, answered = time.monotonic(), False
        with file.open("ab") as log:
            process = subprocess.Popen(
                line, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        try:
            tell("starting", {"url": url, "command": line})
            if answered := _answers(url, process, started):
                tell("ready", {"url": url, "seconds": round(time.monotonic() - started, 1)})
                process.wait()
        finally:
            _end(process)
        deaths = 0 if answered else deaths + 1
        tell("died", {"code": process.returncode, "log": str(file)})
        if deaths >= TRIES:
            raise ModelError(
                "The model server does not stay up (code {code}).",
                "Its last words are in {log}.",
                code=process.returncode,
                log=file,
            )
        time.sleep(1)


def _key(home: Path) -> str:
    """The same at each start: who talks through it goes on when it was started again."""
    file = home / KEY
    if not file.exists():
        file.touch(0o600)
        file.write_text(secrets.token_urlsafe(24), "utf-8")
    return file.read_text("utf-8")


def _guarded(home: Path) -> Path:
    """A folder in which the server's interpreter finds ``guard`` and nothing else."""
    folder = home / "serving"
    folder.mkdir(exist_ok=True)
    shutil.copy(Path(__file__).with_name("guard.py"), folder)
    return folder


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _answers(url: str, process: subprocess.Popen[bytes], started: float) -> bool:
    """Wait until it does; False when it died before."""
    here = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy between two processes of one machine
    while process.poll() is None:
        try:
            with here.open(f"{url}/health", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            if time.monotonic() - started > PATIENCE:
                return False
            time.sleep(0.5)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """It and the processes it started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(10)
        except (ProcessLookupError, PermissionError):
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()
