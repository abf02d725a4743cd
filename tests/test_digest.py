"""A digest of rows is the same for the same values and no others, however Arrow holds them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builder.digest import rows_digest

SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("n", pa.int32()),
        ("x", pa.float64()),
        ("is_so", pa.bool_()),
        ("turns", pa.list_(pa.struct([("role", pa.string()), ("n", pa.int32())]))),
    ]
)
TEXTS = st.none() | st.text("aé\n", max_size=3)
NUMBERS = st.none() | st.integers(0, 2)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "name": TEXTS,
            "n": NUMBERS,
            "x": st.none() | st.sampled_from([0.0, 0.5]),
            "is_so": st.none() | st.booleans(),
            "turns": st.none()
            | st.lists(
                st.none() | st.fixed_dictionaries({"role": TEXTS, "n": NUMBERS}), max_size=2
            ),
        }
    ),
    max_size=4,
)


def table(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@settings(max_examples=200, deadline=None)
@given(ROWS, ROWS)
def test_digests_are_equal_exactly_where_the_rows_are(one: list[dict], other: list[dict]):
    assert (rows_digest(table(one)) == rows_digest(table(other))) == (one == other)


@settings(max_examples=100, deadline=None)
@given(ROWS, st.integers(0, 4), st.integers(0, 4))
def test_chunks_slices_and_wider_types_do_not_matter(rows: list[dict], at: int, skipped: int):
    whole = table(rows)
    want = rows_digest(whole)
    assert rows_digest(pa.concat_tables([whole.slice(0, at), whole.slice(at)])) == want
    longer = table([*rows[:skipped], *rows])
    assert rows_digest(longer.slice(len(rows[:skipped]))) == want
    wide = whole.set_column(0, "name", whole["name"].cast(pa.large_string()))
    assert rows_digest(wide.set_column(1, "n", wide["n"].cast(pa.int64()))) == want


def test_a_file_has_the_digest_of_what_was_written(tmp_path: Path):
    rows = table([{"name": "a", "turns": [{"role": "x", "n": 1}]}, {"n": 2, "is_so": True}])
    pq.write_table(rows, tmp_path / "x.parquet", compression="snappy", row_group_size=1)
    assert rows_digest(pq.read_table(tmp_path / "x.parquet")) == rows_digest(rows)


def test_names_and_their_order_count():
    rows = table([{"name": "a", "n": 1}])
    names = rows.column_names
    assert rows_digest(rows.rename_columns(["title", *names[1:]])) != rows_digest(rows)
    assert rows_digest(rows.select(names[::-1])) != rows_digest(rows)


def test_the_bytes_that_are_hashed_never_change():
    # A new value here renames every build that exists: change the digest only with a reason.
    rows = table(
        [{"name": "a", "n": 1, "x": 0.5, "is_so": True, "turns": [{"role": "é"}, None]}, {}]
    )
    assert rows_digest(rows)[:16] == "3739b85127118960"


def test_a_type_without_a_rule_is_refused():
    with pytest.raises(TypeError, match="no digest for date32"):
        rows_digest(pa.table({"day": pa.array([1], pa.date32())}))
