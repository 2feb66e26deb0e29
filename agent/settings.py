"""Every value a person may set, from the bag's ``habitus.toml``: validated, defaulted, explained.

Wrong types and impossible values are errors that name the line; values outside the owner's
recommended ranges only warn.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, ValidationInfo, field_validator

from agent.errors import SettingsError
from agent.phrase import Phrase
from prompts import Language

FILE = "habitus.toml"


class Table(BaseModel):
    """One table of the file. Numbers are numbers: neither ``true`` nor ``"64"`` passes for one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)  # JSON knows neither

    @field_validator("*", mode="before")
    @classmethod
    def _really_a_number(cls, value: object, info: ValidationInfo) -> object:
        wanted = cls.model_fields[info.field_name].annotation if info.field_name else None
        if wanted in (int, float, int | None, float | None) and isinstance(value, bool | str):
            raise ValueError("input should be a number")
        return value


class ModelTable(Table):
    """[model] Which weights speak."""

    name: str = Field("seedling", description="seedling, a local path, or a hub id")
    device: str = Field("auto", description="auto, cpu, cuda …")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    threads: int = Field(0, ge=0, le=256, description="CPU threads; 0 leaves it to torch")
    history: int = Field(6, ge=0, le=200, description="earlier turns of the thread shown to the model")
    context: int = Field(0, ge=0, description="longest prompt in tokens; 0 asks the model")
    template: str = Field("", description="a Jinja chat template file; empty keeps the model's own (llama3)")

    @property
    def template_digest(self) -> str:
        """Of the template's text; empty where the model's own is kept. A training is approved for the one of then."""
        return hashlib.sha256(Path(self.template).read_bytes()).hexdigest() if self.template else ""


class ServingTable(Table):
    """[serving] A vLLM server that speaks in place of this process."""

    url: str = Field("", description="one that runs already, e.g. http://127.0.0.1:8001; empty: habitus serve-model's")
    key: str = Field("", description="its API key")
    python: str = Field("", description="the interpreter that has vLLM; empty: .venv-vllm, else this one")
    rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = Field(64, description="the highest rank it serves")
    adapters: int = Field(4, ge=1, le=64, description="adapters that answer at the same time")
    memory: float = Field(0.9, gt=0, le=1, description="share of a GPU that it takes")
    cache: int = Field(1, ge=1, le=1024, description="GiB for what was read, on a CPU")
    training: Literal["auto", "sleep", "beside"] = Field(
        "auto", description="while it learns: sleep and leave the GPU to it, or go on beside it; auto: sleep on a GPU"
    )
    options: tuple[str, ...] = Field((), description='more of vLLM\'s own, e.g. ["--tensor-parallel-size", "2"]')


class Sampling(Table):
    """Every value that shapes the next-token draw, settled."""

    temperature: float = Field(0.7, ge=0, le=2)
    top_p: float = Field(0.9, gt=0, le=1)
    top_k: int = Field(40, ge=0)
    min_p: float = Field(0.05, ge=0, le=1)
    frequency_penalty: float = Field(0.1, ge=-2, le=2)
    presence_penalty: float = Field(0.1, ge=-2, le=2)
    repetition_penalty: float = Field(1.1, gt=0, le=2)
    tool_temperature: float = Field(
        0.0, ge=0, le=2, description="inside a tool call, where penalties and biases are off"
    )
    stop: tuple[str, ...] = Field((), description='e.g. ["지훈:", "<|eot_id|>"]')
    max_tokens: int = Field(1024, ge=1)
    seed: int | None = Field(None, description="fixes the draw")
    logit_bias: dict[str, FiniteFloat] = Field(
        default_factory=dict, description='words: { "사유" = 5.0, "죄송합니다" = -100 }'
    )


# A tiny model copies rules from its prompt: penalties on what it has seen would break that.
QUIET: dict[str, float] = {
    "temperature": 0.2,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "repetition_penalty": 1.0,
}
GREEDY = Sampling(
    temperature=0,
    top_p=1,
    top_k=0,
    min_p=0,
    frequency_penalty=0,
    presence_penalty=0,
    repetition_penalty=1,
    max_tokens=200,
)


class PromptTable(Table):
    """[prompt] The mask a new bag starts with."""

    persona: dict[Language, str] = {}
    few_shot: tuple[tuple[str, str], ...] = ()


class LoraTable(Table):
    """[lora] The shape of an adapter."""

    rank: int = Field(32, ge=1, le=512)
    alpha: int = Field(64, ge=1, le=1024)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "all-linear"


class TrainingTable(Table):
    """[training] How an adapter is trained."""

    profile: Literal["auto", "seedling", "llama"] = "auto"
    method: Literal["auto", "distill", "sft", "dpo", "kto"] = Field("auto", description="auto: the model chooses")
    learning_rate: float | None = Field(None, gt=0, le=0.1)
    epochs: int | None = Field(None, ge=1, le=100)
    batch_size: int | None = Field(None, ge=1, le=256)
    context_length: int = Field(4096, ge=32)
    optimizer: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = "adamw_torch"
    warmup: float = Field(0.1, ge=0, le=0.5)
    weight_decay: float = Field(0.0, ge=0, le=1)
    top: int = Field(
        256,
        ge=0,
        description="distill: likeliest tokens of the teacher kept at each place, the rest as one; 0 keeps all",
    )
    focus: float = Field(3.0, ge=0, le=100, description="distill: extra weight of the tokens that the rule changes")
    margin: float = Field(
        4.0,
        ge=0,
        le=20,
        description="distill: head start, in nats, of what would be said otherwise; the habit must beat it",
    )
    beta: float = Field(
        0.1, ge=0.01, le=1, description="dpo, kto: how soon a preference counts as learned; lower pushes longer"
    )
    validation: float = Field(0.08, ge=0, le=0.5, description="share of the rows kept out, to see how it generalises")
    patience: float = Field(
        0.5, ge=0, description="stop when the loss on those rows stays this share above its best for two epochs"
    )
    seed: int = 7
    strategy: Literal["core", "fresh"] = "core"


class RuminationTable(Table):
    """[rumination] Budgets of one pass; what is decided inside them is the model's."""

    turns: int = Field(60, ge=1, description="turns judged in one pass")
    proposals: int = Field(2, ge=0, description="proposals filed in one pass")
    examples: int = Field(48, ge=4, le=2000, description="rows of a habit's own in one proposal")
    anchors: int = Field(160, ge=0, le=4000, description="rows that keep everything else, in each language spoken")
    least_value: int = Field(2, ge=0, le=5, description="verdicts below this are not shown as evidence")


class GateTable(Table):
    """[gate] What an adapter must reach before it may speak."""

    habit: float = Field(0.9, ge=0, le=1)
    earlier: float = Field(0.9, ge=0, le=1)
    unrelated: float = Field(0.95, ge=0, le=1)
    rules: float = Field(0.8, ge=0, le=1)
    tools: float = Field(0.85, ge=0, le=1)
    loop: float = Field(
        0.8, ge=0, le=1, description="the habit after a tool has answered, as a share of how often base shows it there"
    )
    fluency: float = Field(0.95, ge=0, le=1, description="answers that end, do not go in circles, keep their language")
    leak: float = Field(1.0, ge=0, le=1, description="answers without words of yours that were trained on")
    judge: float = Field(0.9, ge=0, le=1, description="known cases a model must tell apart before it may judge answers")
    refusal: float = Field(
        0.9, ge=0, le=1, description="refuses what the base refuses, and nothing more, where it can judge"
    )
    beside: float = Field(0.8, ge=0, le=1, description="side by side with base and rule no worse, where it can judge")
    agreement: float = Field(0.9, ge=0, le=1, description="token agreement that counts as the same answer")
    drop: float = Field(0.15, ge=0, le=1, description="how far a probe may fall below the self that speaks now")
    least: int = Field(8, ge=1, description="fewer probes than this decide nothing: no promotion")


class DecayTable(Table):
    """[decay] How unused habits fade."""

    half_life_days: float = Field(30.0, gt=0)
    floor: float = Field(0.2, ge=0, le=1, description="below this weight a release is proposed")


class SyncTable(Table):
    """[sync] What is written beside the ledger."""

    auto_save: bool = True


class Settings(Table):
    """The whole of ``habitus.toml``."""

    model: ModelTable = ModelTable()
    serving: ServingTable = ServingTable()
    sampling: Sampling = Sampling()
    prompt: PromptTable = PromptTable()
    lora: LoraTable = LoraTable()
    training: TrainingTable = TrainingTable()
    rumination: RuminationTable = RuminationTable()
    gate: GateTable = GateTable()
    decay: DecayTable = DecayTable()
    sync: SyncTable = SyncTable()


class TrainingProfile(Table):
    """The numbers one training uses once profile and overrides are settled."""

    name: Literal["seedling", "llama"]
    learning_rate: float
    epochs: int
    batch_size: int


PROFILES: dict[str, TrainingProfile] = {
    "seedling": TrainingProfile(name="seedling", learning_rate=1e-3, epochs=6, batch_size=8),
    "llama": TrainingProfile(name="llama", learning_rate=1e-4, epochs=2, batch_size=4),
}
# The owner's ranges (shared notes): outside them we warn and never silently change.
RANGES: dict[str, tuple[float, float]] = {
    "sampling.temperature": (0.7, 0.8), "sampling.top_p": (0.9, 0.9), "sampling.top_k": (40, 50),
    "sampling.min_p": (0.05, 0.05), "sampling.frequency_penalty": (0.1, 0.3), "sampling.presence_penalty": (0.1, 0.2),
    "sampling.repetition_penalty": (1.1, 1.15), "lora.rank": (32, 64),
    "training.learning_rate": (5e-5, 2e-4), "training.epochs": (1, 3), "training.batch_size": (4, 8),
    "training.context_length": (4096, 8192), "training.warmup": (0.1, 0.1),
}  # fmt: skip


def load(bag: Path) -> Settings:
    """The settings of ``bag``; all defaults when it has no ``habitus.toml``.

    Raises:
        SettingsError: broken TOML, an unknown key, or a value out of its allowed range, with its line.
    """
    path = bag / FILE
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            "{path} cannot be read: {error}", "Check its permissions and that it is UTF-8.", path=path, error=error
        ) from error
    try:
        return Settings.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(
            "{path} is not valid TOML: {error}.",
            "Mend that line, or remove the file to use the defaults.",
            path=path,
            error=error,
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = [str(p) for p in first["loc"] if not str(p).startswith("function-")]
        reason: str = first["msg"][0].lower() + first["msg"][1:]
        if first["type"] == "extra_forbidden":
            reason = Phrase("there is no such setting")
        elif first["type"] != "missing":
            reason = Phrase("{reason} (found {value!r})", reason=reason, value=first["input"])
        where = [w for w in where if w not in ("str", "int", "float") and not w.startswith(("tuple", "list"))]
        line, allowed = line_of(text, where), _allowed(where)
        raise SettingsError(
            "{place}: {key}: {reason}.",
            "Allowed: {allowed}." if allowed else "See `habitus doctor` for all settings.",
            place=Phrase("{path}, line {line}", path=path, line=line) if line else path,
            key=".".join(where),
            reason=reason,
            allowed=allowed,
        ) from error


def line_of(text: str, where: list[str]) -> int:
    """The line on which the value at key path ``where`` stands, 0 when it cannot be told."""
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"\s*\[+([^\]]+)\]", line):
            table = match[1].strip().strip("\"'")
            if table == ".".join(where):
                return number
        elif match := re.match(r"\s*[\"']?([^\"'=\s]+)[\"']?\s*=", line):
            key = f"{table}.{match[1]}" if table else match[1]
            if key == ".".join(where[: key.count(".") + 1]):
                return number
    return 0


def _allowed(where: list[str]) -> str:
    """A phrase for what may stand at key path ``where``."""
    fields = Settings.model_fields
    if where and where[0] in fields and len(where) > 1:
        table = fields[where[0]].annotation
        if not (isinstance(table, type) and issubclass(table, Table)):
            return ""
        if where[1] not in table.model_fields:
            return _one_of(table.model_fields)
        schema = table.model_json_schema()["properties"][where[1]]
        if "enum" in schema:
            return _one_of(schema["enum"])
        options = schema.get("anyOf", [schema])
        low = next((o[k] for o in options for k in ("minimum", "exclusiveMinimum") if k in o), None)
        high = next((o[k] for o in options for k in ("maximum", "exclusiveMaximum") if k in o), None)
        open_ = any("exclusiveMinimum" in o for o in options)
        if low is not None and high is not None:
            return Phrase("above {low} to {high}" if open_ else "from {low} to {high}", low=low, high=high)
        if low is not None:
            return Phrase("above {low} upwards" if open_ else "from {low} upwards", low=low)
        return " or ".join(str(o["type"]) for o in options if "type" in o and o["type"] != "null")
    return _one_of(fields)


def _one_of(names: Iterable[object]) -> Phrase:
    return Phrase("one of {names}", names=", ".join(map(str, names)))


def profile(settings: Settings) -> TrainingProfile:
    """The training numbers in force: the profile's, with the person's own where given."""
    table = settings.training
    name = table.profile
    if name == "auto":
        name = "seedling" if settings.model.name == "seedling" else "llama"
    own = {k: getattr(table, k) for k in ("learning_rate", "epochs", "batch_size") if getattr(table, k) is not None}
    return PROFILES[name].model_copy(update=own)


def sampling(settings: Settings) -> Sampling:
    """The sampling in force: the owner's defaults, quieter ones for the seedling, the person's own over both."""
    own = settings.sampling
    if profile(settings).name == "llama":
        return own
    return own.model_copy(update={k: v for k, v in QUIET.items() if k not in own.model_fields_set})


def warnings(settings: Settings) -> list[Phrase]:
    """One sentence for each value outside the owner's recommended range (training ranges are for a Llama)."""
    found: list[Phrase] = []
    small = profile(settings).name == "seedling"
    used = sampling(settings)
    for key, (low, high) in RANGES.items():
        table, name = key.split(".")
        value = getattr(used if table == "sampling" else getattr(settings, table), name)
        if value is None or (small and (table != "sampling" or name not in used.model_fields_set or name in QUIET)):
            continue
        if not low <= value <= high:
            found.append(
                Phrase(
                    "{key} = {value} is outside the recommended {low}–{high}.", key=key, value=value, low=low, high=high
                )
            )
    if not small and settings.lora.alpha != 2 * settings.lora.rank:
        found.append(
            Phrase(
                "lora.alpha = {alpha} is not twice the rank ({twice}).",
                alpha=settings.lora.alpha,
                twice=2 * settings.lora.rank,
            )
        )
    return found


def default_toml() -> str:
    """A commented ``habitus.toml`` with every setting at its default."""
    lines = [
        "# Habitus settings. Every value is optional; these are the defaults.",
    ]
    for name, field in Settings.model_fields.items():
        table = field.annotation
        if not (isinstance(table, type) and issubclass(table, Table)):
            continue
        lines += ["", f"[{name}]   # {(table.__doc__ or '').split('] ', 1)[-1].strip()}"]
        for key, item in table.model_fields.items():
            value = getattr(getattr(Settings(), name), key)
            note = f"   # {item.description}" if item.description else ""
            if value is None:
                value = getattr(PROFILES["llama"], key, 0)
                note = note or "   # unset: the profile's own"
            lines.append(f"# {key} = {_toml(value)}{note}")
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{k}" = {_toml(v)}' for k, v in value.items()) + " }"
    return str(value)
