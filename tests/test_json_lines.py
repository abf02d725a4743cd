"""A line of JSON is what was written, or none."""

import json
from pathlib import Path

import msgspec

from dataset_builder.json_lines import as_line, read_lines
from evals.generate import Answer, Partial


class Said(msgspec.Struct, frozen=True):
    key: str
    grade: int | None
    text: str


SAID = [Said("a", 7, 'x\ty\r\n\u2028"'), Said("b", None, ""), Said("c", 10, "é")]


def test_lines_are_json_and_say_what_was_written():
    lines = [as_line(each) for each in SAID]
    assert read_lines(b"".join(lines), Said) == SAID
    assert [json.loads(line)["text"] for line in lines] == [each.text for each in SAID]
    # As they were written before there were checksums.
    old = b"".join(msgspec.json.encode(each) + b"\n" for each in SAID)
    assert read_lines(old, Said) == SAID


def test_a_torn_line_is_none_and_those_behind_it_are_read():
    first, second, third = map(as_line, SAID)
    assert read_lines(first + second[:-1], Said) == SAID[:1]
    for cut in range(2, len(second)):
        assert read_lines(first + second[:-cut], Said) == SAID[:1], cut
        assert read_lines(first + second[:-cut] + b"\n" + third, Said) == [SAID[0], SAID[2]]


def test_no_bit_of_an_answer_under_way_is_another_unnoticed(tmp_path: Path):
    answers = [Answer("1", "x\ny", 2, True, 0.25), Answer("2", "seven", 1, False)]
    partial = Partial(tmp_path / "p.jsonl", {"adapter": "a"})
    partial.begin({})
    partial.add(answers)
    partial.add_beside([{"prompt_id": "p", "log_likelihood": -1.5}])
    beside = tmp_path / "p.beside.json"
    read = partial.read_beside()
    assert list(partial.read().values()) == answers
    for path in (partial.path, beside):
        whole = path.read_bytes()
        for place in range(8 * len(whole)):
            changed = bytearray(whole)
            changed[place // 8] ^= 1 << place % 8
            path.write_bytes(changed)
            assert set(partial.read().values()) <= set(answers), place
            assert partial.read_beside() in (read, None), place
        path.write_bytes(whole)
