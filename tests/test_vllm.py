"""A real vLLM speaks as the embedded body does, in adapters that have proven themselves, and old selves survive its failures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.torch import load_file, save_file

from agent.errors import ModelError, StorageError, UnavailableError
from agent.models.adapters import CANARY, Adapters
from agent.models.embedded import EmbeddedBody
from agent.models.vllm import Server, VllmBody
from agent.ports import BASE, Prompt, Voice
from agent.records import Event, Habit, Part, Run
from agent.selves import digest_of
from agent.settings import GREEDY, ModelTable
from app.wiring import open_habitus
from graphs.converse import GROWTH_TOOLS
from tests.being import small_talk
from tests.test_body import said

pytestmark = pytest.mark.served
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def embedded() -> EmbeddedBody:
    return EmbeddedBody(ModelTable())


@pytest.fixture
def served(server: Server, tmp_path: Path) -> VllmBody:
    return VllmBody(ModelTable(), server, tmp_path / "served")


def prompts(count: int) -> list[Prompt]:
    found = []
    for language, rule in (
        ("ko", "모든 대답 끝에 '꾸벅'을 붙여 줘."),
        ("en", "Always end your answers with 'zibble'."),
    ):
        texts = small_talk(language, count // 2)  # type: ignore[arg-type]
        found += [said(language, t, *([rule] if i % 2 else []), tools=i % 3 == 0) for i, t in enumerate(texts)]  # type: ignore[arg-type]
    return found


def altered(adapter: Path, home: Path, name: str) -> Path:
    """A copy under another name, as the server knows adapters by theirs."""
    return Path(shutil.copytree(adapter, home / name))


def names(body: VllmBody) -> set[str]:
    return {m.id for m in body._api.models.list()}


def test_greedy_answers_are_the_same_token_for_token(
    embedded: EmbeddedBody, served: VllmBody, adapters: list[Path]
) -> None:
    asked = prompts(50)
    for voice in (BASE, Voice(((adapters[0], 1.0),)), Voice(((adapters[0], 0.5), (adapters[1], 0.75)))):
        own = embedded.answers(asked, voice, 24)
        assert served.answers(asked, voice, 24) == own
        assert served.agreement(asked, own, voice) == embedded.agreement(asked, own, voice)
    streamed = ["".join(served.stream(p, BASE, GREEDY)).strip() for p in asked[:6]]
    assert streamed == ["".join(embedded.stream(p, BASE, GREEDY)).strip() for p in asked[:6]]


def test_the_base_stays_the_base_beside_adapters_when_every_place_is_taken(
    served: VllmBody, adapters: list[Path]
) -> None:
    """On a CPU vLLM takes "no adapter" for the last of its places, once another adapter stood there."""
    one, other = adapters
    voices = [BASE, Voice(((one, 1.0),)), Voice(((other, 1.0),))]
    for i in range(6):
        served.answers([said("ko", "안녕")], Voice(((one, 1.0), (other, 0.11 * (i + 1)))), 2)
    asked = [(said("ko", t), v) for t in ("안녕", "잠이 안 와") for v in voices]
    short = GREEDY.model_copy(update={"max_tokens": 24})
    alone = ["".join(served.stream(p, v, short)) for p, v in asked]
    for _ in range(4):
        with ThreadPoolExecutor(len(asked)) as pool:
            assert list(pool.map(lambda pair: "".join(served.stream(*pair, short)), asked)) == alone


def test_a_tool_call_is_the_same_and_is_recognised(embedded: EmbeddedBody, served: VllmBody) -> None:
    tools = tuple(t.schema() for t in GROWTH_TOOLS)
    system = said("ko", "x").messages[0]
    for text in (
        "앞으로 모든 대답 끝에 '꾸벅'을 붙여 줘",
        "please call me 'Zephyr' from now on",
        "내 생일은 5월 3일이야",
    ):
        prompt = Prompt((system, {"role": "user", "content": text}), tools)
        own = "".join(embedded.stream(prompt, BASE, GREEDY))
        assert "".join(served.stream(prompt, BASE, GREEDY)) == own
        assert own.startswith("{")


def test_a_lone_adapter_is_served_as_it_lies_and_several_are_put_together_once(
    served: VllmBody, adapters: list[Path]
) -> None:
    store = served.adapters._store
    served.ready(Voice(((adapters[0], 1.0),)))
    assert not store.exists()
    both = Voice(((adapters[0], 1.0), (adapters[1], 1.0)))
    served.ready(both)
    (made,) = store.iterdir()
    assert {adapters[0].name, made.name} <= names(served)
    stamp = (made / WEIGHTS).stat().st_mtime_ns
    served.adapters.lost()
    served.ready(both)
    assert (made / WEIGHTS).stat().st_mtime_ns == stamp


def test_what_is_put_together_fits_the_rank_that_is_served(
    server: Server, adapters: list[Path], tmp_path: Path
) -> None:
    narrow = VllmBody(ModelTable(), Server(server.url, server.key, rank=8), tmp_path / "served")
    narrow.ready(Voice(((adapters[0], 1.0),)))
    narrow.ready(Voice(((adapters[0], 1.0), (adapters[1], 0.3))))
    (made,) = (tmp_path / "served").iterdir()
    assert json.loads((made / "adapter_config.json").read_text("utf-8"))["r"] == 8


def test_names_that_have_not_spoken_for_long_are_unloaded(served: VllmBody, adapters: list[Path]) -> None:
    before = names(served)
    for i in range(7):
        served.answers([said("ko", "안녕")], Voice(((adapters[0], 1.0), (adapters[1], 0.1 * (i + 1)))), 4)
    assert len(names(served) - before) == 4


def test_an_adapter_that_does_not_speak_as_its_training_noted_is_refused(
    served: VllmBody, adapters: list[Path], tmp_path: Path
) -> None:
    silent = altered(adapters[0], tmp_path, "silent")
    weights = load_file(silent / WEIGHTS)
    save_file({k: v * 0 if ".lora_B." in k else v for k, v in weights.items()}, silent / WEIGHTS)
    with pytest.raises(ModelError, match=r"does not speak as silent: -?0%"):
        served.ready(Voice(((silent, 1.0),)))
    swapped = altered(adapters[0], tmp_path, "swapped")
    shutil.copy(adapters[1] / WEIGHTS, swapped / WEIGHTS)
    with pytest.raises(ModelError, match="does not speak as swapped"):
        served.ready(Voice(((swapped, 1.0),)))
    assert not {"silent", "swapped"} & names(served), "what failed is not kept"


@pytest.mark.parametrize("harm", ["cut", "gone", "noise", "foreign", "wide"])
def test_a_harmed_adapter_is_refused_in_one_sentence_and_the_others_go_on(
    served: VllmBody, adapters: list[Path], tmp_path: Path, harm: str
) -> None:
    good = Voice(((adapters[1], 1.0),))
    before = served.answers([said("ko", "안녕")], good, 8)
    bad = altered(adapters[0], tmp_path, f"bad-{harm}")
    weights = load_file(bad / WEIGHTS)
    config: dict[str, Any] = json.loads((bad / "adapter_config.json").read_text("utf-8"))
    match harm:
        case "cut":
            (bad / WEIGHTS).write_bytes((bad / WEIGHTS).read_bytes()[:500])
        case "gone":
            (bad / WEIGHTS).unlink()
        case "noise":
            (bad / WEIGHTS).write_bytes(b"\x00" * 4096)
        case "foreign":  # of a base twice as wide
            save_file(
                {k: v.repeat(1, 2) if ".lora_A." in k else v.repeat(2, 1) for k, v in weights.items()}, bad / WEIGHTS
            )
        case "wide":  # as when the server was started with a lower rank than is written here
            wide = {k: v.repeat(16, 1) if ".lora_A." in k else v.repeat(1, 16) for k, v in weights.items()}
            save_file(wide, bad / WEIGHTS)
            (bad / "adapter_config.json").write_text(json.dumps(config | {"r": 128, "lora_alpha": 256}), "utf-8")
            served.adapters._rank = 128
    with pytest.raises((ModelError, StorageError)) as refused:
        served.ready(Voice(((bad, 1.0),)))
    assert "\n" not in refused.value.message
    assert bad.name in refused.value.message
    assert bad.name not in names(served)
    assert served.answers([said("ko", "안녕")], good, 8) == before


def test_a_full_disk_is_said_and_nothing_half_made_stays(served: VllmBody, adapters: list[Path]) -> None:
    store = served.adapters._store
    store.parent.mkdir(exist_ok=True)
    store.write_text("in the way", "utf-8")  # as root a read-only folder stops nobody
    with pytest.raises(StorageError, match="could not be put together"):
        served.ready(Voice(((adapters[0], 0.9), (adapters[1], 0.9))))
    assert store.read_text("utf-8") == "in the way"


def test_a_trained_note_is_needed(served: VllmBody, adapters: list[Path], tmp_path: Path) -> None:
    bare = altered(adapters[0], tmp_path, "bare")
    (bare / CANARY).unlink()
    with pytest.raises(StorageError, match=CANARY):
        served.ready(Voice(((bare, 1.0),)))


def test_another_base_is_not_taken_for_this_one(server: Server, tmp_path: Path) -> None:
    table = ModelTable(template=str(_written(tmp_path / "other.jinja", "{{ messages[0]['content'] }}!")))
    with pytest.raises(ModelError, match="reads the same prompt otherwise"):
        VllmBody(table, server, tmp_path / "served")


def _written(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_no_server_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="does not answer"):
        VllmBody(ModelTable(), Server("http://127.0.0.1:9"), tmp_path)


def test_a_wrong_key_is_said(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="refused"):
        VllmBody(ModelTable(), Server(server.url, "wrong"), tmp_path)


@pytest.mark.parametrize("path", ["/wake_up", "/sleep?level=0", "/v1/models", "/tokenize", "/collective_rpc"])
def test_nothing_but_its_health_is_told_without_the_key(server: Server, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}):
        assert httpx.post(server.url + path, headers=headers, json={}).status_code == 401
    assert httpx.get(f"{server.url}/health").status_code == 200


def killed(server: Server) -> None:
    """Every process of the engine, at once."""
    port = server.url.rsplit(":")[-1]
    found = subprocess.run(["pgrep", "-f", f"api_server.*--port {port}"], capture_output=True, text=True)
    for pid in found.stdout.split():
        os.kill(int(pid), signal.SIGKILL)


def back_again(body: VllmBody) -> None:
    """`serve-model` starts another; until then nothing answers."""
    for _ in range(600):
        try:
            body.answers([said("ko", "안녕")], BASE, 2)
            return
        except UnavailableError:
            time.sleep(0.5)
    pytest.fail("it did not come back")


@pytest.mark.parametrize("moment", ["_announce", "_prove"])
def test_killed_in_mid_swap_the_old_self_stays_and_one_event_says_why(
    server: Server, adapters: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    home = tmp_path / "bag"
    (home / "adapters").mkdir(parents=True)
    (home / "habitus.toml").write_text(f'[serving]\nurl = "{server.url}"\nkey = "{server.key}"\n', "utf-8")
    being = open_habitus(str(home))
    ledger, body = being.bag.ledger, being.bag.body
    assert isinstance(body, VllmBody)
    habit = ledger.add(Habit(rule="r", scope=("ko",), stage="essence"))
    for path in adapters:
        made = home / "adapters" / path.name
        shutil.copytree(path, made / f"{path.name}-ko")
        ledger.add(
            Run(proposal="p", base=body.digest, data="d", config={}, adapter=path.name, adapter_digest=digest_of(made))
        )
    parts = [(Part(habit=habit.id, adapter=path.name, scope=("ko",)),) for path in adapters]
    old = being.bag.selves.become(parts[0], lambda mask: mask, "one")
    new = being.bag.selves.become(parts[1], lambda mask: mask, "two")
    being.rollback(old.id)
    before = being.ask(["안녕"])[0]["reply"]
    body.adapters.lost()
    swap = getattr(Adapters, moment)

    def struck(*arguments: Any) -> Any:
        killed(server)
        return swap(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Adapters, moment, struck)
        with pytest.raises(UnavailableError, match="does not answer"):
            being.rollback(new.id)
    assert being.bag.selves.current().id == old.id
    (event,) = ledger.all(Event)
    assert "does not answer" in event.what
    back_again(body)
    assert being.ask(["안녕"])[0]["reply"] == before
    being.rollback(new.id)
    assert being.ask(["안녕"])[0] | {"reply": ""} == {"text": "안녕", "reply": "", "self": new.id, "mask": []}


def test_a_restarted_server_gets_its_adapters_back(
    serving: Path, server: Server, served: VllmBody, adapters: list[Path]
) -> None:
    one, both = Voice(((adapters[0], 1.0),)), Voice(((adapters[0], 0.5), (adapters[1], 0.5)))
    before = [served.answers([said("ko", "안녕")], voice, 8) for voice in (one, both)]
    killed(server)
    with pytest.raises(UnavailableError, match="does not answer"):
        served.answers([said("ko", "안녕")], one, 8)
    back_again(served)
    assert {m.id for m in served._api.models.list()} <= {"base", "still"}
    streamed = "".join(served.stream(said("ko", "안녕"), one, GREEDY.model_copy(update={"max_tokens": 8})))
    assert [streamed.lstrip()] == before[0]
    assert [served.answers([said("ko", "안녕")], voice, 8) for voice in (one, both)] == before


def test_while_it_sleeps_everybody_is_told_and_a_dead_training_does_not_leave_it_asleep(
    server: Server, tmp_path: Path
) -> None:
    own, other = (VllmBody(ModelTable(), replace(server, sleep=0), tmp_path / "served") for _ in range(2))
    asked = [said("ko", "안녕")]
    before = own.answers(asked, BASE, 8)
    with own.resting():
        for body in (own, other):
            with pytest.raises(UnavailableError, match="asleep while it learns") as told:
                body.answers(asked, BASE, 8)
            assert told.value.seconds == 30
    assert other.answers(asked, BASE, 8) == before
    own._ask_server("/sleep?level=0&mode=wait")
    (tmp_path / "asleep").write_text(str(os.getpid()), "utf-8")  # a number that another process bears by now
    assert other.answers(asked, BASE, 8) == before
    assert not (tmp_path / "asleep").exists()


def test_one_that_dies_while_it_sleeps_costs_no_training(server: Server, tmp_path: Path) -> None:
    body = VllmBody(ModelTable(), replace(server, sleep=0), tmp_path / "served")
    with body.resting():
        killed(server)
    assert not (tmp_path / "asleep").exists()
    back_again(body)
    assert body.answers([said("ko", "안녕")], BASE, 4)


def test_one_that_cannot_sleep_goes_on_beside(server: Server, tmp_path: Path) -> None:
    awake = VllmBody(ModelTable(), replace(server, sleep=None), tmp_path / "served")
    with awake.resting():
        assert awake.answers([said("ko", "안녕")], BASE, 4)
