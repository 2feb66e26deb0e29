"""What a habit leaves behind when it is let go, and how it fades with its weight."""

from __future__ import annotations

from agent.ports import BASE, Voice
from app.habitus import Habitus
from bench.learning.lessons import LESSONS, Json, Site, asked, judged, learn, lived, replies, share, spread

WEIGHTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
PAIRS = (("ko-ending", "ko-name"), ("en-name", "en-ending"))  # learned, and learned besides


def forgetting(site: Site, pair: tuple[str, str], seed: int) -> list[Json]:
    """Learn the first habit, weigh it down, learn the second into the same core, forget the first."""
    gone, stays = LESSONS[pair[0]], LESSONS[pair[1]]

    def examined(being: Habitus) -> Json:
        said = replies(being, gone.language)
        return {"gone": share(gone, said), "stays": share(stays, said), "judged": judged(being)}

    def first(being: Habitus) -> Json:
        prompts = asked([], gone.language)
        never = share(gone, being.bag.body.answers(prompts, BASE))
        learned = learn(being, gone, pair[0])
        voice = being.bag.selves.voice(being.bag.selves.current(), gone.language)
        curve = {}
        for weight in WEIGHTS:
            lighter = Voice(tuple((path, weight) for path, _ in voice.parts))
            curve[str(weight)] = share(gone, being.bag.body.answers(prompts, lighter))
        return learned | examined(being) | {"never": never, "curve": curve}

    def second(being: Habitus) -> Json:
        return learn(being, stays, pair[1]) | examined(being)

    def third(being: Habitus) -> Json:
        moved: dict[str, float] = {}
        for habit in [h.id for h in being.habits() if h.rule == gone.rule]:  # none where the gate refused it
            gate = being.forget(habit)["gate"]
            moved = {
                p["name"]: p["after"] - p["before"] for p in gate["probes"] if p["count"] and p["name"] != "released"
            }
        return examined(being) | {"moved": moved}

    return lived(site, f"forgetting-{pair[0]}-{seed}", seed, [("learn", first), ("besides", second), ("forget", third)])


def table(runs: list[list[Json]]) -> str:
    """A line for each habit forgotten, over the seeds."""
    lines = ["| forgotten | never learned | learned | with another | forgotten | the other, before | after | most that any other probe of the gate fell, points | judgements after |", "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    curves = [
        "| weight of the part, % still followed | " + " | ".join(map(str, WEIGHTS)) + " |",
        "|---" * (len(WEIGHTS) + 1) + "|",
    ]
    for name in dict.fromkeys(one["habit"] for one, _, _ in runs):
        ones, twos, threes = zip(*(r for r in runs if r[0]["habit"] == name), strict=True)
        cells = [(ones, "never"), (ones, "gone"), (twos, "gone"), (threes, "gone"), (twos, "stays"), (threes, "stays")]
        shares = [spread([100 * stage[what] for stage in stages]) for stages, what in cells]
        shares.append(spread([-100 * min(0, *stage["moved"].values()) for stage in threes if stage["moved"]], ""))
        shares.append(spread([100 * stage["judged"] for stage in threes]))
        lines.append(f"| {name} | {' | '.join(shares)} |")
        faded = [spread([100 * one["curve"][str(w)] for one in ones], "") for w in WEIGHTS]
        curves.append(f"| {name} | {' | '.join(faded)} |")
    return "\n".join([*lines, "", *curves])
