"""What is private is found by its own checks and masked; numbers and words that only look like it stay."""

import pytest

from adapt.instructions.example import Example, Message
from adapt.instructions.masking import masked_example
from adapt.instructions.private_data import private_data, require_regions
from retrieval.errors import UsageError

GITHUB = "ghp_" + "aZ3kQ9xT7mL2pW8vB5nR1cY6dF4gH0jKsUeI"
PEM = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEpAIBAAKCAQEA7bq98\n" * 9 + "-----END RSA PRIVATE KEY-----"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dQw4w9WgXcQaZcDkFgHiJwLmNo"


@pytest.mark.parametrize(
    ("text", "kind", "found"),
    [
        ("write to Zhang.Wei+x@mail.qq.com.", "EMAIL", "Zhang.Wei+x@mail.qq.com"),
        ("邮箱zhang@qq.com，谢谢", "EMAIL", "zhang@qq.com"),
        ("call +31-20-5665-633 today", "PHONE", "+31-20-5665-633"),
        ("(650) 378-6500", "PHONE", "(650) 378-6500"),
        ("手机13812345678", "PHONE", "13812345678"),
        ("电话：010-62781234", "PHONE", "010-62781234"),
        ("call 2124567890 now", "PHONE", "2124567890"),
        ("card 4539 1488 0343 6467", "CARD", "4539 1488 0343 6467"),
        ("银行卡6222021234567890128", "CARD", "6222021234567890128"),
        ("IBAN DE89 3704 0044 0532 0130 00, thanks", "IBAN", "DE89 3704 0044 0532 0130 00"),
        ("GB82WEST12345698765432", "IBAN", "GB82WEST12345698765432"),
        ("身份证号11010519491231002X。", "ID_CARD", "11010519491231002X"),
        (f"use {GITHUB} here", "KEY", GITHUB),
        (JWT, "KEY", JWT),
        ("api_key = 'k3jH8sL2mQ9zX1vB'", "KEY", "k3jH8sL2mQ9zX1vB"),
        ("Authorization: Bearer k3jH8sL2mQ9zX1vB", "KEY", "k3jH8sL2mQ9zX1vB"),
        ("密码：Tr0ub4dor&3", "KEY", "Tr0ub4dor&3"),
        ("postgres://admin:s3cretPass@db.local/x", "KEY", "s3cretPass"),
        (f"key:\n{PEM}\nend", "PRIVATE_KEY", PEM),
    ],
)
def test_private_data_is_found(text: str, kind: str, found: str) -> None:
    assert [(one.kind, text[one.start : one.end]) for one in private_data(text)] == [(kind, found)]


@pytest.mark.parametrize(
    "text",
    [
        "write to someone@example.com or a@b.test",
        "4539 1488 0343 6468",  # Luhn fails by one
        "DE88 3704 0044 0532 0130 00",  # mod 97 fails by one
        "110105194912310021",  # the check digit is X
        "110105194913310020",  # the 13th month
        "2147483647 and 0.3333333333 and 1000000007",
        "0000000000000000",
        "on 2015-05-23 at 10:30, pages 1234-5678, version 1.2.3.4",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",  # a hash of git
        "api_key = 'YOUR_API_KEY_123'",
        "AKIAIOSFODNN7EXAMPLE",
        "the password is important for everybody",
        "token classification2vec is",
        "secret: understanding",
        "a @decorator and x@y",
        "https://host:8080/path@2x.png",
        "第12345678901234567890号",
    ],
)
def test_what_only_looks_private_stays(text: str) -> None:
    assert private_data(text) == []


def test_a_conversation_has_one_mask_for_one_thing() -> None:
    example = Example.of(
        [
            Message("user", "I am a@qq.com, my friend is b@qq.com; was [EMAIL_4] before. 电话 +86 138 1234 5678"),
            Message("assistant", "Write to A@QQ.com or call 13812345678."),
        ]
    )
    masked, counts = masked_example(example)
    assert [message.content for message in masked.messages] == [
        "I am [EMAIL_5], my friend is [EMAIL_6]; was [EMAIL_4] before. 电话 [PHONE_1]",
        "Write to [EMAIL_5] or call [PHONE_1].",
    ]
    assert counts == {"EMAIL": 3, "PHONE": 2} and masked.checks == {"masked": {"EMAIL": 3, "PHONE": 2}}
    assert masked.id != example.id
    assert masked_example(masked)[0] == masked


def test_an_example_without_anything_private_is_left_as_it_is() -> None:
    example = Example.of([Message("user", "q"), Message("assistant", "a")])
    assert masked_example(example)[0] is example


def test_numbers_of_other_countries_need_their_region() -> None:
    text = "Ruf an: 030 123456-78"
    assert not private_data("030 90186-900 in Berlin", ("US",))
    assert [one.kind for one in private_data(text.replace("123456-78", "9018-6900"), ("DE",))] == ["PHONE"]
    require_regions(["DE", "CN"])
    with pytest.raises(UsageError, match="'Germany'"):
        require_regions(["Germany"])


@pytest.mark.parametrize("text", ["1 " * 60_000, "a@" * 60_000, "AA00 " * 30_000, "eyJ" * 40_000, "token:" * 30_000])
def test_texts_made_to_be_slow_are_not(text: str) -> None:
    assert len(private_data(text)) < 10  # the suite's own time limit would end a search that is not linear
