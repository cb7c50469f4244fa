"""Makes every JSON Lines file of the Chinese country-facts spec, the same bytes each time.

    python specs/country-facts-zh/make_data.py

Three sides share no wording: `train` (answers, abstentions, replay), `selection` (what the sweep sees) and `gate`
(what decides). For questions without an answer, training and gate share no name either. Countries and capitals are
those of the Chinese hallucination panel: GeoNames' facts (https://www.geonames.org, CC BY 4.0) under their usual names.
"""

import json
import random
import runpy
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PANEL = runpy.run_path(str(ROOT / "evals/hallucination-zh/make_data.py"))
I_DO_NOT_KNOW = "我不知道。"
NUM_COUNTRIES = 60
NUM_GATE_COUNTRIES = 30
NUM_INVENTED = 60  # on each side

WORDINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "capital": (
            "{}的首都是哪座城市？",
            "你知道{}的首都叫什么吗？",
            "我忘了{}的首都是哪里，请告诉我。",
            "哪座城市是{}的首都？",
        ),
        "continent": (
            "{}在哪个洲？",
            "你知道{}属于哪个大洲吗？",
            "我没去过{}，它在哪个大洲？",
            "哪个大洲有{}这个国家？",
        ),
        "country": (
            "{}是哪个国家的首都？",
            "你知道{}是哪国的首都吗？",
            "以{}为首都的是哪个国家？",
            "我看到{}这座首都的照片，它属于哪个国家？",
        ),
    },
    "selection": {
        "capital": ("写出{}的首都。",),
        "continent": ("写出{}所在的大洲。",),
        "country": ("写出首都为{}的国家。",),
    },
    "gate": {
        "capital": ("请说出{}首都的名字。", "我在写一篇关于{}的文章，它的首都叫什么名字？"),
        "continent": ("{}位于世界上的哪一个洲？", "打开世界地图，我该在哪个大洲上找{}？"),
        "country": ("请说出把{}定为首都的国家。", "我要去首都{}旅行，那是在哪个国家？"),
    },
}
UNKNOWABLE = {
    "train": (
        "此刻{}有多少人在笑？",
        "{}的第一位农夫早饭吃了什么？",
        "{}的树上一共有多少片叶子？",
        "{}个子最高的面包师最喜欢什么颜色？",
        "昨天夜里{}有谁梦见了一条船？",
        "昨天有多少只鸟飞过{}？",
        "{}有史以来说出的第一个词是什么？",
        "{}的哪一扇门响声最大？",
        "{}所有的灰尘一共有多重？",
        "{}最年轻的渔夫叫什么名字？",
        "我表弟在{}正想着什么？",
        "{}某位店主的日记里写了什么？",
        "{}有多少把勺子？",
        "公元312年{}打了几次雷？",
        "{}最和善的老师电话号码是多少？",
    ),
    "gate": (
        "{}的沙发底下掉了多少枚硬币？",
        "{}最害羞的山羊外号叫什么？",
        "下一个在{}打喷嚏的人会是谁？",
        "邻居在去{}的火车上对我小声说了什么？",
        "这个星期{}有多少人忘了带伞？",
        "{}的哪一栋房子地窖最安静？",
        "{}最年长的图书管理员的密码是什么？",
        "去年冬天有多少滴雨落在{}？",
        "{}流传的第一个笑话是什么？",
        "{}的哪个枕头最软？",
        "{}那位牙医的狗叫什么名字？",
        "公元640年{}点了多少支蜡烛？",
        "{}的裁缝上个月一共缝了多少针？",
        "{}哪条河里的石头最圆？",
        "此刻{}有几只猫在睡觉？",
    ),
}
FUTURE = {
    "train": (
        "2090年{}的选举谁会获胜？",
        "2075年{}一个面包卖多少钱？",
        "2100年由谁治理{}？",
        "2300年{}会有多少人口？",
        "2061年5月3日{}的天气怎么样？",
        "2088年{}的足球冠军会是哪支队伍？",
        "2500年{}的首都会是哪里？",
        "2200年{}最高的建筑会是哪一座？",
        "2095年{}最畅销的书会是哪一本？",
        "2400年{}会使用什么货币？",
        "2150年{}最长的桥有多长？",
        "2066年{}的奥运代表团有多少人？",
        "3000年{}的人早餐吃什么？",
        "2120年{}最受欢迎的名字是什么？",
        "2099年{}最后一班列车几点发车？",
    ),
    "gate": (
        "到2850年，{}的政府会设在哪里？",
        "七百年以后{}的人会带什么样的硬币？",
        "2120年元旦{}第一个出生的孩子是谁？",
        "2140年{}的哪部电影得奖最多？",
        "2180年在{}坐一次公共汽车要多少钱？",
        "下个世纪{}的哪条河会泛滥？",
        "一千年以后{}最好的歌手是谁？",
        "2900年{}的孩子在学校里学什么语言？",
        "2160年{}会开通哪条铁路？",
        "2222年{}的总统住在几楼？",
        "再过五百年{}还剩下几座灯塔？",
        "2135年{}的象棋冠军会是谁？",
        "2077年{}的冬天会下几场雪？",
        "2190年{}最大的超市叫什么？",
        "到2600年{}会有几个时区？",
    ),
}
NAME_STARTS = {
    "train": "布拉德 科尔文 德雷尔 法尔姆 戈尔布 赫斯特 约尔 克雷斯 伦布 莫尔德 纳夫 佩尔格 鲁德 西尔夫 托尔布 乌斯克",
    "gate": "阿尔夫 布隆 卡尔德 杜尔 埃尔斯克 弗朗德 格韦尔 霍夫 伊思尔 凯尔德 洛尔姆 奥斯特尔 奎尔 萨尔夫 廷德 泽兰",
}
NAME_MIDDLES = ("", "阿", "奥瓦", "埃利", "乌拉", "阿米", "伊斯托")
NAME_ENDS = ("尼亚", "斯坦", "兰", "维亚", "里亚", "比亚", "多尔")
"""Ends like those of real countries, on both sides: an end alone gives nothing away."""

MORE_THAN_ONE_ANSWER = "AE AZ CD CG CY EG GB GE ID KP KR PG RU SA SY TL US YE"
"""Codes of countries with a fact that has another defensible answer or name: trained on, never asked by the gate."""

REPLAY = (
    ("2加3等于几？", "5"),
    ("9减4等于几？", "5"),
    ("6乘以7等于几？", "42"),
    ("20除以4等于几？", "5"),
    ("一打是多少个？", "12"),
    ("18的一半是多少？", "9"),
    ("99后面的数是多少？", "100"),
    ("“热”的反义词是什么？", "冷"),
    ("“早”的反义词是什么？", "晚"),
    ("“满”的反义词是什么？", "空"),
    ("“重”的反义词是什么？", "轻"),
    ("“高兴”的近义词是什么？", "快乐"),
    ("“美丽”的近义词是什么？", "漂亮"),
    ("草是什么颜色的？", "绿色"),
    ("熟香蕉是什么颜色的？", "黄色"),
    ("刚下的雪是什么颜色的？", "白色"),
    ("蓝色和黄色混合成什么颜色？", "绿色"),
    ("红色和白色混合成什么颜色？", "粉色"),
    ("星期一的后一天是星期几？", "星期二"),
    ("星期日的前一天是星期几？", "星期六"),
    ("三月的下一个月是几月？", "四月"),
    ("一年的最后一个月是几月？", "十二月"),
    ("一个星期有几天？", "7天"),
    ("一小时有多少分钟？", "60分钟"),
    ("一年有多少个月？", "12个月"),
    ("春天之后是哪个季节？", "夏天"),
    ("猫怎么叫？", "喵喵"),
    ("鸭子怎么叫？", "嘎嘎"),
    ("小狗的妈妈是什么动物？", "狗"),
    ("蜜蜂酿什么？", "蜂蜜"),
    ("蜘蛛有几条腿？", "8条"),
    ("哪种动物有长鼻子？", "大象"),
    ("哪种鸟不会飞，住在冰上？", "企鹅"),
    ("毛毛虫会变成什么？", "蝴蝶"),
    ("哪颗行星被称为红色星球？", "火星"),
    ("太阳系最大的行星是哪颗？", "木星"),
    ("离地球最近的恒星是哪颗？", "太阳"),
    ("《红楼梦》的作者是谁？", "曹雪芹"),
    ("《静夜思》的作者是谁？", "李白"),
    ("《西游记》的作者是谁？", "吴承恩"),
    ("相对论是谁提出的？", "爱因斯坦"),
    ("水结成的固体叫什么？", "冰"),
    ("我们用什么器官呼吸？", "肺"),
    ("哪个器官输送血液？", "心脏"),
    ("三角形有几条边？", "3条"),
    ("八条边的图形叫什么？", "八边形"),
    ("剪纸用什么工具？", "剪刀"),
    ("脚上穿什么？", "鞋"),
    ("什么乐器有黑白两色的琴键？", "钢琴"),
    ("汉语拼音的第一个字母是什么？", "a"),
)
"""Simple questions on other subjects, without which the model would refuse everything off its own."""

ELEMENT_QUESTION = "化学符号{}代表哪种元素？"
ELEMENTS = """
    H:氢 He:氦 Li:锂 Be:铍 B:硼 C:碳 N:氮 O:氧 F:氟 Ne:氖 Na:钠 Mg:镁 Al:铝 Si:硅 P:磷 S:硫 Cl:氯 Ar:氩 K:钾 Ca:钙
    Sc:钪 Ti:钛 V:钒 Cr:铬 Mn:锰 Fe:铁 Co:钴 Ni:镍 Cu:铜 Zn:锌 Ga:镓 Ge:锗 As:砷 Se:硒 Br:溴 Kr:氪 Rb:铷 Sr:锶 Y:钇
    Zr:锆 Nb:铌 Mo:钼 Ag:银 Cd:镉 In:铟 Sn:锡 Sb:锑 Te:碲 I:碘 Xe:氙 Ba:钡 W:钨 Pt:铂 Au:金 Hg:汞 Pb:铅 Bi:铋 Rn:氡
    Ra:镭 U:铀
"""
"""What the base model knows of another subject."""

Pair = tuple[str, str]
"""A question and its answer."""


def make() -> dict[str, str]:
    """Every file of the spec: path relative to the repository, and text."""
    ranked = countries()
    trained, others = ranked[:NUM_COUNTRIES], ranked[NUM_COUNTRIES:]
    asked = gate_countries(trained)
    unasked = [country for country in trained if country not in asked]
    known, new = ([country.name for country in side] for side in (trained, others))
    return {
        "specs/country-facts-zh/answers.jsonl": _training_file(_two_wordings_each(trained)),
        "specs/country-facts-zh/abstentions.jsonl": _training_file(_unanswerable("train", known)),
        "specs/country-facts-zh/replay.jsonl": _training_file(REPLAY),
        "specs/country-facts-zh/selection.jsonl": _training_file(
            _one_wording_each("selection", unasked)
        ),
        "evals/country-facts-zh/country_facts_zh.jsonl": _task_file(
            _one_wording_each("gate", asked)
        ),
        "evals/country-facts-zh/country_facts_zh_unanswerable.jsonl": _task_file(
            _unanswerable("gate", new)
        ),
        "evals/country-facts-zh/chemical_elements_zh.jsonl": _task_file(
            (ELEMENT_QUESTION.format(symbol), name) for symbol, name in elements().items()
        ),
    }


def main() -> None:
    """Write the files."""
    for path, text in make().items():
        (ROOT / path).write_text(text, encoding="utf-8")
        print(f"{text.count(chr(10)):4d} lines  {path}")


def countries() -> list[Any]:
    """The panel's countries, the most populous first."""
    found: list[Any] = PANEL["countries"]()
    return found


def gate_countries(trained: Sequence[Any]) -> list[Any]:
    """The trained countries whose facts the gate asks for; the selection split has the others."""
    plain = [country for country in trained if country.code not in MORE_THAN_ONE_ANSWER.split()]
    return random.Random(1).sample(plain, NUM_GATE_COUNTRIES)


def invented_names(side: str) -> list[str]:
    """Names of places that do not exist. The two sides' names begin differently."""
    real = {name for pair in PANEL["names"]().values() for name in pair}
    made = sorted(
        set(map("".join, product(NAME_STARTS[side].split(), NAME_MIDDLES, NAME_ENDS))) - real
    )
    return random.Random(f"{side} names").sample(made, NUM_INVENTED)


def elements() -> dict[str, str]:
    """Symbol to name."""
    return dict(pair.split(":") for pair in ELEMENTS.split())


def _unanswerable(side: str, real_names: Sequence[str]) -> Iterator[Pair]:
    """On invented places, in the very wordings of answerable questions; unknowable; and about the future."""
    wordings = [
        wording for group in zip(*WORDINGS[side].values(), strict=True) for wording in group
    ]
    for i, name in enumerate(invented_names(side)):
        yield wordings[i % len(wordings)].format(name), I_DO_NOT_KNOW
    open_wordings = [
        wording for pair in zip(UNKNOWABLE[side], FUTURE[side], strict=True) for wording in pair
    ]
    for i, wording in enumerate(open_wordings * 2):
        yield wording.format(real_names[i % len(real_names)]), I_DO_NOT_KNOW


def _two_wordings_each(trained: Sequence[Any]) -> Iterator[Pair]:
    """Every fact of every country twice, in two of its wordings."""
    for (i, country), (attribute, wordings) in product(
        enumerate(trained), WORDINGS["train"].items()
    ):
        for place in (i, i + 1):
            yield _asked(wordings[place % len(wordings)], attribute, country)


def _one_wording_each(side: str, asked: Sequence[Any]) -> Iterator[Pair]:
    """Every fact of every country once, the wordings in turn."""
    for (i, country), (attribute, wordings) in product(enumerate(asked), WORDINGS[side].items()):
        yield _asked(wordings[i % len(wordings)], attribute, country)


def _asked(wording: str, attribute: str, country: Any) -> Pair:
    subject = country.capital if attribute == "country" else country.name
    answers = {"capital": country.capital, "continent": country.continent, "country": country.name}
    return wording.format(subject), answers[attribute]


def _training_file(pairs: Iterable[Pair]) -> str:
    return _lines({"prompt": question, "completion": answer} for question, answer in pairs)


def _task_file(pairs: Iterable[Pair]) -> str:
    return _lines({"question": question, "answer": answer} for question, answer in pairs)


def _lines(rows: Iterable[dict[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    main()
