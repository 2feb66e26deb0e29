"""What a habit leaves behind when it is let go, and how it fades with its weight."""

from __future__ import annotations

from agent.ports import BASE, Voice
from app.habitus import Habitus
from bench.learning.lessons import LESSONS, Json, Site, asked, judged, learn, lived, replies, share

WEIGHTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
PAIRS = (("ko-ending", "ko-name"), ("en-name", "en-ending"))  # learned, and learned besides


def forgetting(site: Site, pair: tuple[str, str], seed: int = 1) -> list[Json]:
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
        for habit in [h.id for h in being.habits() if h.rule == gone.rule]:  # none where the gate refused it
            being.forget(habit)
        return examined(being)

    return lived(site, f"forgetting-{pair[0]}", seed, [("learn", first), ("besides", second), ("forget", third)])


def table(runs: list[list[Json]]) -> str:
    lines = ["| forgotten | never learned | learned | with another | forgotten | the other before → after | judgements after | weight → still followed |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for one, two, three in runs:
        curve = ", ".join(f"{w} {s:.0%}" for w, s in one["curve"].items())
        lines.append(
            f"| {one['habit']} | {one['never']:.0%} | {one['gone']:.0%} | {two['gone']:.0%} | {three['gone']:.0%} "
            f"| {two['stays']:.0%} → {three['stays']:.0%} | {three['judged']:.0%} | {curve} |"
        )
    return "\n".join(lines)
