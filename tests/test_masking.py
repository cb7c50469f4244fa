"""`mask`: what is personal and what only looks like it, in English and Chinese."""

import re
import stat
from pathlib import Path

import pytest

from assay.engines.data.cleaning.masking.key import FILE, key_fingerprint, place_key
from assay.engines.data.cleaning.masking.mask import masker
from assay.engines.data.cleaning.masking.recognizers import is_card, is_iban, is_resident_id
from assay.engines.data.reading.examples import Example, Message
from assay.errors import PlaceError
from assay.spec.steps import MaskSpec

KEY, OTHER_KEY = bytes(32), bytes(31) + b"1"


def masked(text: str, key: bytes = KEY, **spec: object) -> str:
    example = masker(MaskSpec.model_validate(spec), key)(Example(text=text)).example
    assert example is not None
    return example.text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Write to jo.doe+x@mail.example.org.", "Write to [EMAIL]."),
        ("请发到zhang_wei@qq.com谢谢", "请发到[EMAIL]谢谢"),
        ("call (555) 123-4567 or +44 20 7946 0958", "call [PHONE] or [PHONE]"),
        ("ring 01154960584, ext. does not work", "ring [PHONE], ext. does not work"),
        ("手机138-0013-8000，座机（010）62345678转12", "手机[PHONE]，座机[PHONE]"),
        ("电话：１３８００１３８０００", "电话：[PHONE]"),
        ("card 4111 1111 1111 1111 paid", "card [CARD] paid"),
        ("IBAN GB82 WEST 1234 5698 7654 32", "IBAN [IBAN]"),
        ("身份证11010519491231002X。", "身份证[RESIDENT_ID]。"),
        ("SSN: 536-90-4399", "SSN: [SSN]"),
        ("from 10.0.0.1 and fe80::1", "from [IP] and [IP]"),
        (
            "京A·D12345的车主，微信号：wx_abc123，QQ是12345678",
            "[PLATE]的车主，微信号：[WECHAT]，QQ是[QQ]",
        ),
    ],
)
def test_personal_data_are_found(text: str, wanted: str) -> None:
    assert masked(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "Order 4111111111111112 of 2024-05-06, 12:30:45, ISBN 978-3-16-148410-0.",
        "身份证号110105194912310021校验不对",
        "Between 10,000,000 and 25,500,000 people; 3.14159265358979 is pi.",
        "微信支付和QQ登录都可以，第12345678章",
        "a @decorator, x@y, seed 20240506, port 8080, v1.2.3",
        "快递单号SF1234567890123",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert masked(text) == text


def test_numbers_are_checked() -> None:
    assert is_card("6011 0009 9013 9424")
    assert not is_card("6011 0009 9013 9425")
    assert not is_card("0000000000000000")
    assert is_resident_id("11010519491231002X")
    assert not is_resident_id("110105194912310020")
    assert is_iban("DE89370400440532013000")
    assert not is_iban("DE89370400440532013001")


def test_names_of_people_are_masked_in_all_places_of_a_text() -> None:
    text = "Dear Anna Bell,\nmy name is Omar. Is Anna Bell in New York?\nKind regards,\nOmar Reed"
    assert masked(text) == text
    assert masked(text, kinds=["name"]) == (
        "Dear [NAME],\nmy name is [NAME]. Is [NAME] in New York?\nKind regards,\n[NAME]"
    )
    chinese = "我叫欧阳娜娜，请把包裹交给王芳女士，张家界很美"
    assert masked(chinese, kinds=["name"]) == "我叫[NAME]，请把包裹交给[NAME]女士，张家界很美"


@pytest.mark.parametrize(
    "text",
    [
        "Dear Customer, I am Happy",
        "Python and Java run on Windows, said the Visa Support Team",
        "黄金和石油都涨了，许可证过期了，解方程很难",
    ],
)
def test_brands_greetings_and_words_are_no_names(text: str) -> None:
    assert masked(text, kinds=["name"]) == text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("at 742 Evergreen Terrace, Springfield, OR 97403.", "at [ADDRESS]."),
        ("PO Box 9, and Apt 4B, 120 W 45th St", "[ADDRESS], and [ADDRESS]"),
        ("to 15 Oak Leaf, Exeter EX1 1AA please", "to [ADDRESS] please"),
        ("请寄到江苏省无锡市滨湖区太湖大道99号3栋2单元501室，谢谢", "请寄到[ADDRESS]，谢谢"),
        ("他家在四川省绵阳市安州区桑枣镇云丰村5组", "他家在[ADDRESS]"),
    ],
)
def test_addresses_are_found_whole(text: str, wanted: str) -> None:
    assert masked(text, kinds=["address"]) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "In 2019 Supreme Court judges ruled on 20 Hard Drive errors, a 30 Day Trial",
        "这条路12号开通，20路公交车3号线，马路3号通车，北京路很热闹，5号楼停水",
    ],
)
def test_streets_without_a_house_are_no_addresses(text: str) -> None:
    assert masked(text, kinds=["address"]) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("我叫陈志远，住在上海市静安区南京西路1266号", "陈志远上海静安南京西"),
        ("my name is Omar Haddad of 12 Main Street", "Omar Haddad Main Street"),
    ],
)
def test_a_surrogate_has_nothing_of_a_name_or_an_address(text: str, left: str) -> None:
    changed = masked(text, kinds=["name", "address"], by="surrogate")
    parts = left.split() if left.isascii() else left
    assert "[" not in changed
    kept = [part for part in parts if part in changed.replace("Example Street", "")]
    assert not kept, changed


@pytest.mark.parametrize("by", ["surrogate", "pseudonym"])
def test_the_same_person_has_the_same_stand_in_and_another_place_another(by: str) -> None:
    first = masked("mail a@b.org, phone 138-0013-8000", by=by)
    again = masked("phone 13800138000 mail A@B.org", by=by)
    mail, phone = first.removeprefix("mail ").split(", phone ")
    assert mail in again
    assert re.sub(r"\W", "", phone) in re.sub(r"\W", "", again)
    assert masked("mail a@b.org", by=by) != masked("mail a@b.org", OTHER_KEY, by=by)
    assert "138" not in again.replace(mail, "") or by == "surrogate"


def test_surrogates_are_nobodys() -> None:
    assert masked("a@b.org", by="surrogate").endswith("@example.com")
    assert not is_card(masked("4111 1111 1111 1111", by="surrogate"))
    assert masked("11010519491231002X", by="surrogate").startswith("000000")


def test_own_patterns_come_first_and_kinds_can_be_chosen() -> None:
    text = "T-13800138000 of a@b.org"
    assert masked(text, patterns={"ticket": r"T-\d+"}) == "[TICKET] of [EMAIL]"
    assert masked(text, kinds=["phone"]) == "T-13800138000 of a@b.org"


def test_every_turn_is_masked_and_labels_stay() -> None:
    chat = (Message("user", "I am a@b.org"), Message("assistant", "Hello a@b.org"))
    example = Example(chat, rejected=(chat[0], Message("assistant", "b@c.org?")), label="a@b.org")
    result = masker(MaskSpec(), KEY)(example)
    assert result.example is not None
    assert "@" not in str(result.example._replace(label=None))
    assert result.example.label == "a@b.org"


def test_the_key_is_made_once_and_kept_from_others(tmp_path: Path) -> None:
    key = place_key(tmp_path / "home")
    file = tmp_path / "home" / FILE
    assert place_key(tmp_path / "home") == key
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key.hex() not in key_fingerprint(tmp_path / "home")
    file.chmod(0o644)
    with pytest.raises(PlaceError, match="chmod 600"):
        place_key(tmp_path / "home")
