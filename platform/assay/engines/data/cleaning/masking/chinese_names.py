"""Names of people in Chinese text: a surname and what is written after it, weighed by how the
sentence is cut into words, by letters that names are made of, and by the words beside."""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

SURNAMES = (
    "王李张刘陈杨黄赵吴周徐孙朱胡郭林罗郑梁谢宋唐许邓韩冯曹彭曾肖蔡潘袁董苏魏吕蒋杜沈姚卢崔廖范姜谭"
    "邹熊孟秦薛侯雷邵龚郝贾韦顾尹阎傅戴欧"
)
"""Surnames that are frequent, and seldom words of their own."""
_FREQUENT = frozenset(SURNAMES)
_OTHER = frozenset(
    "钱卫褚尤何施孔严华金陶戚喻柏窦章葛奚郎鲁马苗花方俞任柳鲍史费廉岑贺倪汤殷毕邬安常乐于卞齐康伍"
    "余元卜穆萧湛汪祁毛禹狄臧谈庞纪舒屈项祝阮蓝闵席季路娄江童颜梅盛刁钟丘邱骆高夏田樊凌霍虞万柯管"
    "莫房裘缪丁宣邓郁单杭洪包诸左石吉嵇邢裴陆荣翁荀惠甄曲封芮储靳段焦巴牧谷车宓全班仲宁仇栾甘厉祖"
    "武符景詹龙叶司黎薄白蒲赖卓蔺屠乔谭申冉桑桂牛边燕尚温庄晏柴瞿慕连习艾容向古易廖耿满国文寇东沃"
    "苟盘巫居粟商羊翁邝揭束苌芦鞠茹宫隋敖聂晁冷辛简饶沙关荆游权桓程成田冒党岳帅翟闫付覃占佟代涂游米"
)
_DOUBLE_TEXT = """
欧阳 司马 上官 诸葛 皇甫 公孙 慕容 司徒 夏侯 令狐 端木 东方 南宫 尉迟 长孙 宇文 轩辕 独孤
"""
_DOUBLE = frozenset(_DOUBLE_TEXT.split())
GIVEN = (
    "伟芳娜秀英敏静丽强磊军洋勇艳杰娟涛明超兰霞平刚桂辉玲华红飞鹏波斌宇浩凯健俊帆帅旭宁龙林建文志国"
    "立永春海金玉梅琴云莲真环雪荣爱妹香月莺媛瑞凡佳嘉琼勤珍贞莉娣璧璐娅琦晶妍茜秋珊莎锦黛青倩婷姣婉"
    "娴瑾颖露瑶怡婵雁蓓纨仪荷丹蓉眉君琳淑惠珠翠雅芝萍莹钰欣彤昕晗睿轩梓涵诗雨桐子涛浩然思源泽宸沐"
    "若曦可馨一诺奕铭皓轩博哲瀚昊天佑安琪晨曦逸辰炎彬富顺信良才栋维启克伦翔毅泉坚峰学锋成康星光"
    "朗达胜祥福生武新利清贵忠义兴德东振壮雄根锁河亮政谦亨奇固之轮翰善厚庆友裕和贤先敬震行中茂进有"
    "宝珂培庚呦隆继承怀宏卫冬燕小书恒航长江洁慧蕾薇萌菲蓝岚冰爽琬灵媚盼仙倪妮紫娇丝婕姗楠岩民振"
    "秉瑜彦绍鸿禹森淼鑫焱垚宜荃聪少晓世家景孟南跃凤彩花美素银喜巧双吉礼仁礼昌盛全鲁鸣湘岳川京津琛"
    "杨阳洋柳悦甜彤珊健刚强涵菊兵军民畅想念盼望正直诚毅凌越川原野田苏桐楠枫松柏竹兰君临"
    "珏瑄璇玥芸苗苒蕊薰晴岫帅霄霆雷霖霏鹤鹰麟骏驰腾威猛烈勋勉励勤耘耕稼润泓澄澜沛沁淳渊源滨瀛溪"
)
"""Letters that given names are made of."""
_GIVEN_LETTERS = frozenset(GIVEN)
_NEVER = frozenset(
    "的了是在不有我你您他她它们这那哪谁什么吗呢吧啊呀哦嗯嘛就都也还又很太最更被把给让向从对为与及或但"
    "而且因所以如果则却只能会要想说讲问答看听吃喝走跑来去到过着地得个些每各某此该其已曾正将须没无非"
    "未别请叫做用买卖打开关上下里外前后左右间时候年月日号点分秒元块钱件种类次回版台辆条张只本页路街区"
    "签约订付找拿取退换收证件员者说"
    "市县省村镇州室楼层栋室部门厂店院校司局处科组队团党委会法令税率额款费价量数比第几多少两俩吨米斤"
)
"""Letters that no given name has, or hardly one."""

_NO_NAMES_TEXT = """
文明 文武 文雅 文昌 康熙 陆军 卫星 雷达 荣誉 荣幸 荣耀 黄石 古老 丘陵 武林 武功 武威 权威 胡同
白雪 白云 白玉 白金 白莲 白领 高峰 高明 高雅 高超 高强 高清 高新 高铁 高兴 高原 高中 高端 高温
高速 齐全 石英 石林 石龙 金山 金陵 金光 金莲 金黄 金秋 金牌 金平 洪水 洪山 洪武 洪亮 桂林 桂花
柏林 叶子 沙龙 康复 康宁 安娜 安静 安康 安龙 安然 安民 梅花 吉祥 吉利 范围 元帅 元宝 宁静 宁波
宁夏 华丽 华夏 华贵 左翼 黎明 向阳 温泉 温馨 龙凤 龙王 龙宫 田园 雷霆 江山 江海 江河 江湖 江浙
蓝天 蓝图 海关 乐山 乐天 常德 常青 和平 和谐 东升 东海 东方 成龙 成立 成功 明星 国王 国家 国立
满清 成仁 马克 马丽 马丁 乔木 童子 苏醒 万世 万福 万科 万达 平安 张家界 张家口 石家庄 花岗岩
黄金周 古建筑 胡萝卜 金字塔 许可证 安全性 夏威夷 黎巴嫩 巴格达 石英砂 古文化 秦始皇 秦皇岛
黄浦江 马拉松 金银花 白兰地 白玉兰 万年青 常春藤 安徽省 江西省 贵州省 金融家 文学家 平常心
温度计 成绩单 程序员 管理学 方程式 包装纸 高新区 高血压 高科技 高中生 毛衣 毛巾 毛利 元素 元旦
华为 高丽 安全 经理 金花 梅雨 林业 林木 林海 石化 石膏
"""
_NO_NAMES = frozenset(_NO_NAMES_TEXT.split())
"""Words that the dictionary, or their letters, would make names."""
_DECISIVE_BEFORE = re.compile(
    r"(?:(?:我|她|他|名)叫|叫做|名字[是叫]|(?:姓名|户名|签名|联系人|收件人|收货人|寄件人|经办人|负责人|申请人"
    r"|收款人|付款人|投诉人)(?:是|为)?\s?[：:])\s*$"
)
_DECISIVE_AFTER = re.compile(r"^\s?(?:先生|女士|小姐|同志|大爷|大妈|阿姨|师傅)")
_STRONG_BEFORE = re.compile(
    r"(?:(?:姓名|户名|签名|联系人|收件人|收货人|寄件人|经办人|负责人|申请人"
    r"|收款人|付款人|业主|投诉人|被告|原告|证人|法人|代表|签字|作者|主讲人?|顾客|买家|卖家|患者|病人|租客|房东|房客|经理|主任"
    r"|总监|主管|同事|同学|朋友|邻居|客户|客服|专员|顾问|快递员|骑手|司机|师傅|技师|护士|医生|大夫|老师"
    r"|教授|律师|法官|警官|会计|秘书|助理|员工|职员|学生|老板|队长|班长|组长|导师|记者|演员|选手"
    r"|妈妈|爸爸|母亲|父亲|儿子|女儿|丈夫|妻子|老公|老婆|先生|太太|哥哥|弟弟|姐姐|妹妹|爷爷|奶奶|叔叔"
    r"|阿姨|女友|男友|室友)(?:是|为|叫|名叫)?[：:]?|本人|[你您]好，?我是|(?<![\u4e00-\u9fa5])我是|我叫做?)\s*$"
)
_WEAK_BEFORE = re.compile(
    r"(?:^|[，。！？；：、“‘（(\s:,]|由|把|给|让|被|请|找|找一下|和|跟|与|同|向|对|是|叫|问|请问|听|据|根据"
    r"|感谢|谢谢|通知|邀请|联系|转交给|交给|联系到|麻烦|昨天|今天|明天|刚才|上周|已经|因为|如果|但是|以为"
    r"|认识|介绍|提到|遇到|见到|看到|等|帮|替|代|为|叫做|属于|来自|归|的)$"
)
_STRONG_AFTER = re.compile(
    r"^(?:（[签盖]|\s?(?:先生|女士|小姐|老师|医生|大夫|经理|主任|同学|师傅|阿姨|教授|律师|老板|总监|警官|法官"
    r"|同志|院士|博士|校长|院长|局长|书记|本人|您好|[你您]好|说|表示|认为|告诉|主持|负责|签字|收$))"
)
_WEAK_AFTER = re.compile(
    r"^(?:$|[，。！？；：、）)\s,.!?]|的|是|在|也|和|与|跟|给|不|下|签|转|打|写|讲|去|来|会|要|已|没|今年|今天"
    r"|昨天|明天|刚|把|将|被|让|向|对|参加|为|住|买|订|用|提|发|接|做|说|态度|请|又|还|就|都|从|曾|拿)"
)

TAGGED, CUT, FITTING, SURNAME = 3, 1, 1, 1
DECISIVE, STRONG, WEAK, SOME_WORD = 6, 3, 1, -6
ENOUGH = 6
"""So much is said for a name that is one."""


class _Candidate(NamedTuple):
    start: int
    end: int
    score: int


def chinese_names(text: str) -> set[str]:
    """The names in a text, as they are written."""
    if text.isascii():
        return set()
    cuts = _Cuts(text)
    best: dict[int, _Candidate] = {}
    for start, surname, end in _candidates(text):
        score = _score(text, start, surname, end, cuts)
        known = best.get(start)
        if score >= ENOUGH and (known is None or score > known.score):
            best[start] = _Candidate(start, end, score)
    names: set[str] = set()
    taken = 0
    for one in sorted(best.values()):
        if one.start >= taken:
            names.add(text[one.start : one.end])
            taken = one.end
    return names


class _Cuts:
    """Where the words of a text begin and end."""

    def __init__(self, text: str) -> None:
        import rjieba

        self.tags: dict[int, str] = {}
        """Of the word that begins there."""
        self.edges = {0}
        self.ends: dict[int, int] = {}
        at = 0
        for word, tag in rjieba.tag(text):
            self.tags[at] = tag
            self.ends[at] = at + len(word)
            at += len(word)
            self.edges.add(at)

    def is_name_from(self, place: int) -> bool:
        """Whether a word begins there that is taken for a name, or the half of one."""
        return self.tags.get(place, "").startswith("nr")


def _candidates(text: str) -> Iterator[tuple[int, int, int]]:
    """Start, end of the surname, and end, of one or two letters after each surname, the longer
    first."""
    for start, letter in enumerate(text):
        if text[start : start + 2] in _DOUBLE:
            surname = start + 2
        elif letter in _FREQUENT or letter in _OTHER:
            surname = start + 1
        else:
            continue
        for end in (surname + 2, surname + 1):
            given = text[surname:end]
            if len(given) == end - surname and all(map(_may_be_given, given)):
                yield start, surname, end


def _may_be_given(letter: str) -> bool:
    return "\u4e00" <= letter <= "\u9fa5" and letter not in _NEVER


def _score(text: str, start: int, surname: int, end: int, cuts: _Cuts) -> int:
    name, given = text[start:end], text[surname:end]
    is_given = all(letter in _GIVEN_LETTERS for letter in given)
    is_tagged = cuts.tags.get(start, "").startswith("nr")
    word_end = cuts.ends.get(start, 0)
    if word_end > end and _is_word(text[start:word_end]):
        return 0  # the beginning of a longer one
    score = (CUT if start in cuts.edges else -CUT) + CUT * (end in cuts.edges)
    # Half of the dictionary's names of two letters are words besides.
    if is_given or len(name) > 2:
        is_tagged = cuts.is_name_from(start) or cuts.is_name_from(surname)
        score += TAGGED * is_tagged
    score += SURNAME * (text[start] in _FREQUENT or surname - start == 2)
    if is_given:
        score += FITTING
    elif given[-1] not in _GIVEN_LETTERS:
        score -= FITTING
    if _is_word(name):
        score += SOME_WORD
    before, after = text[max(0, start - 8) : start], text[end : end + 6]
    return score + _said_before(before) + _said_after(after)


def _said_before(before: str) -> int:
    if _DECISIVE_BEFORE.search(before):
        return DECISIVE
    if _STRONG_BEFORE.search(before):
        return STRONG
    return WEAK if not before or _WEAK_BEFORE.search(before) else 0


def _said_after(after: str) -> int:
    if _DECISIVE_AFTER.search(after):
        return DECISIVE
    if _STRONG_AFTER.search(after):
        return STRONG
    return WEAK if _WEAK_AFTER.search(after) else 0


@lru_cache(100_000)
def _is_word(text: str) -> bool:
    """Whether the dictionary has it, and as anything but a name."""
    import rjieba

    if text in _NO_NAMES:
        return True
    return bool(rjieba.has_word(text)) and not rjieba.tag(text)[0][1].startswith("nr")
