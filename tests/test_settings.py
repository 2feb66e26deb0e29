"""habitus.toml: defaults, errors that name the line, profiles, warnings."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from agent.errors import ModelError, SettingsError
from agent.models.base import Base
from agent.records import Turn
from agent.settings import (
    FILE,
    PROFILES,
    RANGES,
    ModelTable,
    Settings,
    default_toml,
    load,
    profile,
    sampling,
    warnings,
)
from app.doctor import examine
from app.wiring import open_habitus


def loaded(bag: Path, toml: str) -> Settings:
    bag.mkdir(exist_ok=True)
    (bag / FILE).write_text(toml, "utf-8")
    return load(bag)


def refusal(bag: Path, toml: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        loaded(bag, toml)
    return caught.value


def llama(toml: str = "") -> Settings:
    return Settings.model_validate({"model": {"name": "meta-llama/Llama-3.1-8B-Instruct"}, **tomllib.loads(toml)})


# -- reading -----------------------------------------------------------------------------------


def test_a_bag_without_a_file_has_the_defaults(bag_path: Path) -> None:
    assert load(bag_path) == Settings()
    assert load(bag_path).model.name == "seedling"


def test_what_is_set_wins_and_the_rest_stays_default(bag_path: Path) -> None:
    settings = loaded(bag_path, '[sampling]\nlogit_bias = { "사유" = 5.0 }\n')
    assert settings.sampling.logit_bias == {"사유": 5.0}
    assert settings == Settings.model_validate({"sampling": {"logit_bias": {"사유": 5.0}}})


def test_broken_toml_names_the_line(bag_path: Path) -> None:
    error = refusal(bag_path, "[sampling]\ntemperature = 0.5\ntop_p = = 1\n")
    assert "not valid TOML" in error.message
    assert "line 3" in error.message


def test_a_file_that_is_not_utf8_is_a_settings_error(bag_path: Path) -> None:
    bag_path.mkdir()
    (bag_path / FILE).write_bytes("# 설정".encode("euc-kr"))
    with pytest.raises(SettingsError, match="cannot be read"):
        load(bag_path)


@pytest.mark.parametrize(
    ("toml", "said", "allowed"),
    [
        ("[sampling]\n\ntemperature = 3\n", "line 3: sampling.temperature: ", "from 0 to 2."),
        ("# temperature = 1\n[sampling]\ntemperature = -1 # cold\n", "line 3: sampling.temperature: ", "from 0 to 2."),
        ("sampling.top_k = -1\n", "line 1: sampling.top_k: ", "from 0 upwards."),
        ("[lora]\nrank = 0\n", "line 2: lora.rank: ", "from 1 to 512."),
        ("[model]\nthreads = 1\n[training]\nwarmup = 0.9\n", "line 4: training.warmup: ", "from 0 to 0.5."),
        ("[training]\nmethod = 'magic'\n", "line 2: training.method: ", "one of auto, distill, sft, dpo, kto."),
        ("[training]\npatience = inf\n", "line 2: training.patience: input should be a finite number", ""),
        ("[sampling]\nlogit_bias = { a = 'x' }\n", "line 2: sampling.logit_bias.a: ", ""),
        (
            "[sampling]\nlogit_bias = { a = nan }\n",
            "line 2: sampling.logit_bias.a: input should be a finite number",
            "",
        ),
        ("[sampling]\nlogit_bias = { a = -inf }\n", "line 2: sampling.logit_bias.a: input should be a finite", ""),
    ],
)
def test_an_impossible_value_names_line_key_and_what_is_allowed(
    bag_path: Path, toml: str, said: str, allowed: str
) -> None:
    error = refusal(bag_path, toml)
    assert said in error.message
    assert allowed in error.hint


def test_the_value_that_was_found_is_repeated(bag_path: Path) -> None:
    assert "(found 3)" in refusal(bag_path, "[sampling]\ntemperature = 3\n").message


def test_a_misspelt_key_lists_the_right_ones(bag_path: Path) -> None:
    error = refusal(bag_path, "[gate]\nleast = 4\nhabbit = 0.5\n")
    assert "line 3: gate.habbit: there is no such setting" in error.message
    assert "habit, earlier, unrelated" in error.hint


def test_a_misspelt_table_lists_the_right_ones(bag_path: Path) -> None:
    error = refusal(bag_path, "[modle]\nname = 'x'\n")
    assert "modle: there is no such setting" in error.message
    assert "model, serving, sampling, prompt" in error.hint


@pytest.mark.parametrize(
    "toml",
    [
        "\n[modle]\nname = 'x'\n",
        "[sampling.logit_bias]\n'사유' = 'x'\n",
        "[prompt]\nfew_shot = [['only one']]\n",
    ],
)
def test_every_refusal_names_a_line(bag_path: Path, toml: str) -> None:
    assert "line 2" in refusal(bag_path, toml).message


def test_the_hint_says_which_types_may_stand_there(bag_path: Path) -> None:
    assert "string" in refusal(bag_path, "[lora]\ntarget_modules = 3\n").hint


def test_the_hint_does_not_offer_the_value_it_refuses(bag_path: Path) -> None:
    assert "from 0 " not in refusal(bag_path, "[sampling]\ntop_p = 0\n").hint


@pytest.mark.parametrize("toml", ["[model]\nhistory = true\n", "[lora]\nrank = '64'\n"])
def test_a_value_of_another_type_is_refused(bag_path: Path, toml: str) -> None:
    refusal(bag_path, toml)


# -- profiles ----------------------------------------------------------------------------------


def test_the_seedling_speaks_quietly() -> None:
    used = sampling(Settings())
    assert (used.temperature, used.frequency_penalty, used.presence_penalty, used.repetition_penalty) == (0.2, 0, 0, 1)
    assert used.top_p == Settings().sampling.top_p


def test_a_llama_speaks_in_the_owners_ranges() -> None:
    used = sampling(llama())
    for key, (low, high) in RANGES.items():
        table, name = key.split(".")
        if table == "sampling":
            assert low <= getattr(used, name) <= high, key


def test_the_persons_own_sampling_wins_over_the_quiet_one() -> None:
    used = sampling(Settings.model_validate({"sampling": {"temperature": 0.7, "repetition_penalty": 1.1}}))
    assert (used.temperature, used.repetition_penalty, used.presence_penalty) == (0.7, 1.1, 0)


def test_the_training_profile_follows_the_model() -> None:
    assert profile(Settings()) == PROFILES["seedling"]
    assert profile(llama()) == PROFILES["llama"]


def test_a_profile_can_be_chosen_by_name() -> None:
    assert profile(llama('[training]\nprofile = "seedling"')) == PROFILES["seedling"]


def test_the_persons_own_numbers_win_over_the_profile() -> None:
    used = profile(llama("[training]\nepochs = 3"))
    assert (used.epochs, used.learning_rate) == (3, PROFILES["llama"].learning_rate)


# -- warnings ----------------------------------------------------------------------------------


def test_defaults_warn_of_nothing() -> None:
    assert warnings(Settings()) == []
    assert warnings(llama()) == []


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[sampling]\ntemperature = 1.5", "sampling.temperature = 1.5 is outside the recommended 0.7–0.8."),
        ("[lora]\nrank = 8\nalpha = 16", "lora.rank = 8 is outside the recommended 32–64."),
        (
            "[training]\nlearning_rate = 0.001",
            "training.learning_rate = 0.001 is outside the recommended 5e-05–0.0002.",
        ),
        ("[lora]\nalpha = 32", "lora.alpha = 32 is not twice the rank (64)."),
    ],
)
def test_an_unusual_value_warns_and_stays(toml: str, said: str) -> None:
    settings = llama(toml)
    assert warnings(settings) == [said]
    ((table, values),) = tomllib.loads(toml).items()
    assert {k: getattr(getattr(settings, table), k) for k in values} == values


def test_training_numbers_of_the_seedling_are_not_held_against_a_llamas_ranges() -> None:
    assert warnings(Settings.model_validate({"training": {"learning_rate": 0.002, "epochs": 12}})) == []


# -- the commented file ------------------------------------------------------------------------


def test_the_commented_file_as_it_is_means_the_defaults(bag_path: Path) -> None:
    assert loaded(bag_path, default_toml()) == Settings()


def test_every_line_of_the_commented_file_can_be_switched_on(bag_path: Path) -> None:
    switched_on = re.sub(r"^# (?=\w+ = )", "", default_toml(), flags=re.MULTILINE)
    assert warnings(loaded(bag_path, switched_on)) == []


def test_the_commented_file_shows_every_setting() -> None:
    _, *tables = re.split(r"^\[", default_toml(), flags=re.MULTILINE)
    shown = {table.split("]")[0]: re.findall(r"^# (\w+) =", table, re.MULTILINE) for table in tables}
    assert shown == {name: list(type(table).model_fields) for name, table in Settings()}


# -- a template of the person's own ------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{% for m in messages %}{{ m.content }}", "Unexpected end of template"),
        ("{{ messages[0].content.nothing() }}", "has no attribute 'nothing'"),
        (None, "No such file or directory"),
    ],
)
def test_a_template_that_cannot_be_used_is_named_when_the_model_is_opened(
    tmp_path: Path, text: str | None, reason: str
) -> None:
    file = tmp_path / "own.jinja"
    if text:
        file.write_text(text, "utf-8")
    with pytest.raises(ModelError) as caught:
        Base(ModelTable(template=str(file)))
    assert str(file) in caught.value.message
    assert reason in caught.value.message
    assert "[model] template" in caught.value.hint


def test_the_doctor_says_which_template_and_how_to_mend_it(bag_path: Path) -> None:
    file = bag_path / "own.jinja"
    loaded(bag_path, f'[model]\ntemplate = "{file}"\n')
    (found,) = [f for f in examine(str(bag_path), None) if f["name"] == "model"]
    assert not found["ok"]
    assert str(file) in found["detail"]
    assert "[model] template" in found["mend"]


@pytest.mark.parametrize("history", [0, 1])
def test_the_lid_shows_of_a_conversation_what_the_model_reads(bag_path: Path, history: int) -> None:
    loaded(bag_path, f"[model]\nhistory = {history}\n")
    habitus = open_habitus(str(bag_path))
    for text in ("하나", "둘"):
        habitus.bag.keep(Turn(thread="c-1", user=text, reply="네."))
    found = habitus.lid("안녕", "c-1")
    assert found["layers"]["history"] == [["둘", "네."]][:history]
    assert ("둘" in found["prompt"]) is bool(history)
