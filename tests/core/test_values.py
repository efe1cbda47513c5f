"""Values checked by type: one sentence per error."""

from typing import Annotated, Literal

import pytest
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from tinyvit.core.errors import InputError
from tinyvit.core.values import check_fields, checked, input_error


@dataclass(config=ConfigDict(extra="forbid"))
class Settings:
    epochs: Annotated[int, Field(ge=1)]
    precision: Literal["float32", "bfloat16"] = "float32"
    rate: float | None = None
    sizes: tuple[int, ...] = (224,)


def test_a_value_that_fits_comes_back_as_its_type():
    assert checked(int, 5, "--epochs") == 5
    assert checked(Settings, {"epochs": 3, "sizes": [224, 384]}, "a.py") == Settings(epochs=3, sizes=(224, 384))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": "five"}, "a.py: key epochs must be a whole number, not 'five'"),
        ({"epochs": 0}, "a.py: key epochs must be at least 1, not 0"),
        ({"epochs": 1.5}, "a.py: key epochs must be a whole number, not 1.5"),
        ({"epochs": 1, "precision": "int8"}, "a.py: key precision must be 'float32' or 'bfloat16', not 'int8'"),
        ({"epochs": 1, "rate": "fast"}, "a.py: key rate must be a number, not 'fast'"),
        ({"epochs": 1, "sizes": [224, "x"]}, "a.py: key sizes.1 must be a whole number, not 'x'"),
        ({"epochs": 1, "sizes": 224}, "a.py: key sizes must be a list, not 224"),
        ({"precision": "float32"}, "a.py: key epochs is missing; add it"),
        ({"epochs": 1, "epoch": 2}, "a.py: unknown key 'epoch'; did you mean epochs?"),
        (5, "a.py must be a mapping, not 5"),
    ],
)
def test_each_error_is_one_sentence(values, message):
    with pytest.raises(InputError) as error:
        checked(Settings, values, "a.py")
    assert str(error.value) == message


def test_a_value_without_a_key_is_named_by_its_option():
    with pytest.raises(InputError, match=r"^--epochs must be at least 1, not 0$"):
        checked(Annotated[int, Field(ge=1)], 0, "--epochs")
    with pytest.raises(InputError, match=r"^--epochs must be a whole number, not '5'$"):
        checked(int, "5", "--epochs", strict=True)
    with pytest.raises(InputError, match=r"^--size must be a whole number or a list, not 'big'$"):
        checked(int | list[int], "big", "--size")


def test_an_unknown_key_without_the_known_ones_is_to_be_removed():
    with pytest.raises(ValidationError) as error:
        TypeAdapter(Settings).validate_python({"epochs": 1, "color": 2})
    assert str(input_error(error.value, "a.json")) == "a.json: unknown key 'color'; remove it"


class Fields:
    rate: Annotated[float, Field(gt=0, le=1)]
    pair: tuple[int, int]
    mode: Literal["auto"] | bool


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": "0.5"}, "key rate must be a number, not '0.5'"),
        ({"rate": 2}, "key rate must be at most 1, not 2"),
        ({"rate": float("inf")}, "key rate must be a finite number, not inf"),
        ({"pair": (1,)}, "key pair is (1,); it needs more values"),
        ({"pair": (1, 2.5)}, "key pair.1 must be a whole number, not 2.5"),
        ({"mode": "off"}, "key mode must be 'auto' or true or false, not 'off'"),
    ],
)
def test_fields_are_checked_without_conversion(values, message):
    with pytest.raises(InputError) as error:
        check_fields(Fields, values, "key ")
    assert str(error.value) == message


def test_fields_that_fit_and_other_names_pass():
    check_fields(Fields, {"rate": 1, "pair": (1, 2), "mode": True, "other": object()}, "key ")
