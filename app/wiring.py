"""The one place that picks the parts."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import UsageError
from agent.settings import Settings, load

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.bag import Bag
    from agent.ports import Body
    from app.habitus import Habitus
    from graphs.context import Progress

HOME = Path("workspace/memory_core")
TRACING = ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING", "LANGCHAIN_TRACING_V2")


def home(given: str | None = None) -> Path:
    """The bag's folder: ``--home``, else ``HABITUS_HOME``, else ``workspace/memory_core``."""
    where = given or os.environ.get("HABITUS_HOME") or HOME
    try:
        return Path(where).expanduser().absolute()
    except RuntimeError as error:
        raise UsageError("Whose home {path!r} is, is not known.", "Name the folder in full.", path=where) from error


def settings_of(path: Path, model: str | None = None) -> Settings:
    """The bag's settings, with ``--model`` over them."""
    settings = load(path)
    if model:
        settings = settings.model_copy(update={"model": settings.model.model_copy(update={"name": model})})
    return settings


def open_bag(path: Path, settings: Settings, body: Callable[[], Body] | None = None) -> Bag:
    """The bag with its body (the one that the settings name, unless another is given) and toolboxes chosen.

    Nothing heavy is loaded yet.
    """
    from agent.bag import Bag
    from graphs.converse import toolbox
    from tools.abstain import abstain
    from tools.judge_turn_value import judge_turn_value

    def named() -> Body:
        from app.serving import found

        if server := found(path, settings):
            from agent.models.adapters import SERVED
            from agent.models.vllm import VllmBody

            return VllmBody(settings.model, server, path / SERVED)
        from agent.models.embedded import EmbeddedBody

        return EmbeddedBody(settings.model)

    toolboxes = {
        "tools": tuple(t.schema() for t in toolbox("growth", ruled=False)),
        "judge": (judge_turn_value.schema(), abstain.schema()),
    }
    return Bag(path, settings, body or named, toolboxes)  # type: ignore[arg-type]


def untraced() -> None:
    """A conversation goes to nobody, whatever the shell says. To be called before the first run: LangSmith looks once."""
    os.environ.update(dict.fromkeys(TRACING, "false"))


def open_habitus(given: str | None = None, model: str | None = None, progress: Progress | None = None) -> Habitus:
    """The whole runtime over one bag."""
    untraced()
    os.environ["ANONYMIZED_TELEMETRY"] = "False"
    warnings.simplefilter("ignore", FutureWarning)  # libraries talking to libraries
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from app.habitus import Habitus
    from graphs.context import silent

    path = home(given)
    return Habitus(open_bag(path, settings_of(path, model)), progress or silent)
