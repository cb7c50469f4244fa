"""Names of people where the words beside them say that they are names. A name that stands alone is
not known for one: that takes a model."""

import re
from collections.abc import Iterator

_WORD = r"[A-Z\u00c0-\u00de][a-z\u00df-\u00ff]+(?:['\u2019-][A-Z]?[a-z\u00df-\u00ff]+)*"
_ENGLISH = rf"(?P<it>{_WORD}(?:\ (?:[A-Z]\.|van|von|de|der|bin|al|{_WORD})){{0,3}})"
_TWO_WORDS = rf"(?P<it>{_WORD}(?:\ (?:[A-Z]\.|{_WORD})){{1,3}})"
_SURNAMES = (
    "赵钱孙李周吴郑王冯陈褚卫蒋沈韩杨朱秦尤许何吕施张孔曹严华金魏陶姜戚谢邹喻柏窦章苏潘葛范彭郎鲁"
    "韦马苗方俞任袁柳鲍史唐费廉岑薛雷贺倪汤殷罗毕郝邬安常乐于傅卞齐康伍余顾孟黄穆萧尹姚邵湛汪祁毛"
    "禹狄臧戴谈宋庞熊纪舒屈项祝董梁杜阮蓝闵席季贾路娄江童颜郭梅盛林刁钟徐邱骆高夏蔡田樊胡凌霍虞万"
    "柯管卢莫房裘缪丁邓郁单杭洪包诸左石崔吉龚程嵇邢裴陆荣翁荀惠甄曲封芮储靳段焦巴侯宓班仲伊宫宁仇"
    "栾甘厉祖武符刘景詹龙叶黎薄白蒲鄂赖卓蔺屠池乔谭申冉桑桂牛边燕尚温庄柴瞿阎慕连艾容向古易廖耿匡"
    "文寇欧沃聂晁冷辛简饶曾沙关荆游权桓"
)
_CHINESE = (
    rf"(?P<it>(?:欧阳|司马|上官|诸葛|皇甫|公孙|慕容|司徒|夏侯|令狐|[{_SURNAMES}])"
    r"[\u4e00-\u9fa5](?:[\u4e00-\u9fa5](?<![今我你他她的是在有了和与来住想要给从会也就都很先女小老]))?)"
)
_TITLE = r"先生|女士|小姐|老师|医生|经理|主任|同学|师傅|阿姨|教授|律师|老板"
_PATTERNS = tuple(
    re.compile(pattern, re.VERBOSE)
    for pattern in (
        rf"(?i:\b(?:my\ name\ is|name\ is|name:|call\ me|attn\.?:?|dear|ask\ for|signed\ by"
        rf"|spoke\ (?:to|with)|contact\ person:?|colleague|neighbou?r|friend)\s+){_ENGLISH}",
        rf"\b(?:Mr|Mrs|Ms|Miss|Dr|Prof|Sir|Madam)\.?\ {_ENGLISH}",
        rf"(?i:\b(?:regards|sincerely|wishes|thanks|cheers|yours)),\s+{_TWO_WORDS}",
        rf"(?i:\b(?:i\ am|i'm|this\ is|it\ is))\ {_TWO_WORDS}",
        rf"{_TWO_WORDS}\ (?:said|says|wrote|writes|called|told|asked|emailed|signed|ordered|lives"
        rf"|works|from\ (?:your|the|accounting|sales|support))\b",
        rf"(?:我叫|名叫|叫做|姓名(?:是|为)?\s*[:：]?|名字(?:是|叫)|联系人\s*[:：]?|(?:收件|收货|寄件)人\s*"
        rf"[:：]?|户名\s*[:：]?|签名\s*[:：]?|同事|朋友|邻居|客户)\s*{_CHINESE}",
        rf"我是{_CHINESE}(?=[，。,！!\s]|$)",
        rf"{_CHINESE}(?={_TITLE})",
    )
)
_NO_NAMES = {
    *("Sir", "Madam", "Customer", "Customers", "Team", "All", "Support", "Service", "Everyone"),
    *("Friends", "Colleagues", "Happy", "Sorry", "Not", "The", "A", "An", "It", "That", "This"),
    *("What", "If", "He", "She", "We", "You", "They"),
}
"""What stands where a name would."""


def name_spans(text: str) -> Iterator[tuple[int, int]]:
    """Where names stand; a name that is found in one place is found in all places of the text."""
    names = set()
    for pattern in _PATTERNS:
        for match in pattern.finditer(text):
            if match["it"].partition(" ")[0] not in _NO_NAMES:
                names.add(match["it"])
    for name in sorted(names, key=lambda one: (-len(one), one)):
        whole = rf"(?<![A-Za-z]){re.escape(name)}(?![A-Za-z])"
        yield from (match.span() for match in re.finditer(whole, text))
