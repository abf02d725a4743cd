"""Rows that are bad, by the reason for which a reader refuses them."""

import pyarrow as pa

from tests.builders import Rows, message, prompt, reply

SOUND = [each for n in range(30) for each in (prompt(f"s{n}"), reply(f"s{n}r", f"s{n}"))]
USER, BOT = "prompter", "assistant"


def chain(*roles: str, start: str | None = None) -> Rows:
    """Messages below each other by these roles, called a, b, c ..."""
    names = "abcdefghijkl"
    above = [start, *names]
    return [
        message(name, up, role) for name, up, role in zip(names, above, roles, strict=False) if role
    ]


# Each: the rows, and which of them are refused.
ALTERNATION = [
    (chain(USER, USER), "b"),
    (chain(USER, BOT, BOT), "c"),
    (chain(BOT), "a"),
    (chain(BOT, BOT), "ab"),
    (chain(BOT, USER, BOT), "a"),
    (chain(USER, USER, USER), "bc"),
    (chain(USER, BOT, BOT, USER, USER), "ce"),
    ([*chain(USER, BOT), message("x", "a", USER), message("y", "a", USER)], "xy"),
    ([*chain(USER, BOT), message("x", "b", BOT), message("y", "x", BOT)], "xy"),
    ([*chain(USER, BOT), message("x", "s0r", BOT)], "x"),
    ([message("x", "s0", USER), message("y", "x", BOT)], "x"),
]
SELF_PARENTS = [([message("x", "x", role)], "x") for role in (USER, BOT)] + [
    ([message("x", "x", USER), reply("y", "x")], "x"),
    ([message("x", "x", BOT), prompt("y", "x")], "x"),
    ([message(name, name, USER) for name in "xyz"], "xyz"),
    ([prompt("a"), message("x", "x", BOT, rank=0)], "x"),
    ([message("\u00e9", "\u00e9", USER)], "\u00e9"),
    ([message(":", ":", USER)], ":"),
    ([message(" ", " ", BOT)], " "),
    ([message("x", "x", USER, deleted=True), message("y", "y", BOT, synthetic=True)], "xy"),
    ([message("x", "x", USER, message_tree_id="x")], "x"),
]
CYCLES = [
    (
        [
            message(f"{k}{n}", f"{k}{(n + 1) % length}", BOT if n % 2 else USER)
            for k, length in enumerate(lengths)
            for n in range(length)
        ]
        + tail,
        [f"{k}{n}" for k, length in enumerate(lengths) for n in range(length)],
    )
    for lengths, tail in [
        ([2], []),
        ([3], []),
        ([4], [message("t", "00", BOT)]),
        ([7], []),
        ([8], [message("t", "01", USER), reply("u", "t")]),
        ([2, 2], []),
        ([2, 3, 4], []),
        ([9], [message("t", "08", USER)]),
        ([5, 5], []),
        ([10], []),
    ]
]
ROOTS = [
    ([prompt("a", message_tree_id="t"), prompt("b", message_tree_id="t")], "b"),
    ([prompt("t"), prompt("a", message_tree_id="t")], "a"),
    ([prompt(name, message_tree_id="t") for name in "cba"], "bc"),
    ([prompt(name, message_tree_id="b") for name in "abc"], "ac"),
    ([prompt("x", message_tree_id="s0")], "x"),
    ([prompt(name, message_tree_id="s0") for name in "xyz"], "xyz"),
    ([prompt(name, message_tree_id=tree) for name, tree in ("au", "bu", "cv", "dv")], "bd"),
    ([prompt("a", message_tree_id=":"), prompt("b", message_tree_id=":")], "b"),
    ([prompt("a", message_tree_id="t", deleted=True), prompt("b", message_tree_id="t")], "b"),
    ([prompt("a", message_tree_id="b"), prompt("b", message_tree_id="a")], ""),
    ([*chain(USER, BOT), prompt("x", message_tree_id="a"), reply("y", "x")], "x"),
]
ORPHANS = [
    [prompt("x", "gone")],
    [reply("x", "gone")],
    [reply("x", "gone"), reply("y", "gone")],
    [prompt("x", "gone"), reply("y", "x"), prompt("z", "y")],
    [reply("x", "gone"), prompt("y", "x"), reply("z", "y")],
    [reply("x", "")],
    [reply("x", "S0")],
    [reply("x", "s0 ")],
    [reply("x", "s0\u200b")],
    [reply("x", "gone", rank=0), reply("y", "elsewhere", rank=0)],
    [prompt("x", "gone", message_tree_id="s0"), reply("y", "x", message_tree_id="s0")],
]


# Each: the reason, the rows, and which of them are refused.
FOREST = [
    (kind, rows, names)
    for kind, cases in {
        "alternation": ALTERNATION,
        "self_parent": SELF_PARENTS,
        "cycle": CYCLES,
        "several_roots": ROOTS,
    }.items()
    for rows, names in cases
]


def least(text: str) -> bytes:
    """A line that is a message, with `text` among its fields."""
    return ('{"message_id": "x", "role": "prompter", ' + text + "}").encode()


TWICE = [
    least('"text": "a", "text": "b"'),
    least('"text": null, "text": "b"'),
    least('"text": "a: b", "rank": 1, "rank": null'),
    least('"text": "a", "message_id": "y"'),
    least('"text": "a", "role": "assistant"'),
    least('"text": "a", "labels": {"spam": {"value": 1}, "spam": {"value": 0}}'),
    least('"text": "a", "labels": {"spam": {"value": 1, "value": 0}}'),
    least('"text": "a", "emojis": {"+1": 1, "+1": 2}'),
    least('"text" : "a", "te\\u0078t": "\\u003a"'),
    least('"text": "a", "of another tool": {"a": [{"b": 1, "b": 1}]}'),
    b'{"prompt": {"message_id": "x", "role": "prompter", "replies": [], "replies": []}}',
    b'{"thread_id": "x", "thread": [{"message_id": "x", "message_id": "x"}]}',
    b'{"message_id": 3, "message_id": "x"}',
]
NUMBERS = ["NaN", "Infinity", "-Infinity", "nan", "1e", "01", "+1", "1_0", "0x1", ".5"]
SURROGATES = ["\\ud800", "\\udfff", "\\ud800x", "\\ud800\\u0041", "\\udc00\\ud800", "a\\udbff"]
SURROGATES += ["\\uDEAD", "\\ud83d", "\\ud83d\\ud83d", "\\ud83d "]
NOT_UTF8 = [b"\xff", b"\xc3", b"\xe9", b"\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf8\x88\x80\x80"]
NOT_UTF8 += [b"\xfe\xff", b"\xe2\x82", b"\xf4\x90\x80\x80"]
NULS = [f'"text": "a", "{name}": "x\\u0000"' for name in ("parent_id", "lang", "model_name")]
NULS += [f'"text": "a", "{name}": "\\u0000"' for name in ("created_date", "message_tree_id")]
NULS += ['"text": "\\u0000"', '"text": "a\\u0000b"', '"text": "a", "tree_state": "\\u0000"']
NULS += ['"text": "a", "labels": {"\\u0000": null}', '"text": "a", "emojis": {"\\u0000": 1}']
TYPES = ['"text": 1', '"text": ["a"]', '"text": "a", "rank": "0"', '"text": "a", "rank": -1']
TYPES += ['"text": "a", "deleted": 1', '"text": "a", "labels": {"spam": [1]}']
TYPES += ['"text": "a", "labels": {"name": ["a", "b"], "value": [1.0], "count": [1, 1]}']
TYPES += ['"text": "a", "labels": {"name": [1], "value": [1.0], "count": [1]}']
TYPES += ['"text": "a", "emojis": {"name": ["a"], "count": ["b"]}', '"text": "a", "emojis": "+1"']
TYPES += [
    '"text": "a", "labels": {"name": ["a"], "count": [2147483648]}',
    '"text": "a", "lang": {}',
]
SHAPES = [
    b"[]",
    b"null",
    b"1",
    b'"a"',
    b"true",
    b"{}",
    b"[[]]",
    b'{"prompt": null}',
    b'{"replies": []}',
]
SHAPES += [b'{"thread_id": "t", "thread": {}}', b'{"message_tree_id": "t"}']
DEEP = [opening * 5000 for opening in (b"[", b'{"a":', b'[{"a":', b'{"replies":[')]
DEEP += [b'{"prompt":' * 3000, b'{"message_id": "x", "replies": [' * 3000, b"[[" * 9999]
DEEP += [b'{"labels":' * 2000, b'{"thread":{"messages":[' * 2000, b' { "events" : [ ' * 3000]


# By the reason for which each is refused.
LINES = {
    "duplicate_key": TWICE,
    "json": [
        *(least(f'"text": "a", "rank": {n}') for n in NUMBERS),
        *(least(f'"text": "{text}"') for text in SURROGATES),
    ],
    "utf8": [least('"text": "?"').replace(b"?", text) for text in NOT_UTF8],
    "nul": [least(field) for field in NULS],
    "wrong_type": [least(field) for field in TYPES],
    "form": SHAPES,
    "too_deep": DEEP,
}


def zstd(content: bytes) -> bytes:
    """`content`, packed."""
    return pa.compress(content, "zstd", asbytes=True)
