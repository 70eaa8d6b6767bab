"""The scalar types of the schema, and what makes a section of it."""

from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

Schema = TypeVar("Schema")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
def strict(schema: type[Schema]) -> type[Schema]:
    """A frozen dataclass whose fields are checked, which knows no others, and which has the docstrings below its fields."""
    return dataclass(
        frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    )(schema)  # pyright: ignore


# strict: true is no number, though Python says that it is 1
Positive = Annotated[int, Field(ge=1, strict=True)]
Natural = Annotated[int, Field(ge=0, strict=True)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1, strict=True)]  # a PRNG key has no room for more
Number = Annotated[float, Field(strict=True)]
NonNegative = Annotated[float, Field(ge=0, strict=True)]
AboveZero = Annotated[float, Field(gt=0, strict=True)]
Fraction = Annotated[float, Field(gt=0, lt=1, strict=True)]
Share = Annotated[float, Field(ge=0, lt=1, strict=True)]
Unit = Annotated[float, Field(ge=0, le=1, strict=True)]
Mass = Annotated[float, Field(gt=0, le=1, strict=True)]
Interval = Annotated[list[Unit], Field(min_length=2, max_length=2)]
Folder = Annotated[str, Field(min_length=1)]
Dtype = Literal["float32", "bfloat16"]
Devices = Annotated[int, Field(ge=-1, strict=True)]
Two = Annotated[int, Field(ge=2, strict=True)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=200)]


def to_dict(config: Any) -> dict[str, Any]:
    """The plain dictionary of a validated config: what config.yaml holds."""
    return TypeAdapter(type(config)).dump_python(config)
