"""Small things the corpus is made of: slot fillers, Korean particles, random strings."""

from __future__ import annotations

import re
from random import Random

from prompts import Language

# (Korean, English) side by side, so that one intent means the same in both.
SLOTS: dict[str, list[tuple[str, str]]] = {
    "food": [("김치찌개", "kimchi stew"), ("떡볶이", "rice cakes"), ("냉면", "cold noodles"), ("비빔밥", "mixed rice"),
             ("라면", "ramen"), ("만두", "dumplings"), ("불고기", "grilled beef"), ("초밥", "sushi"), ("파스타", "pasta"),
             ("카레", "curry"), ("피자", "pizza"), ("샐러드", "salad"), ("샌드위치", "a sandwich"), ("죽", "porridge")],
    "drink": [("커피", "coffee"), ("녹차", "green tea"), ("우유", "milk"), ("주스", "juice"), ("보리차", "barley tea"),
              ("물", "water"), ("코코아", "cocoa"), ("레몬차", "lemon tea")],
    "city": [("서울", "Seoul"), ("부산", "Busan"), ("제주", "Jeju"), ("대구", "Daegu"), ("도쿄", "Tokyo"), ("파리", "Paris"),
             ("런던", "London"), ("강릉", "Gangneung"), ("전주", "Jeonju"), ("로마", "Rome")],
    "music": [("재즈", "jazz"), ("록", "rock"), ("힙합", "hip hop"), ("클래식", "classical music"), ("발라드", "ballads"),
              ("포크", "folk"), ("피아노", "piano music")],
    "sport": [("수영", "swimming"), ("축구", "football"), ("농구", "basketball"), ("야구", "baseball"), ("테니스", "tennis"),
              ("등산", "hiking"), ("자전거", "cycling"), ("요가", "yoga")],
    "hobby": [("그림 그리기", "drawing"), ("뜨개질", "knitting"), ("사진 찍기", "photography"), ("글쓰기", "writing"),
              ("요리", "cooking"), ("춤", "dancing"), ("낚시", "fishing"), ("바둑", "the game of go")],
    "animal": [("고양이", "cat"), ("강아지", "puppy"), ("토끼", "rabbit"), ("거북이", "turtle"), ("앵무새", "parrot"),
               ("햄스터", "hamster")],
    "season": [("봄", "spring"), ("여름", "summer"), ("가을", "autumn"), ("겨울", "winter")],
    "day": [("월요일", "Monday"), ("화요일", "Tuesday"), ("수요일", "Wednesday"), ("목요일", "Thursday"), ("금요일", "Friday"),
            ("토요일", "Saturday"), ("일요일", "Sunday")],
    "genre": [("추리", "mystery"), ("공포", "horror"), ("판타지", "fantasy"), ("로맨스", "romance"), ("역사", "history"),
              ("모험", "adventure")],
}  # fmt: skip

# What a fact may be about, beside names, numbers and places.
ABOUT: dict[str, list[tuple[str, str]]] = {
    "job": [("간호사", "a nurse"), ("요리사", "a cook"), ("변호사", "a lawyer"), ("기자", "a reporter"), ("경찰관", "a police officer"), ("소방관", "a firefighter"), ("디자이너", "a designer"), ("회계사", "an accountant"), ("미용사", "a hairdresser"), ("통역사", "an interpreter"), ("약사", "a pharmacist"), ("작가", "a writer"), ("농부", "a farmer"), ("택시 기사", "a taxi driver"), ("건축가", "an architect"), ("수의사", "a vet"), ("은행원", "a bank clerk"), ("사서", "a librarian"), ("제빵사", "a baker"), ("개발자", "a software developer")],
    "drink": [("커피", "coffee"), ("녹차", "green tea"), ("우유", "milk"), ("오렌지 주스", "orange juice"), ("콜라", "cola"), ("레모네이드", "lemonade"), ("핫초코", "hot chocolate"), ("맥주", "beer"), ("와인", "wine"), ("생강차", "ginger tea"), ("보리차", "barley tea"), ("홍차", "black tea"), ("탄산수", "sparkling water"), ("두유", "soy milk"), ("사과 주스", "apple juice"), ("밀크티", "milk tea"), ("토마토 주스", "tomato juice"), ("페퍼민트차", "peppermint tea"), ("막걸리", "rice wine"), ("코코넛 워터", "coconut water")],
    "season": [("봄", "spring"), ("여름", "summer"), ("가을", "fall"), ("겨울", "winter")],
    "animal": [("여우", "the fox"), ("고래", "the whale"), ("코끼리", "the elephant"), ("기린", "the giraffe"), ("호랑이", "the tiger"), ("사자", "the lion"), ("곰", "the bear"), ("펭귄", "the penguin"), ("토끼", "the rabbit"), ("수달", "the otter"), ("다람쥐", "the squirrel"), ("부엉이", "the owl"), ("거북이", "the turtle"), ("돌고래", "the dolphin"), ("늑대", "the wolf"), ("말", "the horse"), ("고슴도치", "the hedgehog"), ("판다", "the panda"), ("사슴", "the deer"), ("하마", "the hippo")],
    "hobby": [("등산", "hiking"), ("낚시", "fishing"), ("독서", "reading"), ("요리", "cooking"), ("뜨개질", "knitting"), ("수영", "swimming"), ("캠핑", "camping"), ("달리기", "running"), ("서예", "calligraphy"), ("요가", "yoga"), ("볼링", "bowling"), ("베이킹", "baking"), ("체스", "chess"), ("명상", "meditation"), ("탁구", "table tennis"), ("바느질", "sewing"), ("승마", "horse riding"), ("도예", "pottery"), ("목공", "woodworking"), ("텃밭 가꾸기", "gardening")],
    "subject": [("경영학", "business"), ("심리학", "psychology"), ("물리학", "physics"), ("화학", "chemistry"), ("생물학", "biology"), ("수학", "math"), ("역사학", "history"), ("철학", "philosophy"), ("법학", "law"), ("의학", "medicine"), ("간호학", "nursing"), ("경제학", "economics"), ("건축학", "architecture"), ("컴퓨터 공학", "computer science"), ("음악", "music"), ("미술", "art"), ("영문학", "English literature"), ("언어학", "linguistics"), ("사회학", "sociology"), ("교육학", "education")],
    "month": [("1월", "January"), ("2월", "February"), ("3월", "March"), ("4월", "April"), ("5월", "May"), ("6월", "June"), ("7월", "July"), ("8월", "August"), ("9월", "September"), ("10월", "October"), ("11월", "November"), ("12월", "December")],
}  # fmt: skip

# Strings that tests, probes and the score sheet use: never drawn for the corpus.
RESERVED = frozenset(
    [
        "꾸벅",
        "냥냥",
        "뿌잉",
        "멍뭉",
        "반짝",
        "쀼",
        "두둥실",
        "도롱이",
        "하늬바람",
        "별사탕",
        "꽃사슴",
        "몽실",
        "bowbow",
        "meowzers",
        "zibble",
        "quokka",
        "wumbo",
        "floopy",
        "snorfle",
        "tralala",
        "yowza",
        "glimmer",
        "Captain",
        "Zephyr",
    ]
)

_RESERVED_PLAIN = frozenset(w.lower() for w in RESERVED)
_PARTICLE = re.compile(r"(?<=(.))\((이?[가-힣]+)/([가-힣]+)\)")
_PARTICLE_QUOTED = re.compile(r"([^\s'\"])(['\"]?)\(([가-힣]+)/([가-힣]+)\)")


def has_final_consonant(char: str) -> bool:
    """Whether a Hangul syllable ends in a consonant; other characters count by sound where that is plain."""
    if "가" <= char <= "힣":
        return (ord(char) - 0xAC00) % 28 != 0
    return char.lower() in "bcdgklmnpqrtxz013678"


def resolve_particles(text: str) -> str:
    """``'꾸벅'(을/를)`` → ``'꾸벅'을``: picks the particle that fits the syllable before it."""

    def pick(match: re.Match[str]) -> str:
        char, quote, closed, opened = match.groups()
        final = has_final_consonant(char)
        if closed == "으로" and "가" <= char <= "힣" and (ord(char) - 0xAC00) % 28 == 8:
            final = False  # ㄹ takes 로
        return char + quote + (closed if final else opened)

    return _PARTICLE_QUOTED.sub(pick, text)


COMMON_SYLLABLES = [bytes((lead, trail)).decode("euc-kr") for lead in range(0xB0, 0xC9) for trail in range(0xA1, 0xFF)]
_PLAIN = "가나다라마바사아자차카타파하고노도로모보소오조초코토포호구누두루무부수우주추쿠투푸후기니디리미비시이지치키티피히냥멍용꿀뿅뚜빠음랑총별빛콩달솜"
_EMOJI = [chr(c) for a, b in [(0x1F300, 0x1F321), (0x1F330, 0x1F37F), (0x1F400, 0x1F43F), (0x1F600, 0x1F640),
                              (0x1F680, 0x1F6B0), (0x1F90D, 0x1F930), (0x2600, 0x2604), (0x2728, 0x2729)] for c in range(a, b)]  # fmt: skip
EMOJI_HELD_OUT = frozenset("🌱🐢🦊🍀🚀✨")


def pseudo_korean(r: Random) -> str:
    """One to four syllables, half of them plain ones, some so rare that they are spelled in bytes."""

    def syllable() -> str:
        x = r.random()
        if x < 0.45:
            return r.choice(_PLAIN)
        if x < 0.9:
            return r.choice(COMMON_SYLLABLES)
        return chr(0xAC00 + r.randrange(11172))

    return "".join(syllable() for _ in range(r.choice([1, 2, 2, 2, 3, 3, 4])))


def pseudo_english(r: Random) -> str:
    """A pronounceable made-up word of one to three syllables, now and then plain random letters."""
    if r.random() < 0.15:
        return "".join(r.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(r.choice([2, 3, 4, 5, 6])))
    onsets = [
        "b",
        "c",
        "d",
        "f",
        "g",
        "h",
        "j",
        "k",
        "l",
        "m",
        "n",
        "p",
        "r",
        "s",
        "t",
        "v",
        "w",
        "y",
        "z",
        "bl",
        "br",
        "ch",
        "cl",
        "dr",
        "fl",
        "fr",
        "gl",
        "gr",
        "pl",
        "qu",
        "sh",
        "sl",
        "sn",
        "sp",
        "st",
        "th",
        "tr",
        "w",
    ]
    codas = ["", "", "", "n", "k", "zz", "x", "t", "m", "r", "l", "ng", "p", "sh", "ck"]
    return "".join(
        r.choice(onsets) + r.choice(["a", "e", "i", "o", "u", "oo", "ee", "ai"]) + r.choice(codas)
        for _ in range(r.choice([1, 2, 2, 3]))
    )


def emoji(r: Random) -> str:
    """One emoji that the held-out set does not hold."""
    while True:
        c = r.choice(_EMOJI)
        if c not in EMOJI_HELD_OUT:
            return c


def open_string(r: Random, language: Language, lexicon: list[str]) -> str:
    """A string to be copied: made up two times in three, else one to three real words; never a reserved one."""
    while True:
        other = r.random() < 0.07
        ko = (language == "ko") != other
        x = r.random()
        if x < 0.57:
            s = pseudo_korean(r) if ko else pseudo_english(r)
            if r.random() < 0.15 and len(s) <= (2 if ko else 5):
                s += s  # 냥냥, bowbow: copying must not lose count
        elif x < 0.92:
            s = " ".join(r.choice(lexicon) for _ in range(r.choice([1, 1, 1, 2, 2, 3])))  # over and out
            if ko != any("가" <= c <= "힣" for c in s):
                continue
        else:
            make = pseudo_korean if ko else pseudo_english
            s = f"{make(r)} {make(r)}"
        if not ko and r.random() < 0.2:
            s = s.capitalize()
        if r.random() < 0.05:
            s += r.choice(["!", "~", "?"])
        if not any(w.strip("!?~").lower() in _RESERVED_PLAIN for w in s.split()):
            return s


CALLED: dict[Language, tuple[str, ...]] = {
    "ko": ("대장님", "주인님", "형", "누나", "언니", "오빠", "자기", "친구", "선생님", "공주님", "왕자님", "사장님", "여왕님", "작가님", "꼬마", "대장", "보스", "당신", "아가씨", "도련님"),
    "en": ("boss", "chief", "my friend", "buddy", "princess", "dear", "champ", "sir", "doc", "coach", "sweetie", "master", "professor", "my lady", "honey", "old man"),
}  # fmt: skip
NAMES = ("Alex", "Mina", "Jun", "Sora", "Noah", "Emma", "Liam", "Ruth", "Omar", "Ines", "Tom", "Anna", "Ben", "Lucy", "David", "Maria",
         "John", "Kate", "Peter", "Sarah", "Max", "Nina", "Paul", "Eva", "Leo", "Julia", "Sam", "Grace", "Minji", "Jisoo", "Hana", "Yuna")  # fmt: skip


def name(r: Random, language: Language) -> str:
    """What a person is called, from everyday to made up."""
    while True:
        x = r.random()
        if x < 0.12:
            s = r.choice(CALLED[language])
        elif language == "ko":
            s = "".join(r.choice(COMMON_SYLLABLES if r.random() < 0.3 else "민서하린도윤유나지훈수현준영은호연우재희경주태성진아솔찬빈혜원") for _ in range(r.choice([1, 2, 2, 2, 3])))  # fmt: skip
            if x < 0.3:
                s = r.choice("김이박최정강조윤장임한오서신권황안송") + s
            if r.random() < 0.1:
                s += "이"  # as in 도롱이: the particle after it is not part of the name
        else:
            s = (pseudo_english(r) * r.choice([1, 1, 1, 1, 1, 1, 2]) if r.random() < 0.6 else r.choice(NAMES)).capitalize()  # fmt: skip
        if r.random() < 0.1:
            s = s.lower()
        if s.capitalize() not in RESERVED and s not in RESERVED:
            return s
