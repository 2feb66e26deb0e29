"""The conversation at the terminal: streaming, history and editing, slash commands, Ctrl-C safe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from agent.errors import HabitusError
from app import show

if TYPE_CHECKING:
    from app.conversation import Conversation
    from app.habitus import Habitus

HELP = """\
  /mask              the rules I wear          /mask add RULE   /mask drop N
  /self              who speaks now            /proposals       what I want to become
  /sandbox           talk with no trace        /growth          talk and be remembered
  /ruminate          look back on what was said
  /new               a new conversation        /quit            leave (also Ctrl-D)
  Ctrl-C stops a reply. Approving is done outside: habitus approve ID"""


def converse(habitus: Habitus, talk: Conversation) -> None:
    """Talk until the person leaves."""
    if not sys.stdin.isatty():
        for line in sys.stdin:
            if line.strip():
                _turn(talk, line.strip())
        return
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import InMemoryHistory

    # In memory only: a history file would leave bytes of a sandbox conversation on disk.
    session: PromptSession[str] = PromptSession(history=InMemoryHistory())
    who = habitus.bag.selves.current()
    print(f"{who.id} is here. /help lists what else you can do. / 이야기해요. /help 로 도움말을 볼 수 있어요.")
    while True:
        mark = "🔒 " if talk.mode == "sandbox" else ""
        try:
            text = session.prompt(f"{mark}you ❯ ").strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            print("See you. / 또 만나요.")
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
                _turn(talk, text)
        except HabitusError as error:
            print(f"  {error.message}" + (f"\n  → {error.hint}" if error.hint else ""))
        except KeyboardInterrupt:
            print("\n  (stopped; this turn was not recorded)")


def _turn(talk: Conversation, text: str) -> None:
    said = talk.say(text, lambda piece: print(piece, end="", flush=True))
    print()
    for call in said["tool_calls"]:
        shown = call["arguments"].get("rule") or call["arguments"].get("text") or call["arguments"].get("query") or ""
        failed = f"  ({call['result']})" if call["result"].startswith("error") else ""
        print(f"  · {call['name']}: {show.visible(str(shown))}{failed}")


def _command(habitus: Habitus, talk: Conversation, text: str) -> Conversation | None:
    """Carry out a slash command; None leaves."""
    name, _, rest = text[1:].partition(" ")
    rest = rest.strip()
    match name:
        case "help" | "?":
            print(HELP)
        case "quit" | "exit" | "q":
            return None
        case "mask":
            verb, _, value = rest.partition(" ")
            if verb == "add" and value:
                talk.mask_add(value.strip())
            elif verb == "drop" and value.strip().isdigit():
                talk.mask_drop(int(value))
            elif verb:
                print("  /mask, /mask add RULE, or /mask drop N")
                return talk
            show.mask({"mask": talk.mask_now().model_dump(mode="json")})
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
            print("  Nothing said from here on is recorded, remembered or learned. /growth ends it.")
            return habitus.talk(mode="sandbox")
        case "growth" | "new":
            print(f"  A new {'conversation' if name == 'new' else 'conversation that may be learned from'}.")
            return habitus.talk(mode="growth" if name == "growth" else talk.mode)
        case _:
            print(f"  There is no /{name} here. /help lists what there is.")
    return talk
