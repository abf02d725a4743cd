"""Recipes, presets and suites are read strictly, and every mistake gets one line and a hint."""

from pathlib import Path

import msgspec
import pytest

from dataset_builder.errors import InputError
from dataset_builder.settings import load_settings, settings_digest


class Inner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    max_rank: int | None = None
    names: tuple[str, ...] = ()


class Outer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    title: str
    keep: Inner = Inner()


def load(tmp_path: Path, text: str) -> Outer:
    (tmp_path / "one.toml").write_text(text)
    return load_settings("one", tmp_path, "recipe", Outer)


def refused(tmp_path: Path, text: str) -> tuple[str, str | None]:
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    return str(caught.value), caught.value.hint


def test_a_good_file_becomes_the_struct(tmp_path: Path):
    settings = load(tmp_path, 'title = "x"\n[keep]\nmax_rank = 0\nnames = ["a"]\n')
    assert settings == Outer(title="x", keep=Inner(max_rank=0, names=("a",)))


def test_a_misspelt_key_names_its_section_and_the_near_miss(tmp_path: Path):
    assert refused(tmp_path, 'title = "x"\n[keep]\nmax_rnk = 0\n') == (
        "one.toml: unknown key `max_rnk` in `[keep]`",
        "did you mean `max_rank`?",
    )


def test_a_key_like_no_other_lists_the_known_ones(tmp_path: Path):
    assert refused(tmp_path, 'title = "x"\n[keep]\nzebra = 0\n')[1] == "known keys: max_rank, names"


def test_a_missing_key_is_named(tmp_path: Path):
    assert refused(tmp_path, "[keep]\n")[0] == "one.toml: no key `title`"


def test_a_wrong_type_says_what_was_wanted_and_found(tmp_path: Path):
    message, hint = refused(tmp_path, 'title = "x"\n[keep]\nmax_rank = "0"\n')
    assert message == "one.toml: `keep.max_rank`: expected `int | null`, got `str`"
    assert hint == "numbers, lists and true or false stand without quotes"


def test_broken_toml_says_where(tmp_path: Path):
    assert "line 1" in refused(tmp_path, "title = \n")[0]


def test_an_unknown_name_gets_the_near_one_or_the_list(tmp_path: Path):
    (tmp_path / "concise.toml").write_text('title = "x"')
    with pytest.raises(InputError, match="unknown recipe `concize`") as caught:
        load_settings("concize", tmp_path, "recipe", Outer)
    assert caught.value.hint == "did you mean `concise`?"
    with pytest.raises(InputError) as caught:
        load_settings("zzz", tmp_path, "recipe", Outer)
    assert caught.value.hint == "known recipes: concise"


def test_a_path_is_a_name_too_and_a_missing_one_is_said(tmp_path: Path):
    path = tmp_path / "own.toml"
    path.write_text('title = "own"')
    assert load_settings(str(path), tmp_path / "none", "recipe", Outer).title == "own"
    with pytest.raises(InputError, match="no recipe file"):
        load_settings(str(tmp_path / "absent.toml"), tmp_path, "recipe", Outer)


def test_the_digest_is_of_values_not_of_their_order(tmp_path: Path):
    first = load(tmp_path, 'title = "x"\n[keep]\nmax_rank = 0\nnames = ["a"]\n')
    second = load(tmp_path, 'title = "x"\n[keep]\nnames = ["a"]\nmax_rank = 0\n')
    other = load(tmp_path, 'title = "x"\n[keep]\nnames = ["a"]\nmax_rank = 1\n')
    assert settings_digest(first) == settings_digest(second) != settings_digest(other)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title = " + "[" * 50_000, "not valid TOML: nested too deeply"),
        ("title = " + "9" * 5000, "not valid TOML: Exceeds the limit"),
        ("title = \xff", "not valid TOML: 'utf-8' codec"),
        ('title = "x"\n#' + "a" * 2**20, "more than 1,048,576 characters"),
        (f'title = "x"\n[keep]\nmax_rank = {2**63}', f"{2**63} has more than the 64 bits"),
        (f"title = [0, [{{a = -{2**63 + 1}}}]]", f"-{2**63 + 1} has more than the 64 bits"),
    ],
    ids=range(6),
)
def test_a_strangers_file_is_refused_by_one_line(tmp_path: Path, text: str, message: str):
    (tmp_path / "one.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as caught:
        load_settings("one", tmp_path, "recipe", Outer)
    assert str(caught.value).startswith(f"{tmp_path / 'one.toml'}: {message}")
    assert caught.value.hint == "compare it with one that ships"


def test_integers_may_have_64_bits(tmp_path: Path):
    for rank in (2**63 - 1, -(2**63)):
        assert load(tmp_path, f'title = "x"\n[keep]\nmax_rank = {rank}').keep.max_rank == rank
