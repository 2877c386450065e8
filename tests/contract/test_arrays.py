"""Lists on their way into PostgreSQL and back, through a pool's connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orderflow.database import Database


@pytest.fixture(scope="module")
def database(new_database: Callable[[str | None], str]) -> Iterator[Database]:
    made = Database(new_database(None), size=1)
    made.open()
    yield made
    made.close()


TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])) | st.sampled_from(
    ["NULL", "null", "", " ", '"', "\\", "{", "}", ",", "{a,b}", '\\"', "'", "\n", "%s"]
)


@given(texts=st.lists(st.none() | TEXTS))
def test_texts_come_back_as_they_went(database: Database, texts: list[str | None]) -> None:
    assert database.query("SELECT %s::text[]", [texts])[0][0] == texts


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("int", [1, -2, None, 2**31 - 1]),
        ("bigint", [2**63 - 1]),
        ("float8", [0.5, -1e300, 1e-300, float("inf"), None]),
        ("bool", [True, False, None]),
        ("text", []),
    ],
)
def test_other_types_too(database: Database, kind: str, values: list[object]) -> None:
    assert database.query(f"SELECT %s::{kind}[]", [values])[0][0] == values


@pytest.mark.parametrize("wrong", ["a\x00b", [1], {}, b"x", object()])
def test_what_no_array_can_hold_is_refused(database: Database, wrong: object) -> None:
    with pytest.raises(psycopg.DataError):
        database.query("SELECT %s::text[]", [[wrong]])
