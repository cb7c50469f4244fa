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


def test_names_are_masked_where_the_words_beside_them_tell() -> None:
    text = "Dear Anna Bell,\nmy name is Omar. Is Anna Bell in New York?\nKind regards,\nOmar Reed"
    assert masked(text) == text
    assert masked(text, kinds=["name"]) == (
        "Dear [NAME],\nmy name is [NAME]. Is [NAME] in New York?\nKind regards,\n[NAME]"
    )
    chinese = "我叫欧阳娜娜，请把包裹交给王芳女士，张家界很美"
    assert masked(chinese, kinds=["name"]) == "我叫[NAME]，请把包裹交给[NAME]女士，张家界很美"
    assert masked("Dear Customer, I am Happy", kinds=["name"]) == "Dear Customer, I am Happy"


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
