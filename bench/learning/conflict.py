"""A new rule against the one before it: of twenty contradicting pairs, how often does the newer win?

A being is told one rule of a family after another. Each is examined twice: as it is told, with its line
in the mask against the older one in the weights, and after it was learned.
"""

from __future__ import annotations

from collections.abc import Callable

from app.habitus import Habitus
from bench.learning.lessons import Json, Lesson, Site, learn, lived, replies
from prompts import Language

CHAINS: dict[str, tuple[Language, str, tuple[str, ...]]] = {
    "ko-ending": ("ko", "모든 대답 끝에 '{}'을 붙여 줘.", ("꾸벅", "멍멍", "총총", "폴짝", "얍", "반짝")),
    "en-name": ("en", "Call me '{}'.", ("Zephyr", "Captain", "Wumbo", "Glimmer", "Quokka", "Yowza")),
    "ko-name": ("ko", "나를 '{}'라고 불러 줘.", ("도롱이", "나비", "바다", "토끼", "두부", "모래")),
    "en-ending": (
        "en",
        "Always end your answers with '{}'.",
        ("zibble", "wokka", "floopy", "quokka", "wumbo", "glimmer"),
    ),
}
WINS = 0.9  # share of replies that show the newer word and none of the older ones


def conflicts(site: Site, chain: str, pairs: int, seed: int = 1) -> list[Json]:
    """One chain of ``pairs + 1`` rules; what came of the first, then of each against the one before it."""
    language, rule, words = CHAINS[chain]

    def newer(said: list[str], i: int) -> float:
        return sum(words[i] in a and not any(w in a for w in words[:i]) for a in said) / len(said)

    def stage(i: int) -> Callable[[Habitus], Json]:
        def told(being: Habitus) -> Json:
            lesson = Lesson(language, rule.format(words[i]), lambda a: words[i] in a)
            being.mask_add(lesson.rule)
            masked = newer(replies(being, language, masked=True), i)
            return learn(being, lesson, words[i]) | {"masked": masked, "newer": newer(replies(being, language), i)}

        return told

    return lived(site, f"conflict-{chain}", seed, [(words[i], stage(i)) for i in range(pairs + 1)])


def table(chains: list[list[Json]]) -> str:
    pairs = [pair for chain in chains for pair in chain[1:]]
    seen = sum(bool(p["conflicts"]) for p in pairs)
    won, masked = (sum(p[k] >= WINS for p in pairs) for k in ("newer", "masked"))
    lines = [
        "| contradicting pairs | of | goal |", "|---|---|---|",
        f"| the newer rule wins once learned | {won} of {len(pairs)} | ≥ 19 of 20 |",
        f"| the newer rule wins as soon as it is told | {masked} of {len(pairs)} | |",
        f"| the proposal names the conflict | {seen} of {len(pairs)} | |",
        f"| promoted | {sum(p['promoted'] for p in pairs)} of {len(pairs)} | |",
    ]  # fmt: skip
    return "\n".join(lines)
