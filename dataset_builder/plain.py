"""Lines as exporters write them, a batch at a time: decoded strictly, turned to columns at once.

What is taken here is exactly what `rows` would take, one message after another; a line with
anything unusual about it is left to that. So the types below are narrower than what is sound, and
no refusal is ever made here.
"""

from collections.abc import Callable, Sequence
from itertools import chain, repeat
from operator import attrgetter, is_
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import UNSET, UnsetType

from dataset_builder.columns import MET
from dataset_builder.lines import Lines
from dataset_builder.messages import ESCAPED, NAME, Count
from dataset_builder.rows import Form

_Text = str | UnsetType | None
_Name = Annotated[str, msgspec.Meta(max_length=NAME)] | UnsetType | None
_Flag = bool | UnsetType | None


class _Detoxify(msgspec.Struct, gc=False):
    toxicity: float
    severe_toxicity: float
    obscene: float
    identity_attack: float
    insult: float
    threat: float
    sexual_explicit: float


class _Label(msgspec.Struct, gc=False):
    value: float
    count: Count


class _LabelLists(msgspec.Struct, gc=False):
    name: list[str]
    value: list[float | None]
    count: list[Count | None]


class _EmojiLists(msgspec.Struct, gc=False):
    name: list[str]
    count: list[Count | None]


class _Message(msgspec.Struct, gc=False):
    message_id: Annotated[str, msgspec.Meta(min_length=1, max_length=NAME)]
    text: str
    role: Literal["prompter", "assistant"]
    parent_id: _Name = UNSET
    lang: _Text = UNSET
    rank: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] | UnsetType | None = UNSET
    deleted: _Flag = UNSET
    synthetic: _Flag = UNSET
    model_name: _Text = UNSET
    review_result: _Flag = UNSET
    review_count: Count | UnsetType | None = UNSET
    created_date: _Text = UNSET
    message_tree_id: _Name = UNSET
    tree_state: _Name = UNSET
    # Not kept, but no key may stand twice in them either.
    user_id: _Text = UNSET
    detoxify: _Detoxify | UnsetType | None = UNSET
    events: UnsetType | None = UNSET


class _Nested(_Message, gc=False):
    labels: dict[str, _Label] | UnsetType | None = UNSET
    emojis: dict[str, Count] | UnsetType | None = UNSET
    replies: list["_Nested"] | UnsetType | None = UNSET


class _Flat(_Message, gc=False):
    labels: _LabelLists | UnsetType | None = UNSET
    emojis: _EmojiLists | UnsetType | None = UNSET
    replies: tuple[()] | UnsetType | None = UNSET


class _Tree(msgspec.Struct, gc=False):
    prompt: _Nested
    message_tree_id: _Name = UNSET
    tree_state: _Name = UNSET
    origin: UnsetType | None = UNSET


# What a line may be: a tree; a message, maybe with replies; a message with labels as lists.
_SHAPES = tuple(msgspec.json.Decoder(shape).decode for shape in (_Tree, _Nested, _Flat))
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

# Lines whose shape is looked for; not all have labels.
_SAMPLE = 20

# What is kept of a message, by column.
_KEPT = {
    each.name: each.type
    for each in (*MET, pa.field("message_tree_id", pa.string()))
    if each.name in _Message.__struct_fields__
}
_ENTRIES = {name: MET.field(name).type for name in ("labels", "emojis")}


class Taken(NamedTuple):
    """What a batch of lines holds in the usual form, and which lines are left to `rows`."""

    met: pa.Table
    forms: dict[int, Form]  # of the lines that were taken, by their place in the batch
    left: list[int]


class _Walked(NamedTuple):
    """The messages of some rows in the order of the file, parents before their replies."""

    nodes: list[Any]
    places: list[int | None]  # among siblings, where they are nested
    row_of: list[int]  # in which row each stands
    forms: list[Form]  # of each row
    implied: int  # parents that only the nesting names
    odd: set[int]  # rows in which a message names another parent than it is nested below


def take_plain(lines: Lines) -> Taken:
    """The messages of the lines in the usual form, as a table of MET."""
    rows, numbers = _decoded(lines.contents)
    walked = _walked(rows)
    met, odd = _table(rows, walked, b"".join(lines.contents[n] or b"" for n in numbers))
    places = pa.array(numbers, pa.int64()).take(pa.array(walked.row_of, pa.int64()))
    met = met.append_column("line", pc.add(pa.array(lines.numbers, pa.int64()).take(places), 1))
    met = met.append_column("byte_offset", pa.array(lines.offsets, pa.int64()).take(places))
    if odd:
        met = met.filter(pa.array([row not in odd for row in walked.row_of], pa.bool_()))
    pairs = enumerate(zip(numbers, walked.forms, strict=True))
    forms = {number: form for row, (number, form) in pairs if row not in odd}
    left = [number for number in range(len(lines.contents)) if number not in forms]
    return Taken(met.select(MET.names), forms, left)


def _decoded(contents: Sequence[bytes | None]) -> tuple[list[Any], list[int]]:
    """The rows that are of one usual shape, and which of `contents` they are."""
    decode = _shape_of([each for each in contents[:_SAMPLE] if each])
    rows, numbers = [], []
    for number, content in enumerate(contents):
        if content is None or (b"\\u00" in content and ESCAPED.search(content)):
            continue
        try:
            rows.append(decode(content))
        except _FAULTS:
            continue
        numbers.append(number)
    return rows, numbers


def _shape_of(sample: Sequence[bytes]) -> Callable[[bytes], Any]:
    shapes = _SHAPES
    for content in sample:
        shapes = tuple(shape for shape in shapes if _is_of(shape, content)) or shapes
        if len(shapes) == 1:
            break
    return shapes[0]


def _is_of(decode: Callable[[bytes], Any], content: bytes) -> bool:
    try:
        decode(content)
    except _FAULTS:
        return False
    return True


def _walked(rows: list[Any]) -> _Walked:
    walked = _Walked([], [], [], [], 0, set())
    nodes, places, row_of, forms, implied, odd = walked
    for row_number, row in enumerate(rows):
        root = row.prompt if type(row) is _Tree else row
        nested = root is not row or bool(root.replies)
        forms.append("trees" if nested else "messages")
        stack: list[tuple[Any, int | None, str | None]] = [(root, 0 if nested else None, None)]
        while stack:
            node, place, parent_id = stack.pop()
            if parent_id is not None and node.parent_id != parent_id:
                # Its colons, and that of its key, will be counted and stand nowhere in the line.
                if node.parent_id is UNSET:
                    implied += 1 + parent_id.count(":")
                elif node.parent_id is None:
                    implied += parent_id.count(":")
                else:
                    odd.add(row_number)
                node.parent_id = parent_id
            nodes.append(node)
            places.append(place)
            row_of.append(row_number)
            replies = node.replies
            if replies:
                message_id = node.message_id
                for number in range(len(replies) - 1, -1, -1):
                    stack.append((replies[number], number, message_id))
    return walked._replace(implied=implied)


def _table(rows: list[Any], walked: _Walked, content: bytes) -> tuple[pa.Table, set[int]]:
    """The messages of `rows`, which `content` held, without their lines; and the rows that are not
    to be taken.
    """
    nodes, reader = walked.nodes, _Reader()
    columns = {name: reader.column(nodes, name, kind) for name, kind in _KEPT.items()}
    for name, kind in _ENTRIES.items():
        columns[name] = reader.entries(nodes, name, kind)
    columns["nested_place"] = pa.array(walked.places, pa.int32())
    own = columns.pop("message_tree_id"), columns["tree_state"]
    if rows and type(rows[0]) is _Tree:
        reader.colons += len(rows)  # `prompt`
        reader.column(rows, "origin", pa.null())
        said = [
            reader.column(rows, name, pa.string()) for name in ("message_tree_id", "tree_state")
        ]
    else:
        roots = pa.array(np.searchsorted(walked.row_of, range(len(rows))), pa.int64())
        said = [column.take(roots) for column in own]
    # Of the whole row first; there, an empty one is none.
    row_of = pa.array(walked.row_of, pa.int64())
    tree_id, tree_state = (_without_empty(column).take(row_of) for column in said)
    columns["tree_id"] = pc.coalesce(tree_id, _without_empty(own[0]))
    columns["tree_state"] = pc.coalesce(tree_state, own[1])
    reader.unread(nodes)
    odd = set(walked.odd)
    selves = pc.equal(columns["parent_id"], columns["message_id"])
    odd |= {walked.row_of[n] for n in np.flatnonzero(pc.fill_null(selves, False))}
    # The parser keeps the last of two equal keys, drops those it does not know, and says nothing.
    # Each key brings one colon, and strings bring as many as they hold: with equal counts nothing
    # was lost.
    if not reader.sound or reader.colons - walked.implied != _count_colons(content):
        odd = set(range(len(rows)))
    return pa.table(columns), odd


class _Reader:
    """Makes columns of decoded objects, and counts the colons that must have stood for them."""

    def __init__(self) -> None:
        self.colons = 0
        self.sound = True

    def column(self, objects: Sequence[Any], name: str, kind: pa.DataType) -> pa.Array:
        """The attribute `name` of each object; null where its key is absent."""
        values = list(map(attrgetter(name), objects))
        try:
            array = pa.array(values, kind)
            self.colons += len(values)
        except pa.ArrowException:
            array = pa.array(self._known(values), kind)
        return self._counted(array) if pa.types.is_string(kind) else array

    def entries(self, objects: Sequence[Any], name: str, kind: pa.ListType) -> pa.Array:
        """Labels or emojis, which are maps by name or parallel lists."""
        found = self._known(list(map(attrgetter(name), objects)))
        as_lists = next((not isinstance(each, dict) for each in found if each is not None), False)
        columns, sizes = self._lists(found, kind) if as_lists else self._maps(found, kind)
        fields = list(kind.value_type)
        arrays = [pa.array(values, each.type) for values, each in zip(columns, fields, strict=True)]
        self._counted(arrays[0])
        offsets = np.cumsum([0, *(size or 0 for size in sizes)], dtype=np.int32)
        missing = pa.array([size is None for size in sizes], pa.bool_())
        entries = pa.StructArray.from_arrays(arrays, fields=fields)
        return pa.ListArray.from_arrays(pa.array(offsets), entries, type=kind, mask=missing)

    def unread(self, nodes: list[Any]) -> None:
        """Counts the colons of what is not kept."""
        for name in ("replies", "events"):
            self._known(list(map(attrgetter(name), nodes)))
        self.column(nodes, "user_id", pa.string())
        scores = self._known([node.detoxify for node in nodes])
        self.colons += len(_Detoxify.__struct_fields__) * (len(scores) - scores.count(None))

    def _maps(self, maps: list[Any], kind: pa.ListType) -> tuple[list[Any], list[int | None]]:
        # Most messages have the same names.
        patterns: dict[tuple[str, ...], int] = {}
        used = [patterns.setdefault(tuple(each or ()), len(patterns)) for each in maps]
        names = pa.array(list(patterns), pa.list_(pa.string())).take(pa.array(used, pa.int32()))
        values = list(chain.from_iterable(map(dict.values, filter(None, maps))))
        self.colons += len(values)
        sizes = [None if each is None else len(each) for each in maps]
        if kind == _ENTRIES["emojis"]:
            return [names.flatten(), values], sizes
        self.colons += 2 * len(values)
        others = [list(map(attrgetter(name), values)) for name in ("value", "count")]
        return [names.flatten(), *others], sizes

    def _lists(self, found: list[Any], kind: pa.ListType) -> tuple[list[Any], list[int | None]]:
        given = [each for each in found if each is not None]
        keys = [each.name for each in kind.value_type]
        lists = [list(map(attrgetter(key), given)) for key in keys]
        self.colons += len(given) * len(keys)
        sizes = [list(map(len, each)) for each in lists]
        columns = [list(chain.from_iterable(each)) for each in lists]
        # In a list of anything, `rows` takes no larger integer.
        small = all(value is None or abs(value) < 2**31 for each in columns[1:] for value in each)
        self.sound &= small and all(each == sizes[0] for each in sizes)
        if not self.sound:
            return [[] for _ in keys], [None] * len(found)
        return columns, [None if each is None else len(each.name) for each in found]

    def _known(self, values: list[Any]) -> list[Any]:
        """`values` with None for an absent key; the others bring a colon each."""
        absent = sum(map(is_, values, repeat(UNSET)))
        self.colons += len(values) - absent
        return [None if value is UNSET else value for value in values] if absent else values

    def _counted(self, texts: pa.Array) -> pa.Array:
        self.colons += _count_colons(texts.buffers()[2] or b"")
        return texts


def _count_colons(content: Any) -> int:
    return int(np.count_nonzero(np.frombuffer(content, np.uint8) == ord(":")))


def _without_empty(texts: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
