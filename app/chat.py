"""The conversation at the terminal: streaming, history and editing, slash commands, Ctrl-C safe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent.errors import HabitusError
from app import show
from app.words import said, say

if TYPE_CHECKING:
    from app.conversation import Conversation
    from app.habitus import Habitus


def converse(habitus: Habitus, talk: Conversation) -> None:
    """Talk at a terminal until the person leaves."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import InMemoryHistory

    # In memory only: a history file would leave bytes of a sandbox conversation on disk.
    session: PromptSession[str] = PromptSession(history=InMemoryHistory())
    who = habitus.bag.selves.current()
    print(say("{who} is here. /help lists what else you can do.", who=who.id))
    while True:
        mark = "🔒 " if talk.mode == "sandbox" else ""
        try:
            text = session.prompt(f"{mark}{say('you')} ❯ ").strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            print(say("See you."))
            return
        if not text:
            continue
        try:
            if text.startswith("/"):
                found = _command(habitus, talk, text)
                if found is None:
                    return
                talk = found
            else:
                turn(talk, text)
        except HabitusError as error:
            message, hint = said(error)
            print(f"  {message}" + (f"\n  → {hint}" if hint else ""))
        except KeyboardInterrupt:
            print("\n  " + _stopped(talk, text))


def _aloud(piece: str) -> None:
    print(piece, end="", flush=True)


def _stopped(talk: Conversation, text: str) -> str:
    """What became of ``text`` when the person broke it off. Once a tool has done something, its turn is recorded."""
    if text.startswith("/"):
        return say("(stopped)")
    last = next(reversed(talk.habitus.bag.thread(talk.thread)), None) if talk.mode == "growth" else None
    if last and not last.reply and last.user == text:
        return say("(stopped; what a tool did stands, with turn {turn}: `habitus erase {turn}`)", turn=last.id)
    return say("(stopped; this turn was not recorded)")


def turn(talk: Conversation, text: str) -> None:
    """Say ``text``; the reply is shown as it comes."""
    _shown(talk.say(text, _aloud))


def _shown(said: dict[str, Any]) -> None:
    """What came with a reply that was streamed already."""
    print()
    for call in said["tool_calls"]:
        shown = call["arguments"].get("rule") or call["arguments"].get("text") or call["arguments"].get("query") or ""
        failed = f"  ({call['result']})" if call["result"].startswith("error") else ""
        print(f"  · {call['name']}: {show.visible(str(shown))}{failed}")


def _help(talk: Conversation) -> None:
    looking_back = [("/ruminate", say("look back on what was said"))] if talk.mode == "growth" else []
    for command, what in (
        ("/again", say("hear another reply")),
        ("/better TEXT", say("say how it should have answered")),
        ("/mask", say("the rules I wear")),
        ("/mask add RULE", say("add a rule")),
        ("/mask drop N", say("drop a rule by its number")),
        ("/self", say("who speaks now")),
        *looking_back,
        ("/proposals [ID]", say("what I want to become")),
        ("/sandbox", say("talk with no trace")),
        ("/growth", say("talk and be remembered")),
        ("/new", say("a new conversation")),
        ("/quit", say("leave (also Ctrl-D)")),
    ):
        print(f"  {command:<18} {what}")
    print("  " + say("Ctrl-C stops a reply. Approving is done outside: `habitus approve ID`."))


def _command(habitus: Habitus, talk: Conversation, text: str) -> Conversation | None:
    """Carry out a slash command; None leaves."""
    name, _, rest = text[1:].partition(" ")
    rest = rest.strip()
    match name:
        case "help" | "?":
            _help(talk)
        case "quit" | "exit" | "q":
            return None
        case "mask":
            verb, _, value = rest.partition(" ")
            if verb == "add" and value:
                talk.mask_add(value.strip())
            elif verb == "drop" and value.strip().isdecimal():
                talk.mask_drop(int(value))
            elif verb:
                print("  " + say("/mask, /mask add RULE, or /mask drop N"))
                return talk
            show.mask({"mask": talk.mask_now().model_dump(mode="json")})
        case "again":
            _shown(talk.again(_aloud))
        case "better":
            talk.better(rest)
            print("  " + say("noted: that is the answer it should have given"))
        case "self":
            show.self_(habitus.self_now())
        case "proposals":
            if rest:
                show.proposal(habitus.proposal(rest))
            else:
                show.proposals(habitus.proposals())
        case "ruminate" if talk.mode == "growth":
            show.rumination(habitus.ruminate())
        case "sandbox":
            print("  " + say("Nothing said from here on is recorded, remembered or learned. /growth ends it."))
            return habitus.talk(mode="sandbox")
        case "growth":
            print("  " + say("A new conversation that may be learned from."))
            return habitus.talk(mode="growth")
        case "new":
            print("  " + say("A new conversation."))
            return habitus.talk(mode=talk.mode)
        case _:
            print("  " + say("There is no /{name} here. /help lists what there is.", name=name))
    return talk
