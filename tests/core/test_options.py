"""Values typed on the command line: numbers with commas, and settings."""

from __future__ import annotations

import pytest

from tinyvit.core.errors import InputError
from tinyvit.core.options import parse_ordered, parse_setting, parse_settings


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=1e-4", 1e-4),
        ("a.b=true", True),
        ("a.b=None", None),
        ("a.b=(1, 2)", (1, 2)),
        ("a.b=x=y", "x=y"),
        ("a.b=null", None),
    ],
)
def test_settings_are_python_or_text(text, value):
    assert parse_setting(text, "--cfg-options") == ("a.b", value)


def test_settings_are_a_list_of_texts_or_a_dict():
    assert parse_settings(["a.b=1", "c=x", "a.b=2"], "--cfg-options") == {"a.b": 2, "c": "x"}
    assert parse_settings({"a.b": "1"}, "--cfg-options") == {"a.b": "1"}
    assert parse_settings(None, "--cfg-options") == {}


@pytest.mark.parametrize("text", ["photo.jpg", "=1", " =1"])
def test_a_setting_without_a_key_or_a_value_is_rejected(text):
    with pytest.raises(InputError, match=r"^--cfg-options '.*' must be KEY=VALUE, for example lr=.* optim_wrapper"):
        parse_setting(text, "--cfg-options")


def test_numbers_with_commas_keep_order_and_repetition():
    assert parse_ordered("3, 1,3", "--batches", int) == [3, 1, 3]
    assert parse_ordered("0.5", "--color-jitter", float) == [0.5]
    with pytest.raises(InputError, match=r"^--batches is '1,x'; write whole numbers with commas between them, such as"):
        parse_ordered("1,x", "--batches", int, "whole numbers")
