"""The command line: arguments in, one call to ``Habitus``, words or JSON out."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from agent import __version__
from agent.errors import ConflictError, HabitusError, UsageError
from agent.phrase import Phrase
from app.words import said, say

if TYPE_CHECKING:
    from app.habitus import Habitus


PORTS = Phrase("from {low} to {high}", low=1, high=2**16 - 1)
YES = ("y", "yes", "네", "예", "응", "ㅇ")


def _port(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 2**16):
        raise UsageError("There is no port {port!r}.", "Allowed: {allowed}.", port=text, allowed=PORTS)
    return int(text)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UsageError("{reason}.", "See `{prog} --help`.", reason=message[0].upper() + message[1:], prog=self.prog)


def parser() -> argparse.ArgumentParser:
    """Every command of the contract."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-h", "--help", action="help", help=say("show this help and exit"))
    common.add_argument(
        "--home",
        metavar="BAG",
        default=argparse.SUPPRESS,
        help=say("the bag (default: $HABITUS_HOME or workspace/memory_core)"),
    )
    common.add_argument(
        "--model", metavar="NAME", default=argparse.SUPPRESS, help=say("seedling, a local path or a hub id")
    )
    common.add_argument(
        "--json",
        action="store_true",
        default=argparse.SUPPRESS,
        help=say("results as JSON on stdout, errors as JSON on stderr"),
    )
    main = _Parser(
        prog="habitus",
        description=say("An agent that decides what it learns, and asks before its weights change."),
        parents=[common],
        add_help=False,
    )
    main.add_argument(
        "--version", action="version", version=f"habitus {__version__}", help=say("show the version and exit")
    )
    commands = main.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def add(name: str, text: str, under: Any = commands) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = under.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", parents=[common], add_help=False
        )
        return made

    chat = add("chat", say("talk; a new thread unless one is named"))
    chat.add_argument(
        "--say", metavar="TEXT", action="append", help=say("say TEXT and go on, for scripts; may be repeated")
    )
    chat.add_argument("--thread", metavar="ID", default="", help=say("go on with a conversation"))
    chat.add_argument("--sandbox", action="store_true", help=say("leave no trace: nothing recorded, nothing learned"))
    ask = add("ask", say("probe, one answer for each text; records nothing"))
    ask.add_argument("text", metavar="TEXT", nargs="+")
    ask.add_argument("--no-mask", action="store_true", help=say("leave out the mask's rules"))
    ask.add_argument("--self", dest="name", metavar="NAME", default="", help=say("another self, or 'base'"))
    lid = add("lid", say("the lid off: the exact prompt, and how the next word is chosen"))
    lid.add_argument("text", metavar="TEXT")
    lid.add_argument("--thread", metavar="ID", default="", help=say("with what was said in a conversation"))
    mask = add("mask", say("your own hand on persona, mood and rules"))
    hands = mask.add_subparsers(dest="hand", metavar="ACTION", parser_class=_Parser)
    add("add", say("add a rule"), hands).add_argument("rule", metavar="RULE")
    add("drop", say("drop a rule by its number"), hands).add_argument("number", metavar="N", type=int)
    add("use", say("wear a mask from a TOML file"), hands).add_argument("file", metavar="FILE", type=Path)
    add("ruminate", say("judge what is new and propose, or abstain"))
    proposals = add("proposals", say("what it wants to become, and why"))
    shows = proposals.add_subparsers(dest="show", metavar="show", parser_class=_Parser)
    add("show", say("one proposal in full"), shows).add_argument("id", metavar="ID")
    add("report", say("how its training went"), shows).add_argument("id", metavar="ID")
    approve = add("approve", say("approve a proposal as shown"))
    approve.add_argument("id", metavar="ID")
    approve.add_argument(
        "--digest", metavar="D", help=say("the digest that `proposals show` gave; without it you are shown and asked")
    )
    approve.add_argument("--note", metavar="TEXT", default="")
    veto = add("veto", say("refuse a proposal"))
    veto.add_argument("id", metavar="ID")
    veto.add_argument("--reason", metavar="TEXT", required=True)
    edit = add("edit", say("change a proposal; it then waits for a new decision"))
    edit.add_argument("id", metavar="ID")
    edit.add_argument("--drop", metavar="N", type=int, nargs="+", default=[], help=say("leave out examples by number"))
    edit.add_argument("--file", metavar="F", type=Path, help=say("JSON with changed examples, scope or method"))
    add("learn", say("run what is approved: train, gate, promote"))
    add("sleep", say("ruminate and learn: the scheduled pass"))
    self_ = add("self", say("who speaks now, and how it came to be"))
    selves = self_.add_subparsers(dest="what", metavar="ACTION", parser_class=_Parser)
    add("log", say("how it came to be"), selves)
    add("show", say("one self in full"), selves).add_argument("name", metavar="NAME")
    add("rebuild", say("train its adapters again from the ledger"), selves).add_argument("name", metavar="NAME")
    export = add("export", say("its weights as one plain adapter, for a server that wears a single LoRA"), selves)
    export.add_argument("name", metavar="NAME")
    export.add_argument("--out", metavar="DIR", type=Path, required=True, help=say("a new folder"))
    export.add_argument("--rank", metavar="R", type=int, default=0, help=say("the highest rank it may have"))
    diff = add("diff", say("what two selves are made of and say differently"), selves)
    diff.add_argument("a", metavar="A")
    diff.add_argument("b", metavar="B")
    add("rollback", say("let an earlier self speak: NAME, or the one before the last weight change")).add_argument(
        "name", metavar="NAME", nargs="?", default=""
    )
    add("forget", say("let go of a habit, out of mask and weights")).add_argument("habit", metavar="HABIT")
    erase = add("erase", say("erase a turn or a conversation for good"))
    erase.add_argument("ref", metavar="TURN|THREAD")
    erase.add_argument("--yes", action="store_true", help=say("do not ask"))
    add("why", say("from a habit back to the words it came from")).add_argument("habit", metavar="HABIT")
    serve = add("serve", say("answer OpenAI and REST clients over HTTP"))
    serve.add_argument("--host", metavar="H", default="127.0.0.1")
    serve.add_argument("--port", metavar="P", type=_port, default=8000)
    serve.add_argument(
        "--key", metavar="K", default="", help=say("what clients must send; needed beyond this machine ($HABITUS_KEY)")
    )
    serving = add(
        "serve-model", say("start a vLLM server for the model and watch it; the other commands speak through it")
    )
    serving.add_argument("--port", metavar="P", type=_port, default=8001)
    serving.add_argument("--print", action="store_true", help=say("only print vLLM's command line"))
    add("doctor", say("what is wrong, and how to mend it"))
    add("demo", say("watch an AI form a habit and grow it into its weights")).add_argument(
        "--keep", action="store_true", help=say("keep the demo's bag")
    )
    return main


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        try:
            return _tried(arguments)
        finally:  # while it can still be told; the help leaves by SystemExit
            print(end="", flush=True)
    except BrokenPipeError:  # who read it has seen enough
        _to_nowhere(sys.stdout, sys.stderr)
        return 0
    except OSError as error:
        _to_nowhere(sys.stdout)
        reason = error.strerror or str(error)
        found = HabitusError("The output cannot be written: {reason}.", "Free the disk it goes to.", reason=reason)
        return _failed(found, "--json" in arguments)


def _to_nowhere(*streams: TextIO) -> None:
    """Python writes what is left in them once more as it ends, and would complain again."""
    for stream in streams:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _tried(arguments: list[str]) -> int:
    as_json = "--json" in arguments
    argparse._ = str if as_json else say  # type: ignore[attr-defined]  # its own words, too; JSON keeps English
    try:
        options = parser().parse_args(arguments)
        as_json = getattr(options, "json", False)
        if not options.command:
            parser().print_help()
            return 0
        _run(options, as_json)
        return 0
    except HabitusError as error:
        return _failed(error, as_json)
    except KeyboardInterrupt:
        print("\nhabitus: " + say("stopped; nothing was half-done."), file=sys.stderr)
        return 130
    except UnicodeError:
        return _failed(UsageError("The text is not valid UTF-8.", "Check the terminal's encoding."), as_json)
    except BrokenPipeError:
        raise
    except OSError as error:
        print(end="", flush=True)  # what cannot be said is no fault of the bag's: raises again
        reason = error.strerror or str(error)
        found = HabitusError(
            "The bag cannot be used: {reason}.",
            "Free the disk or mend permissions, or choose another bag with --home.",
            reason=f"{reason} ({error.filename})" if error.filename else reason,
        )
        return _failed(found, as_json)


def _failed(error: HabitusError, as_json: bool) -> int:
    """Say what went wrong; the exit status."""
    if as_json:
        print(json.dumps(error.as_dict(), ensure_ascii=False), file=sys.stderr)
    else:
        message, hint = said(error)
        print(f"habitus: {message}" + (f"\n  → {hint}" if hint else ""), file=sys.stderr)
    return error.exit_code


def _run(options: argparse.Namespace, as_json: bool) -> None:
    home, model = getattr(options, "home", None), getattr(options, "model", None)
    if options.command == "doctor":
        from app import doctor

        findings = doctor.examine(home, model)
        _print(findings, as_json, doctor.show)
        if any(not f["ok"] for f in findings):
            raise HabitusError("Something needs mending.", "Each line above says how.")
        return
    if options.command == "demo":
        from app.demo import play

        if as_json or home:
            raise UsageError("The demo is for a person, in a bag of its own.", "Leave out --json and --home.")
        play(options.keep, model)
        return
    if options.command == "serve-model":
        _serve_model(options, home, model, as_json)
        return
    from app import show
    from app.wiring import open_habitus

    habitus = open_habitus(home, model, None if as_json else show.progress)
    match options.command:
        case "serve":
            from app.server import serve

            key = options.key or os.environ.get("HABITUS_KEY", "")
            serve(habitus, options.host, options.port, key, _teller(as_json))
        case "chat":
            _chat(habitus, options, as_json)
        case "ask":
            "".join(options.text).encode()  # a tokenizer would only say that it is no text
            rows = habitus.ask(options.text, not options.no_mask, options.name)
            for row in rows:
                _print(row, as_json, lambda r: print(r["reply"]))
        case "lid":
            _print(habitus.lid(options.text, options.thread), as_json, show.lid)
        case "mask":
            match options.hand:
                case "add":
                    habitus.mask_add(options.rule)
                case "drop":
                    habitus.mask_drop(options.number)
                case "use":
                    habitus.mask_use(options.file)
            _print(habitus.self_now(), as_json, show.mask)
        case "ruminate":
            _print(habitus.ruminate(), as_json, show.rumination)
        case "proposals":
            match options.show:
                case "show":
                    _print(habitus.proposal(options.id), as_json, show.proposal)
                case "report":
                    from app.report import markdown

                    _print(habitus.report(options.id), as_json, lambda r: print(markdown(r)))
                case _:
                    _print(habitus.proposals(), as_json, show.proposals)
        case "approve":
            shown = options.digest or _confirmed(habitus, options.id, as_json)
            _print(habitus.approve(options.id, shown, options.note), as_json, show.decided)
        case "veto":
            _print(habitus.veto(options.id, options.reason), as_json, show.decided)
        case "edit":
            _print(habitus.edit(options.id, options.drop, options.file), as_json, show.decided)
        case "learn":
            _carried_out(habitus.learn, as_json, show.learned)
        case "sleep":
            _carried_out(habitus.sleep, as_json, show.slept)
        case "self":
            match options.what:
                case "log":
                    _print(habitus.self_log(), as_json, show.self_log)
                case "rebuild":
                    _print(habitus.rebuild(options.name), as_json, show.rebuilt)
                case "export":
                    _print(habitus.export(options.name, options.out, options.rank), as_json, show.exported)
                case "diff":
                    _print(habitus.diff(options.a, options.b), as_json, show.diff)
                case _:
                    _print(habitus.self_now(getattr(options, "name", "")), as_json, show.self_)
        case "rollback":
            _print(habitus.rollback(options.name), as_json, show.self_)
        case "forget":
            _print(habitus.forget(options.habit), as_json, show.forgotten)
        case "erase":
            if not options.yes:
                _sure(options.ref, as_json)
            _print(habitus.erase(options.ref), as_json, show.erased)
        case "why":
            _print(habitus.why(options.habit), as_json, show.why)


def _serve_model(options: argparse.Namespace, home: str | None, model: str | None, as_json: bool) -> None:
    from app import serving, show, wiring

    path = wiring.home(home)
    settings = wiring.settings_of(path, model)
    if options.print:
        line, needs = serving.command(settings, options.port)
        _print({"command": line, "environment": needs}, as_json, show.command)
        return

    serving.serve(path, settings, options.port, _teller(as_json))


def _teller(as_json: bool) -> Callable[[str, dict[str, Any]], None]:
    """Says what becomes of a server."""
    from app import show

    return lambda what, details: _print({"event": what, **details}, as_json, show.serving)


def _sure(ref: str, as_json: bool) -> None:
    """Ask before what cannot be undone."""
    if as_json or not _asked_at_a_terminal():
        raise UsageError(
            "Erasing cannot be undone, so a script says --yes.", "If you mean it: `habitus erase {ref} --yes`.", ref=ref
        )
    if not _yes(say("Erase {ref} for good? This cannot be undone. [y/N] ", ref=ref)):
        raise ConflictError("Nothing was erased.")


def _asked_at_a_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()  # None: it was closed before we began


def _yes(question: str) -> bool:
    try:
        return input(question).strip().lower() in YES
    except EOFError:
        return False


def _confirmed(habitus: Habitus, ref: str, as_json: bool) -> str:
    """Show the proposal and ask; the digest of what was shown."""
    from agent.learning.lifecycle import DECAY
    from app import show

    script = as_json or not _asked_at_a_terminal()
    if ref == DECAY and script:
        raise UsageError("A script approves with --digest.", "If you mean it: `habitus approve decay --digest decay`.")
    if ref == DECAY:
        if not _yes(say("May it let unused habits fade without asking each time? [y/N] ")):
            raise ConflictError("Nothing was approved.")
        return DECAY
    found = habitus.proposal(ref)
    if found["status"] != "waiting":
        raise ConflictError(
            "{ref} is {status} already.",
            "See `habitus proposals`; a decision is made once.",
            ref=ref,
            status=Phrase(found["status"]),
        )
    if script:
        raise UsageError(
            "A script approves with --digest.", "The digest stands in `habitus proposals show {ref} --json`.", ref=ref
        )
    show.proposal(found)
    if not _yes("\n" + say("May this grow into its weights? [y/N]") + " "):
        raise ConflictError(
            "Nothing was approved.", "To refuse it for good: `habitus veto {ref} --reason TEXT`.", ref=ref
        )
    return str(found["digest"])


def _chat(habitus: Habitus, options: argparse.Namespace, as_json: bool) -> None:
    from app.chat import converse, turn

    talk = habitus.talk(options.thread, "sandbox" if options.sandbox else "growth")
    if not options.say and not as_json and _asked_at_a_terminal():
        converse(habitus, talk)
        return
    for text in list(_spoken(options.say)) if options.say else _spoken(x.strip() for x in sys.stdin or () if x.strip()):
        if as_json:
            print(json.dumps(talk.say(text), ensure_ascii=False), flush=True)
        else:
            turn(talk, text)


def _spoken(lines: Iterable[str]) -> Iterator[str]:
    """What is to be said, line by line.

    Raises:
        UsageError: one is a slash command: who meant /sandbox must not be recorded.
        UnicodeError: one is no text.
    """
    for line in lines:
        line.encode()
        if line.lstrip().startswith("/"):
            raise UsageError(
                "A line that begins with / is not said here: slash commands are for a terminal.",
                "`--sandbox` starts a conversation without a trace. To say the line, put a word before it.",
            )
        yield line


def _carried_out(work: Callable[[], Any], as_json: bool, show: Any) -> None:
    """Print what ``work`` came to; where it fails, what it had done before."""
    try:
        done = work()
    except HabitusError as error:
        if error.done:
            _print(error.done, as_json, show)
        raise
    _print(done, as_json, show)


def _print(result: Any, as_json: bool, show: Any) -> None:
    if as_json:
        print(json.dumps(result, ensure_ascii=False), flush=True)
    else:
        show(result)


if __name__ == "__main__":
    sys.exit(main())
