"""Results for people: plain words on a terminal, with what cannot be seen made visible."""

from __future__ import annotations

import re
import shlex
import sys
import unicodedata
from datetime import datetime
from typing import Any, get_args

from app.words import padded, recorded, say

Json = dict[str, Any]
_MARK = {
    "waiting": "…",
    "approved": "✓",
    "vetoed": "✗",
    "running": "▶",
    "promoted": "★",
    "rejected": "✗",
    "withdrawn": "–",
}


# Letters and marks that look like nothing: U+2800, and of Unicode's Default_Ignorable_Code_Point what is not Cf.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)


def visible(text: str) -> str:
    """``text`` on one line, with invisible, blank, control and direction-changing characters spelled out."""

    def shown(c: str) -> str:
        kind = unicodedata.category(c)
        hidden = kind in ("Cf", "Cc", "Co", "Cs", "Zl", "Zp") or _BLANK.match(c) or (kind == "Zs" and c != " ")
        return " ⏎ " if c == "\n" else f"⟨U+{ord(c):04X}⟩" if hidden else c

    return "".join(map(shown, text))


def _local(at: str) -> str:
    """When it was by the person's clock; the ledger keeps UTC. What is not recorded yet has no time."""
    return datetime.fromisoformat(at).astimezone().isoformat()[:19] if at else ""


def progress(what: str, details: Json) -> None:
    """One line on stderr for each step of long work."""
    if what == "tool" or "validation" in details:  # the report shows it
        return
    if what == "train" and "loss" in details:
        done = int(20 * details["step"] / details["of"])
        line = say("training {bar} step {step}/{of}  loss {loss:.4f}", bar="█" * done + "░" * (20 - done), **details)
        print(f"\r  {line}", end="", file=sys.stderr, flush=True)
        return
    if details.get("stage") in ("stopped early", "done"):  # the bar's line ends here
        print(file=sys.stderr)
    match what:
        case "train":
            stages = {
                "loading": say("loading"),
                "teacher": say("teacher"),
                "training": say("training"),
                "stopped early": say("stopped early"),
                "done": say("done"),
            }
            text = say("training: {stage}", stage=stages.get(details.get("stage", ""), say("starting")))
            if "language" in details:  # whose weights come now
                text += f" ({details['language']})"
            if "rows" in details:
                text += say(" ({rows} rows)", rows=details["rows"])
        case "examine":
            text = say("the gate examines the new weights …")
        case "promote":
            text = say("{who} speaks now", who=details["self"])
        case _:
            arguments = details.get("arguments", {})
            came = recorded(details.get("result", ""))
            if what == "judge":
                came = f"{say(str(arguments.get('kind', '')))} {arguments.get('value', '')}"
            elif what == "propose":
                came = arguments.get("rule", arguments.get("reason", ""))
            text = f"{say(what)}: {details.get('tool', '')} {visible(str(came)).strip()}"
    print(f"  {text}", file=sys.stderr, flush=True)


def mask(who: Json) -> None:
    """The mask of a self."""
    worn = who["mask"]
    for language, persona in worn["persona"].items():
        print(say("persona ({language}): {persona}", language=language, persona=visible(persona)))
    if worn["mood"]:
        print(say("mood: {mood}", mood=visible(worn["mood"])))
    for number, rule in enumerate(worn["rules"], 1):
        habit = f"  ({rule['habit']})" if rule["habit"] else ""
        overrules = "  " + say("overrules {habits}", habits=", ".join(rule["overrules"])) if rule["overrules"] else ""
        print(f"{number}. [{'+'.join(rule['scope'])}] {visible(rule['text'])}{habit}{overrules}")
    if not worn["rules"]:
        print(say("The mask holds no rules."))
    if worn["silenced"]:
        print(say("taken back, still in the weights: {habits}", habits=", ".join(worn["silenced"])))
    for user, reply in worn["few_shot"]:
        print(say("  e.g. {user} → {reply}", user=visible(user), reply=visible(reply)))


def rumination(r: Json) -> None:
    """What a pass came to."""
    for v in r["verdicts"]:
        print(f"{v['turn_id']:>5}  {v['value']}  {padded(say(v['kind']), 11)} {visible(v['reason'])}")
    for ref in r["proposals"]:
        print(say("It asks to learn: {ref}. Read it with `habitus proposals show {ref}`.", ref=ref))
    if r["abstained"]:
        print(say("Nothing to learn this time: {reason}", reason=visible(say(r["reason"]))))
    if r["diary"]:
        print(say("Diary: {entry}", entry=visible(r["diary"])))


def proposals(rows: list[Json]) -> None:
    """One line each."""
    for p in rows:
        status, kind = padded(say(p["status"]), 9), padded(say(p["kind"]), 8)
        print(f"{_MARK[p['status']]} {p['id']:<4} {status} {kind} {p['habit']:<4} {visible(p['rule'])}")
    if not rows:
        print(say("It has proposed nothing yet. Talk with it, then `habitus ruminate`."))


def _field(name: str, text: str) -> None:
    print(f"  {padded(name, 10)} {text}")


def proposal(p: Json) -> None:
    """Everything a person needs to judge it."""
    head = {"ref": p["id"], "kind": say(p["kind"]), "status": say(p["status"]), "habit": p["habit"]}
    print(say("{ref}: {kind} ({status})   habit {habit}", **head))
    _field(say("rule"), visible(p["rule"]))
    if p["quote"]:
        _field(say("you said"), f"“{visible(p['quote'])}”")
    _field(say("why"), visible(recorded(p["rationale"])))
    _field(say("scope"), say("{scope}    method {method}", scope=", ".join(p["scope"]), method=p["method"]))
    for t in p["evidence"]:
        origin = ""
        if t["source"] != "user":
            origin = "   " + say("! from {source}, not your own words", source=say(t["source"]))
        _field(say("evidence"), f"{t['turn_id']} ({_local(t['at'])[:10]}) {visible(t['user'])}{origin}")
    for text in p["risks"]:
        _field(say("risk"), visible(recorded(text)))
    for h in p["conflicts"]:
        leaving = {"habit": h["habit"], "rule": visible(h["rule"])}
        _field(say("conflict"), say("does not go with {habit}, which would leave: {rule}", **leaving))
    if p["preview"]:
        print("\n  " + say("Before and after:"))
        for x in p["preview"]:
            print(f"    {visible(x['prompt'])}")
            print(f"      {padded(say('now'), 6)} {visible(x['before'])}")
            print(f"      {padded(say('then'), 6)} {visible(x['after'])}")
    if p["examples"]:
        print("\n  " + say("{count} examples would be trained on, these and no others:", count=len(p["examples"])))
    for e in p["examples"]:
        where = say(" from {turn}", turn=e["source"]) if e["source"] else ""
        kept = "  " + say("[with: {rules}]", rules=visible(" ".join(e["rules"]))) if e["rules"] else ""
        frame = "" if e["frame"] == "plain" else f" ({say(e['frame'])})"
        said = f"{visible(e['prompt'])} → {visible(e['completion'])}"
        print(f"  {e['n']:>4} {say(e['origin'])}{where}{frame}  {said}{kept}")
        if e["rejected"] and p["method"] in ("dpo", "kto"):
            print("      " + say("    instead of: {said}", said=visible(e["rejected"])))
    for rules in dict.fromkeys(tuple(e["teacher"]) for e in p["examples"] if e["habit"] == p["habit"]):
        print("\n  " + say("taught by the frozen base under: {rules}", rules=visible(" · ".join(rules))))
    for language, persona in p["config"].get("personas", {}).items():
        print("  " + say("persona ({language}): {persona}", language=language, persona=visible(persona)))
    if p["config"]:
        print()
        _field(say("training"), ", ".join(f"{k} {v}" for k, v in p["config"].items() if not isinstance(v, dict | list)))
    if p["gate"]:
        gate(p["gate"])
    _field(say("digest"), p["digest"])


def gate(report: Json) -> None:
    """The exam's table."""
    for probe in report["probes"]:
        mark, name = "✓" if probe["passed"] else "✗", padded(recorded(probe["name"]), 12)
        if probe["passed"] and not probe["count"]:
            print(f"    – {name} {recorded(probe['detail'])}")
            continue
        low, high = probe["interval"]
        numbers = say(
            "before {before:>6.1%}  after {after:>6.1%} ({low:.0%}–{high:.0%})  needs {threshold:.0%}  of {count}",
            **probe, low=low, high=high,
        )  # fmt: skip
        print(f"    {mark} {name} {numbers}  {recorded(probe['detail'])}")


def decided(p: Json) -> None:
    """A proposal, or standing leave, after a decision."""
    from agent.learning.lifecycle import DECAY

    if p["id"] == DECAY:
        print(
            say(
                "Unused habits may fade now without asking, never below the floor. `habitus veto decay --reason TEXT` ends that."
            )
            if p["status"] == "approved"
            else say("It asks each time from here on.")
        )
        return
    following = {
        "approved": say("`habitus learn` trains it."),
        "waiting": say("It waits for your decision: `habitus proposals show {ref}`.", ref=p["id"]),
    }
    done = say("{ref} is {status}.", ref=p["id"], status=say(p["status"]))
    print(f"{done} {following.get(p['status'], '')}".strip())


def learned(rows: list[Json]) -> None:
    """What training came to."""
    if not rows:
        print(say("Nothing is approved, so nothing was learned."))
    for r in rows:
        if "replaced_by" in r:
            print(say("{ref} no longer fits the weights of now; {fresh} takes its place and waits for you."
                      if r["replaced_by"] else "{ref} no longer fits the weights of now, and nothing takes its place.",
                      ref=r["proposal"], fresh=r["replaced_by"]))  # fmt: skip
            continue
        told = {"ref": r["proposal"], "who": r["self"]}
        if r["promoted"] and r["gate"]["passed"]:
            print(say("{ref} passed the gate: {who} speaks now.", **told))
        elif r["promoted"]:
            print(say("{ref} is done as you decided, whatever the gate says: {who} speaks now.", **told))
        elif r["status"] != "rejected":
            print(say("{ref} was {status} meanwhile; {who} goes on speaking.", status=say(r["status"]), **told))
        else:
            broke = ", ".join(recorded(p["name"]) for p in r["gate"]["probes"] if not p["passed"])
            print(say("{ref} did not pass the gate ({broke}); {who} goes on speaking.", broke=broke, **told))
        gate(r["gate"])
        print("    " + say("train {train:.1f} s, gate {gate:.1f} s, swap {swap:.1f} s", **r["seconds"]))


def slept(r: Json) -> None:
    """What a scheduled pass came to."""
    rumination(r["ruminate"])
    if "learn" in r:  # not where it failed at once
        learned(r["learn"])


def self_(who: Json) -> None:
    """Who speaks."""
    made = {"base": who["base"][:12], "cause": recorded(who["cause"]), "at": _local(who["at"])}
    print(say("{name}  (base {base}, {cause}, {at})", name=who["name"], **made))
    for part in who["parts"]:
        worn = {"adapter": part["adapter"], "weight": part["weight"], "stage": say(part["stage"])}
        print("  " + say("{habit:<4} in {adapter} × {weight} ({stage})", habit=part["habit"], **worn))
    if not who["parts"]:
        print("  " + say("no adapters: the base itself"))
    mask(who)
    set_ = ", ".join(f"{k} {v}" for k, v in who["sampling"].items() if v not in (None, [], {}))
    print(say("sampling: {values}", values=set_))


def self_log(rows: list[Json]) -> None:
    """How it came to be."""
    for r in rows:
        held = say("habits {habits}   rules {rules}", habits=", ".join(r["habits"]) or "–", rules=len(r["rules"]))
        print(f"{_local(r['at'])}  {r['name']}  {padded(recorded(r['cause']), 22)} {held}")


def forgotten(r: Json) -> None:
    """What forgetting came to."""
    print(say("{habit} is let go; {who} speaks now.", habit=r["habit"], who=r["self"]))
    if r["gate"]:
        gate(r["gate"])


def erased(r: Json) -> None:
    """What went, and what had rested on it."""
    counts = {"turns": len(r["turns"]), "memories": len(r["memories"]), "examples": r["examples"]}
    print(say("Erased: {turns} turns, {memories} memories, {examples} training rows.", **counts))
    for h in r["habits"]:
        print(
            say(
                "It also rests on them: {habit} ({stage}) {rule}",
                habit=h["id"],
                stage=say(h["stage"]),
                rule=visible(h["rule"]),
            )
        )
        print("  → " + say("`habitus forget {habit}` lets it go, too.", habit=h["id"]))
    if r["proposal"]:
        print(
            say(
                "Weights were trained on them. {ref} asks to train anew without: `habitus proposals show {ref}`.",
                ref=r["proposal"],
            )
        )


def why(r: Json) -> None:
    """From a habit back to its words."""
    print(f"{r['habit']}  {visible(r['rule'])}")
    for part in r["parts"]:
        worn = {"who": r["self"], "adapter": part["adapter"], "weight": part["weight"], "stage": say(part["stage"])}
        print("  " + say("speaks in {who}: {adapter} × {weight} ({stage})", **worn))
    if r["put_aside"]:
        print("  " + say("put aside now: it was taken back, or a line of the mask overrules it"))
    if r["in_mask"]:
        print("  " + say("stands in the mask"))
    if not r["parts"] and not r["in_mask"]:
        print("  " + say("does not speak now"))
    print("\n" + say("Its road:"))
    for step in r["road"]:
        told = say("turns {turns}, kept {kept}", turns=", ".join(step["evidence"]) or "–", kept=step["kept"])
        print(f"  {_local(step['at'])}  {padded(say(step['stage']), 9)} {told}  {visible(recorded(step['reason']))}")
    print("\n" + say("The words it rests on:"))
    for t in r["evidence"]:
        judged = (
            f"  [{say(t['verdict']['kind'])} {t['verdict']['value']}: {visible(t['verdict']['reason'])}]"
            if t["verdict"]
            else ""
        )
        print(f"  {t['turn_id']:<5} {_local(t['at'])[:10]}  {visible(t['user']) or say('(erased)')}{judged}")
    for p in r["proposals"]:
        rows = {"examples": p["examples"], "turns": len(p["from_turns"]), "gone": p["tombstones"]}
        print(
            f"\n{p['id']}: {say(p['kind'])} ({say(p['status'])})  "
            + say("{examples} rows of its own, {turns} from your turns, {gone} erased", **rows)
        )
        print(f"  {visible(recorded(p['rationale']))}")
        for d in p["decisions"]:
            print(f"  {_local(d['at'])}  {say(d['verdict'])}  {visible(recorded(d['note']))}")
        for run in p["runs"]:
            print(
                f"  {_local(run['at'])}  {run['id']}  {run['adapter'] or visible(recorded(run['failure']))}  {run['seconds']:.0f} s"
            )
        if p["gate"]:
            print("  " + ", ".join(f"{recorded(name)} {share:.0%}" for name, share in p["gate"].items()))


def diff(r: Json) -> None:
    """Two selves side by side."""
    for title, unlike in ((say("Weights"), r["parts"]), (say("Rules"), r["rules"]), (say("Settings"), r["settings"])):
        if unlike:
            print(f"{title}:")
        for name, (a, b) in unlike.items():
            print(f"  {visible(name)}\n    {r['a']}  {_one_line(a)}\n    {r['b']}  {_one_line(b)}")
    print(say("Answers that differ: {count} of {asked}", count=len(r["answers"]), asked=r["asked"]))
    for said in r["answers"]:
        print(f"  {visible(said['text'])}\n    {r['a']}  {visible(said['a'])}\n    {r['b']}  {visible(said['b'])}")


def rebuilt(r: Json) -> None:
    """Whether the ledger gave the same bytes again."""
    for a in r["adapters"]:
        if a["digest"] == a["rebuilt"]:
            print("✓ " + say("{adapter}: the same bytes again", adapter=a["adapter"]))
        else:
            print("✗ " + say("{adapter}: other bytes ({found} instead of {known}); was it another machine or version?",
                             adapter=a["adapter"], found=a["rebuilt"][:12], known=a["digest"][:12]))  # fmt: skip
    if not r["adapters"]:
        print(say("{who} wears no adapters.", who=r["self"]))


def exported(r: Json) -> None:
    """Where the weights went, how near they are, and what takes them from there."""
    from agent.settings import ServingTable

    for e in r["exported"]:
        how = say("exact") if not e["error"] else say("{error:.2%} of the change is lost", error=e["error"])
        print(f"✓ {e['path']}: " + say("rank {rank}", rank=e["rank"]) + f", {how}")
    served = [f"{e['language']}={e['path']}" for e in r["exported"]]
    most = max(e["rank"] for e in r["exported"])
    allowed = get_args(ServingTable.model_fields["rank"].annotation)  # vLLM takes no other
    rank = min((n for n in allowed if n >= most), default=most)
    words = ["vllm", "serve", r["base"], "--enable-lora", "--max-lora-rank", str(rank), "--lora-modules", *served]
    print(say("Its mask is not in it. To serve it:"), shlex.join(words), sep="\n  ")


def _one_line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "–"
    return "–" if value is None else visible(str(value))


def lid(r: Json) -> None:
    """The prompt layer by layer, and three ways in which the next word could be chosen."""
    layers = r["layers"]
    mask = layers["mask"]
    named = [
        (say("base"), layers["base"]),
        (say("persona"), mask["persona"]),
        (say("mood"), mask["mood"]),
        (say("rules"), mask["rules"]),
        (say("example dialogues"), [" → ".join(pair) for pair in mask["few_shot"]]),
        (say("memory"), layers["memory"]),
        (say("history"), [" → ".join(pair) for pair in layers["history"]]),
        (say("tools"), ", ".join(layers["tools"])),
        (say("weights"), [f"{w['adapter']} × {w['weight']:g}" for w in layers["weights"]]),
    ]
    for name, value in named:
        lines = value if isinstance(value, list) else [value]
        for i, line in enumerate(filter(None, lines or ["–"])):
            print(f"{padded(name if i == 0 else '', 20)}{visible(line)}")
    print("\n" + say("the prompt, {tokens} tokens, as it is read:", tokens=r["tokens"]))
    print(visible(r["prompt"]).replace(" ⏎ ", "\n"))
    print("\n" + say("the first word:"))
    heads = {"self": r["self"], "without its weights": say("without its weights"), "base": say("base")}
    for key, steps in r["next"].items():
        print(f"  {heads[key]}")
        for step in steps:
            likely = "  ".join(f"{visible(t['token'])!r} {t['p']:.0%}" for t in step["top"][:5])
            print(f"    {padded(step['step'], 22)}{likely}")


def command(found: Json) -> None:
    """A command line as a shell takes it."""
    settings = [f"{k}={shlex.quote(v)}" for k, v in found["environment"].items()]
    print(" ".join([*settings, *map(shlex.quote, found["command"])]))


def serving(found: Json) -> None:
    """What became of the model server."""
    match found["event"]:
        case "starting":
            print(say("starting vLLM at {url} … (a minute or more)", url=found["url"]), flush=True)
        case "ready":
            print(
                say(
                    "ready after {seconds} s; every other command of this bag now speaks through it. Ctrl-C ends it.",
                    seconds=found["seconds"],
                ),
                flush=True,
            )
        case "listening":
            print(
                say(
                    "listening at {url}/v1; docs at {docs}. Ctrl-C ends it."
                    if found["docs"]
                    else "listening at {url}/v1. Ctrl-C ends it.",
                    url=found["url"],
                    docs=found["docs"],
                ),
                flush=True,
            )
        case "died":
            print(
                say("it ended by itself (code {code}); its last words are in {log}", **found),
                file=sys.stderr,
                flush=True,
            )
        case _:
            print(say("stopped; the model runs in each process again."), flush=True)
