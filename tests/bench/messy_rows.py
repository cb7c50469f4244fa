"""Rows with planted near-duplicates, and rows of the same form that say something else: seeded, in
English and Chinese."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

EN = {
    "name": "Anna Bell|Omar Reed|Julia Stone|Peter Novak|Grace Kim|Liam Byrne|Sofia Rossi|Noah Fischer|"
    "Emma Dubois|Lucas Silva|Mia Jensen|Ivan Petrov|Chloe Martin|Hugo Weber|Nora Haddad|Felix Wolf",
    "city": "Leeds|Bristol|Dublin|Oslo|Porto|Vienna|Krakow|Ghent|Lyon|Turin|Aarhus|Tampere|Basel|Graz|"
    "Malmo|Bergen|Utrecht|Bilbao|Split|Brno",
    "thing": "garden chair|desk lamp|travel kettle|rain jacket|bread knife|phone case|picture frame|"
    "hand mixer|bicycle pump|wall clock|water bottle|tent pole|sewing kit|coffee grinder|baby monitor",
    "colour": "blue|green|red|grey|white|black|yellow|brown",
    "issue": "its handle came off|the surface is scratched|a screw is missing|it smells of smoke|"
    "the lid does not close|it stopped working after two days|the manual is in the wrong language|"
    "one corner is bent|the colour is not the one on the page|it makes a loud noise",
}
EN_OPEN = (
    "I bought a {colour} {thing} in your shop in {city} and {issue}, so I am not happy with it.",
    "My order {number} with the {colour} {thing} came to {city} yesterday, but {issue}.",
    "{name} from your store in {city} sold me a {colour} {thing}, and now {issue} although it is new.",
    "We ordered {small} pieces of the {colour} {thing} for our office in {city} and with one {issue}.",
)
EN_DETAIL = (
    "The receipt has the number {number} and the price was {small} euros with delivery.",
    "I wrote to {name} about it {small} days ago and nobody has answered me since then.",
    "The parcel was left with {name} next door, who says that the box was already open.",
    "It was a present for {name}, and the party is in {small} days from now.",
)
EN_ASK = (
    "How can I send it back and get my money?",
    "Can you send me another one before the end of the week?",
    "Who pays for the way back if I return it by post?",
    "Is there a shop near {city} where somebody can repair it?",
)
EN_ANSWER = (
    "We are sorry about that; please print the label that we sent and bring the box to any post office.",
    "You can exchange it within {small} days; show the receipt {number} at the desk and ask for {name}.",
    "A colleague will call you back, and the new {thing} leaves our store in {city} today.",
)

ZH = {
    "name": "王芳|李伟|张敏|刘洋|陈静|杨磊|赵强|黄丽|周涛|吴娟|徐明|孙燕|马超|朱琳|胡军|郭雪|何勇|林峰",
    "city": "北京|上海|广州|深圳|杭州|成都|武汉|西安|南京|青岛|长沙|厦门|昆明|大连|苏州|宁波",
    "thing": "花园椅|台灯|电热水壶|雨衣|面包刀|手机壳|相框|打蛋器|打气筒|挂钟|保温杯|针线盒|咖啡机|书架",
    "colour": "蓝色|绿色|红色|灰色|白色|黑色|黄色|棕色",
    "issue": "把手掉了|表面有划痕|少了一颗螺丝|有一股烟味|盖子关不上|用了两天就坏了|说明书是外文的|"
    "有一个角弯了|颜色和网页上的不一样|声音特别大",
}
ZH_OPEN = (
    "我在你们{city}的门店买了一个{colour}的{thing}，可是{issue}，我对此很不满意。",
    "我的订单{number}昨天送到了{city}，里面是{colour}的{thing}，但是{issue}。",
    "你们{city}店的{name}卖给我一个{colour}的{thing}，现在{issue}，明明还是新的。",
    "我们公司在{city}订购了{small}个{colour}的{thing}，其中一个{issue}。",
)
ZH_DETAIL = (
    "收据上的编号是{number}，连运费一共花了{small}元。",
    "{small}天前我就写信告诉了{name}，一直没有人回复我。",
    "包裹放在隔壁{name}那里，他说箱子送来的时候已经打开了。",
    "这是送给{name}的礼物，聚会就在{small}天以后。",
)
ZH_ASK = (
    "我应该怎么退货并且拿回货款？",
    "能不能在这个星期之内给我换一个新的？",
    "如果我通过邮局寄回去，运费由谁来承担？",
    "{city}附近有没有可以修理它的地方？",
)
ZH_ANSWER = (
    "非常抱歉给您带来不便，打印我们发送的标签，把箱子送到任何一家邮局就可以了。",
    "您在{small}天之内都可以换货，到柜台出示收据{number}，找{name}就行。",
    "我们的同事会给您回电话，新的{thing}今天就从{city}的仓库发出。",
)


@dataclass(frozen=True)
class PlantedRow:
    """A row, and what it says."""

    question: str
    answer: str
    group: int
    """Rows of one group say the same."""
    edit: str
    """How it differs from the first of its group; empty for that one."""
    language: str


@dataclass
class _Language:
    code: str
    words: dict[str, list[str]]
    parts: tuple[tuple[str, ...], ...]
    edits: dict[str, Callable[[random.Random, str], str]]


def planted(num_rows: int, share: float, seed: int) -> list[PlantedRow]:
    """So many rows, of which about `share` are near-duplicates of others; all in random order. Many
    of the others have the form of another row and differ in a number, a name, or one word."""
    drawn = random.Random(seed)
    rows: list[PlantedRow] = []
    seen: set[tuple[str, str]] = set()
    group = 0
    for language, said in _facts(drawn):
        if len(rows) >= num_rows:
            break
        texts = _text(language, *said)
        if texts in seen:
            continue
        seen.add(texts)
        rows.append(PlantedRow(*texts, group, "", language.code))
        while drawn.random() < share / (1 - share) and len(rows) < num_rows:
            edits = BEYOND[language.code] if drawn.random() < BEYOND_SHARE else language.edits
            edit = drawn.choice(list(edits))
            question = edits[edit](drawn, texts[0])
            if question != texts[0]:
                rows.append(PlantedRow(question, texts[1], group, edit, language.code))
        group += 1
    drawn.shuffle(rows)
    return rows


Said = tuple[tuple[str, ...], dict[str, str]]


def _facts(drawn: random.Random) -> Iterator[tuple[_Language, Said]]:
    """What rows say, each followed by up to three that differ in one thing."""
    while True:
        language = drawn.choice(LANGUAGES)
        parts = tuple(drawn.choice(part) for part in language.parts)
        slots = {name: drawn.choice(words) for name, words in language.words.items()}
        slots |= {
            "number": str(drawn.randrange(10_000, 999_999)),
            "small": str(drawn.randrange(2, 90)),
        }
        yield language, (parts, slots)
        for _ in range(drawn.randrange(4)):
            name = drawn.choice([*language.words, "number", "small"])
            other = (
                str(int(slots[name]) + drawn.randrange(1, 9))
                if name in ("number", "small")
                else drawn.choice(language.words[name])
            )
            yield language, (parts, {**slots, name: other})


def _text(language: _Language, parts: tuple[str, ...], slots: dict[str, str]) -> tuple[str, str]:
    filled = [part.format(**slots) for part in parts]
    join = " " if language.code == "en" else ""
    return join.join(filled[:-1]), filled[-1]


def _typo(drawn: random.Random, text: str) -> str:
    """Two letters of a word of six letters or more change places, in small words alone."""
    words = text.split(" ")
    long = [
        at for at, word in enumerate(words) if word.isalpha() and word.islower() and len(word) >= 6
    ]
    if not long:
        return text
    at = drawn.choice(long)
    word = words[at]
    place = drawn.randrange(1, len(word) - 2)
    words[at] = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    return " ".join(words)


def _between(text: str, drawn: random.Random, mark: str) -> str:
    """A mark, or for an empty one the letter itself once more, behind a Chinese letter before
    another: in the middle of a number it would make another of it."""
    places = [
        at
        for at in range(1, len(text))
        if min(text[at - 1 : at + 1]) >= "\u4e00" and max(text[at - 1 : at + 1]) <= "\u9fff"
    ]
    at = drawn.choice(places)
    return text[:at] + (mark or text[at - 1]) + text[at:]


def _synonym(drawn: random.Random, text: str) -> str:
    pairs = {
        "bought": "purchased",
        "shop": "store",
        "parcel": "package",
        "present": "gift",
        "repair": "fix",
        "ordered": "requested",
        "happy": "pleased",
    }
    there = [word for word in pairs if f" {word}" in text]
    return text.replace(f" {there[0]}", f" {pairs[there[0]]}", 1) if there else text


def _homophone(drawn: random.Random, text: str) -> str:
    pairs = {
        "门店": "门电",
        "收据": "收具",
        "包裹": "包果",
        "礼物": "礼务",
        "订单": "定单",
        "公司": "公思",
    }
    there = [word for word in pairs if word in text]
    return text.replace(there[0], pairs[there[0]], 1) if there else text


def _dropped_word(drawn: random.Random, text: str) -> str:
    there = [
        word for word in (" already", " yesterday", " nobody", " now", " next") if word in text
    ]
    there = [word for word in there if word != " nobody"]
    return text.replace(there[0], "", 1) if there else text


EN_EDITS: dict[str, Callable[[random.Random, str], str]] = {
    "case": lambda _, text: text.upper(),
    "punctuation": lambda _, text: text.replace(",", "").replace(".", " -").replace("?", "??"),
    "spaces": lambda drawn, text: text.replace(" ", "  ", drawn.randrange(1, 9)),
    "greeting": lambda drawn, text: drawn.choice(("Hello, ", "Hi! ", "Hey there, ")) + text,
    "thanks": lambda drawn, text: (
        text + drawn.choice((" Thank you!", " Thanks a lot.", " Many thanks in advance."))
    ),
    "slip of the pen": _typo,
    "a word fewer": _dropped_word,
}
ZH_EDITS: dict[str, Callable[[random.Random, str], str]] = {
    "width": lambda _, text: text.replace("，", ",").replace("。", ".").replace("？", "?"),
    "punctuation": lambda _, text: text.replace("，", " ").replace("。", "！"),
    "spaces": lambda drawn, text: _between(text, drawn, " "),
    "greeting": lambda drawn, text: drawn.choice(("您好，", "你好！", "请问，")) + text,
    "thanks": lambda drawn, text: text + drawn.choice(("谢谢！", "麻烦您了。", "非常感谢。")),
    "a letter twice": lambda drawn, text: _between(text, drawn, ""),
    "particle": lambda drawn, text: text.replace("了", "", 1).replace("的", "", 1),
}
BEYOND: dict[str, dict[str, Callable[[random.Random, str], str]]] = {
    "en": {"synonym": _synonym},
    "zh": {"homophone": _homophone},
}
"""What no comparison of words can tell from another fact; without a bar."""
BEYOND_SHARE = 0.1
BEYOND_EDITS = {edit for edits in BEYOND.values() for edit in edits}
LANGUAGES = [
    _Language(
        "en",
        {name: words.split("|") for name, words in EN.items()},
        (EN_OPEN, EN_DETAIL, EN_ASK, EN_ANSWER),
        EN_EDITS,
    ),
    _Language(
        "zh",
        {name: words.split("|") for name, words in ZH.items()},
        (ZH_OPEN, ZH_DETAIL, ZH_ASK, ZH_ANSWER),
        ZH_EDITS,
    ),
]


def as_record(row: PlantedRow) -> dict[str, Any]:
    """The row as a line of a data file."""
    return {"prompt": row.question, "completion": row.answer}
