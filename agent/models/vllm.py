"""The vLLM body: a server speaks, many at once, each in the adapter that its request names.

Words and logits are the embedded body's: the same prompt, template and grammar, and greedy answers equal token
for token (tests/test_vllm.py). What differs is said in docs/design.md. A free reply that begins like a tool
call is asked for again under the grammar, as only there may it be one.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from agent import notice
from agent.errors import LostAdapterError, ModelError, UnavailableError
from agent.models.adapters import Adapters, Forced
from agent.models.base import Base
from agent.models.calls import calling
from agent.models.grammar import lark
from agent.models.sampling import NEVER, bias_sequences, looped
from agent.phrase import Phrase
from agent.ports import Prompt, Usage, Voice

if TYPE_CHECKING:
    import openai
    import torch
    from langchain_core.language_models import BaseChatModel
    from langchain_openai import ChatOpenAI

    from agent.settings import ModelTable, Sampling

T = TypeVar("T")
SEEN = 100  # --max-logprobs
ASLEEP = "asleep"  # in the bag: the process for whose training the server sleeps
TOGETHER = 64  # prompts in one request of a batch
PACE = 0.03  # seconds between two pieces at least: each costs LangChain and a door more than the network
SECONDS = 600.0  # the first request after a start compiles


@dataclass(frozen=True)
class Server:
    """Where a vLLM listens, and what it was started with."""

    url: str
    key: str = ""
    rank: int = 64  # --max-lora-rank
    sleep: int | None = None  # how deep it sleeps: 1 leaves the GPU, 0 only pauses; None: it cannot
    # On a CPU vLLM lends the base another's adapter (docs/log.md): there it speaks in one that changes nothing.
    still: bool = False


class _Plain:
    """ChatOpenAI's client without its typed objects, of which it makes dictionaries again: two thirds of its time."""

    def __init__(self, api: openai.OpenAI) -> None:
        self._api = api

    def create(self, *, extra_body: dict[str, Any], **payload: Any) -> openai.Stream[object]:
        """The chunks of a streamed reply, as they came."""
        import openai

        body = payload | extra_body
        return self._api.post(
            "/chat/completions", cast_to=object, body=body, stream=True, stream_cls=openai.Stream[object]
        )


class VllmBody(Base):
    """See ``agent.ports.Body``."""

    def __init__(self, table: ModelTable, server: Server, store: Path) -> None:
        """Attach to ``server``; adapters put together for it are kept in ``store``.

        Raises:
            ModelError: it serves another base than ``table`` names.
            UnavailableError: nothing answers there.
        """
        import httpx
        from langchain_openai import ChatOpenAI

        super().__init__(table)
        server = replace(server, url=server.url.rstrip("/").removesuffix("/v1"))  # as other clients take it
        self.server, self._asleep = server, store.parent / ASLEEP
        here = urlsplit(server.url).hostname in ("127.0.0.1", "localhost", "::1")
        self._model: ChatOpenAI = ChatOpenAI(
            model="base",
            base_url=f"{server.url}/v1",
            api_key=server.key or "none",
            max_retries=0,
            stream_usage=True,
            http_client=httpx.Client(
                timeout=httpx.Timeout(SECONDS, connect=5.0),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
                trust_env=not here,  # a proxy has no business between two processes of one machine
            ),
        )
        self._api: openai.OpenAI = self._model.root_client
        self._model.client = _Plain(self._api)
        try:
            self._base = self._attached(table.name)
        except LostAdapterError as error:  # no adapter was asked for yet: it does not know the path
            raise foreign(server.url, table.name, Phrase("no vLLM answers there")) from error
        plain = self.path if server.still else None
        self.adapters = Adapters(self._api, self._base, store, server.rank, plain, self._forced)

    def _attached(self, name: str) -> str:
        """What the server calls the base, once it has shown to be the one called ``name`` here."""
        with self._spoken():
            served = list(self._api.models.list())
        base = next((m for m in served if not getattr(m, "parent", None)), None)
        if base is None:
            raise foreign(self.server.url, name, Phrase("no vLLM answers there"))
        self.context = min(self.context, int(getattr(base, "max_model_len", 0) or self.context))
        probe = Prompt(({"role": "system", "content": "안녕"}, {"role": "user", "content": "How are you?"}))
        if self._tokens(probe, base.id) != self.ids_of(probe):
            raise foreign(self.server.url, name, Phrase("it reads the same prompt otherwise"))
        return base.id

    def chat(self, voice: Voice, sampling: Sampling, salt: str = "") -> BaseChatModel:
        from agent.models.chat import HabitusChat

        return HabitusChat(body=self, voice=voice, sampling=sampling, salt=salt, streaming=True)

    def ready(self, voice: Voice) -> None:
        with self._spoken():
            self.adapters.load(voice)

    @contextmanager
    def resting(self) -> Iterator[None]:
        if self.server.sleep is None:
            yield
            return
        self._see_awake()
        with notice.posted(self._asleep, str(os.getpid())):
            try:
                self._ask_server(f"/sleep?level={self.server.sleep}&mode=wait")  # replies that have begun end first
                yield
            finally:
                self._wake()

    def _wake(self) -> None:
        """One that is not there is being started again, and comes back awake."""
        import openai

        try:
            self._ask_server("/wake_up")
        except UnavailableError as error:
            if not isinstance(error.__cause__, openai.APIConnectionError):
                raise
        finally:
            self._asleep.unlink(missing_ok=True)

    def _ask_server(self, path: str) -> None:
        import openai

        try:
            self._api.post(f"{self.server.url}{path}", cast_to=object)
        except openai.OpenAIError as error:
            raise UnavailableError(
                "The model server at {url} did not do {what}.",
                "Start it with `habitus serve-model`, or set [serving] training to beside.",
                url=self.server.url,
                what=path.split("?")[0],
            ) from error

    def _see_awake(self) -> None:
        """Nobody asks one that sleeps; whoever finds that its training died wakes it.

        Raises:
            UnavailableError: it sleeps.
        """
        if not self._asleep.exists():
            return
        if notice.read(self._asleep) is None:
            self._wake()
            return
        error = UnavailableError("It is asleep while it learns.", "It wakes by itself; ask again in a while.")
        error.seconds = 30
        raise error

    # -- speaking ------------------------------------------------------------------------------

    def stream(
        self, prompt: Prompt, voice: Voice, sampling: Sampling, tool_choice: str = "auto"
    ) -> Generator[str, None, Usage]:
        read = len(self.ids_of(prompt))
        room = min(sampling.max_tokens, self.context - read)
        if tool_choice not in ("auto", "none"):
            return (yield from self._said(prompt, voice, _calling(prompt, sampling, tool_choice, room)))
        text, called = "", None if prompt.tools and tool_choice == "auto" else False
        pieces = self._said(prompt, voice, self._free(sampling, room))
        try:
            while True:
                try:
                    piece = next(pieces)
                except StopIteration as done:
                    if called is None:
                        yield text
                    return Usage(*done.value)
                text += piece
                if called is None:
                    called, piece = calling(text), text
                if called:
                    break
                if called is False:
                    yield piece
                if looped(text):
                    return Usage(read, self.count(text))
        finally:
            pieces.close()  # ends the request where it was broken off
        return (yield from self._said(prompt, voice, _calling(prompt, sampling, "required", room)))

    def _said(self, prompt: Prompt, voice: Voice, how: dict[str, Any]) -> Generator[str, None, Usage]:
        """One request, piece by piece; begun anew, once, where the server had lost the adapter."""
        from langchain_core.messages import AIMessage, convert_to_messages

        safe = self.safe(prompt)
        extra = dict(how.pop("extra_body", {}))
        if prompt.salt:
            extra["cache_salt"] = prompt.salt
        if safe.tools:  # "none" keeps the server's own parser off: the text is ours to read
            extra |= {"tools": list(safe.tools), "tool_choice": "none"}  # past the client's slow walk over schemas
        messages = convert_to_messages(list(safe.messages))
        for attempt in (1, 2):
            kept, at, usage = "", 0.0, Usage(0, 0)
            try:
                with self._spoken(), self.adapters.worn(voice) as name:
                    # past LangChain's callbacks: those of the graph already hear the chat model around this one
                    for chunk in self._model._stream(messages, model=name, extra_body=extra, **how):
                        message = chunk.message
                        if isinstance(message, AIMessage) and (used := message.usage_metadata):
                            usage = Usage(used["input_tokens"], used["output_tokens"])
                        kept += chunk.text
                        if kept and time.monotonic() - at >= PACE:
                            yield kept
                            kept, at = "", time.monotonic()
                if kept:
                    yield kept
                return usage
            except LostAdapterError:
                if at or attempt == 2:
                    raise
                self.adapters.lost()
        raise AssertionError

    def _free(self, sampling: Sampling, room: int) -> dict[str, Any]:
        s = sampling
        bias: dict[str, float] = {}
        banned: list[str] = []
        for word, value in s.logit_bias.items():
            if value <= -100:
                banned.append(word)
            else:  # the token that completes the word, in whatever word it stands: the server knows no sequences
                bias |= {str(ids[-1]): v for ids, v in bias_sequences(self.tok, {word: value}).items() if v > NEVER}
        extra: dict[str, Any] = {
            "top_k": s.top_k,
            "min_p": s.min_p,
            "repetition_penalty": s.repetition_penalty,
        }
        if banned:
            extra["bad_words"] = banned
        how: dict[str, Any] = {
            "temperature": s.temperature,
            "top_p": s.top_p,
            "frequency_penalty": s.frequency_penalty,
            "presence_penalty": s.presence_penalty,
            "max_tokens": room,
            "extra_body": extra,
        }
        if s.stop:
            how["stop"] = list(s.stop)
        if s.seed is not None:
            how["seed"] = s.seed
        if bias:
            how["logit_bias"] = bias
        return how

    def answers(self, prompts: Sequence[Prompt], voice: Voice, max_tokens: int = 120) -> list[str]:
        rows = [self.ids_of(p) for p in prompts]

        def ask(name: str) -> list[str]:
            found: list[str] = []
            for i in range(0, len(rows), TOGETHER):
                some = rows[i : i + TOGETHER]
                done = self._api.completions.create(
                    model=name,
                    prompt=some,
                    temperature=0,
                    max_tokens=min(max_tokens, self.context - max(map(len, some))),  # more it would refuse
                    extra_body={"repetition_penalty": 1.0},
                )
                found += [c.text.lstrip() for c in sorted(done.choices, key=lambda c: c.index)]
            return found

        return self._wearing(voice, ask)

    def agreement(self, prompts: Sequence[Prompt], replies: Sequence[str], voice: Voice) -> list[float]:
        pairs = [
            (self.ids_of(p), [*self.tok(r, add_special_tokens=False)["input_ids"], self.tok.eos_token_id])
            for p, r in zip(prompts, replies, strict=True)
        ]
        found = self._wearing(voice, lambda name: self._forced(name, pairs))
        return [sum(rank == 1 for _, rank in row) / len(row) for row in found]

    def next(self, prompt: Prompt, voice: Voice) -> torch.Tensor:
        """The likeliest ``SEEN`` as the server gives them; what is left is spread over all others alike."""
        import torch

        def ask(name: str) -> torch.Tensor:
            done = self._api.completions.create(
                model=name,
                prompt=[*self.ids_of(prompt), self.tok.eos_token_id],  # forced: so its place is weighed, not drawn
                temperature=0,
                max_tokens=1,
                extra_body={"prompt_logprobs": SEEN},
            )
            row = {int(t): x["logprob"] for t, x in done.choices[0].prompt_logprobs[-1].items()}  # type: ignore[attr-defined]
            rest = max(1e-9, 1 - sum(math.exp(p) for p in row.values())) / max(1, len(self.tok) - len(row))
            found = torch.full((len(self.tok),), math.log(rest))
            found[list(row)] = torch.tensor(list(row.values()))
            return found

        return self._wearing(voice, ask)

    def _forced(self, name: str, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Forced]:
        """For each (prompt, reply): log-probability and rank of every token of the reply, forced along it."""
        found: list[Forced] = []
        for i in range(0, len(pairs), TOGETHER):
            some = pairs[i : i + TOGETHER]
            done = self._api.completions.create(
                model=name,
                prompt=[p + r for p, r in some],
                temperature=0,
                max_tokens=1,
                extra_body={"prompt_logprobs": 1},
            )
            for choice, (_, reply) in zip(sorted(done.choices, key=lambda c: c.index), some, strict=True):
                rows: list[dict[str, Any]] = choice.prompt_logprobs[-len(reply) :]  # type: ignore[attr-defined]
                said = [row[str(t)] for row, t in zip(rows, reply, strict=True)]
                found.append([(float(x["logprob"]), int(x["rank"])) for x in said])
        return found

    def _wearing(self, voice: Voice, ask: Callable[[str], T]) -> T:
        for attempt in (1, 2):
            try:
                with self._spoken(), self.adapters.worn(voice) as name:
                    return ask(name)
            except LostAdapterError:
                if attempt == 2:
                    raise
                self.adapters.lost()
        raise AssertionError

    def _tokens(self, prompt: Prompt, model: str) -> list[int]:
        """The prompt as the server's own tokenizer and template make it."""
        with self._spoken():
            found = self._api.post(
                f"{self.server.url}/tokenize",
                cast_to=object,
                body={"model": model, "messages": list(prompt.messages), "add_generation_prompt": True},
            )
        return list(found["tokens"])  # type: ignore[index]

    @contextmanager
    def _spoken(self) -> Iterator[None]:
        """The server's errors as ours."""
        import openai

        self._see_awake()
        try:
            yield
        except openai.NotFoundError as error:
            raise LostAdapterError("The server at {url} lost the adapter.", url=self.server.url) from error
        except (openai.APIConnectionError, openai.InternalServerError) as error:
            raise UnavailableError(
                "The model server at {url} does not answer.",
                "`habitus serve-model` starts one; it says there what is wrong.",
                url=self.server.url,
            ) from error
        except openai.APIError as error:  # refused at once, or broken off in the midst of a stream
            raise ModelError(
                "The model server refused: {reason}.", "`habitus doctor` looks at it.", reason=reason_of(error)
            ) from error


def foreign(url: str, name: str, reason: Phrase) -> ModelError:
    """What to say where another model is served than ``name``."""
    return ModelError(
        "The server at {url} does not serve {name!r}: {reason}.",
        "Point [serving] url to one that does, or start one with `habitus serve-model`.",
        url=url,
        name=name,
        reason=reason,
    )


def reason_of(error: openai.APIError) -> str:
    """The server's own words, one line."""
    body = error.body if isinstance(error.body, dict) else {}
    said = body.get("message") or body.get("error") or error.message
    return str(said.get("message", said) if isinstance(said, dict) else said).strip().splitlines()[0].rstrip(".")


def _calling(prompt: Prompt, sampling: Sampling, choice: str, room: int) -> dict[str, Any]:
    """Under the grammar: only a legal call, no penalties, no biases."""
    tools = list(prompt.tools)
    if choice not in ("required", "any"):
        tools = [t for t in tools if t.get("function", t)["name"] == choice]
    if not tools:
        raise ModelError("The tool {tool!r} is not among those offered.", tool=choice)
    how: dict[str, Any] = {
        "temperature": sampling.tool_temperature,
        "max_tokens": room,
        "extra_body": {"structured_outputs": {"grammar": lark(tools)}, "top_k": 0, "repetition_penalty": 1.0},
    }
    return how | ({} if sampling.seed is None else {"seed": sampling.seed})
