"""Secrets in arguments and in the texts of errors: not for the eyes of whoever may look at a schedule."""

from typing import Any

import pytest

from jobguard.masking import ERROR_TEXT_MAX, MASK, error_text, masked, restored


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://app:hunter2@db:6379/0 refused", f"redis://app:{MASK}@db:6379/0 refused"),
        ("redis://:p@ss@db refused", f"redis://:{MASK}@db refused"),
        ("user=ann password=hunter2, host=db", f"user=ann password={MASK}, host=db"),
        ("{'api_key': 'x y', 'to': 'all'}", f"{{'api_key': {MASK}, 'to': 'all'}}"),
        ('{"db_password":"a\\nb","n":1}', f'{{"db_password":{MASK},"n":1}}'),
        ("GET /?access_token=abc&page=2", f"GET /?access_token={MASK}&page=2"),
        ("Authorization: Basic YW5uOng=", f"Authorization: {MASK}"),
        ("sent Bearer eyJ0eXAi.x1 to it", f"sent Bearer {MASK} to it"),
        ("KeyError: 'token'", "KeyError: 'token'"),
        ("http://db:6379/path?to=a@b", "http://db:6379/path?to=a@b"),
        ("the bearer of this is well", "the bearer of this is well"),
    ],
)
def test_a_text(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert masked(shown) == shown


def test_arguments_by_their_names_and_as_texts() -> None:
    said = {"to": "all", "PASSWORD": "x", "login": {"token": 7, "at": "db://u:x@h"}, "secrets": ["a", "b"]}
    shown = {
        "to": "all",
        "PASSWORD": MASK,
        "login": {"token": MASK, "at": f"db://u:{MASK}@h"},
        "secrets": MASK,
    }
    assert masked(said) == shown
    assert masked([said, 1, None]) == [shown, 1, None]
    assert masked({"routing_key": "mail", "token": None}) == {"routing_key": "mail", "token": None}


@pytest.mark.parametrize(
    ("changed", "meant"),
    [
        ({"to": "ann", "token": MASK}, {"to": "ann", "token": "t1"}),
        ({"token": "t2"}, {"token": "t2"}),
        ({"deep": [{"key": MASK}, f"db://u:{MASK}@h"]}, {"deep": [{"key": 1}, "db://u:x@h"]}),
        ({"other": MASK}, {"other": MASK}),  # of nothing that is kept: refused further on
    ],
)
def test_what_only_repeats_what_was_shown_is_what_is_kept(changed: Any, meant: Any) -> None:
    kept = {"to": "all", "token": "t1", "deep": [{"key": 1}, "db://u:x@h"]}
    assert restored(changed, kept) == meant


def test_an_error_is_cut_and_masked() -> None:
    assert error_text(ValueError("token=abc")) == f"ValueError: token={MASK}"
    assert len(error_text(ValueError("x" * 10 * ERROR_TEXT_MAX))) == ERROR_TEXT_MAX
    assert error_text(ValueError("token " * 100_000))  # in no time worth mentioning
