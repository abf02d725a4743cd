"""The border: reads every form of an Open Assistant export, bounded and strict, and refuses rows
with a reason.

A foreign file meets nothing but this module. Lines are cut by hand and never grow beyond a bound,
the parser is strict, trees are walked with a stack, and a row that cannot be read costs that row
alone.
"""

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builder.errors import InputError

# No line of an export comes near it; a gzip of one endless line does.
LINE_BYTES = 16 * 2**20

CHUNK_BYTES = 2**20

WANTED = "wanted: Open Assistant trees or messages (.jsonl, .jsonl.gz, .jsonl.zst) or Hub parquet"

# What fits the column it goes to.
Count = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]


class Label(msgspec.Struct):
    """One label in the nested form: a mean and the number of people behind it."""

    value: float | None = None
    count: Count | None = None


class Message(msgspec.Struct):
    """A message as any export writes it; an absent key and an explicit null are the same."""

    message_id: str | None = None
    parent_id: str | None = None
    text: str | None = None
    role: str | None = None
    lang: str | None = None
    rank: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] | None = None
    deleted: bool | None = None
    synthetic: bool | None = None
    model_name: str | None = None
    review_result: bool | None = None
    review_count: Count | None = None
    created_date: str | None = None
    # A map by name in nested files, parallel lists in flat ones.
    labels: dict[str, Label | list[str | float | int | None] | None] | None = None
    emojis: dict[str, Count | list[str | Count | None] | None] | None = None
    message_tree_id: str | None = None
    tree_state: str | None = None
    replies: list["Message"] | None = None


class Row(Message):
    """A line: a message, or the tree whose root is `prompt`."""

    prompt: Message | None = None
    thread_id: str | None = None


class Place(NamedTuple):
    """Where a row stands in its file; `byte_offset` is in the unpacked file, None in parquet."""

    line: int
    byte_offset: int | None


class Met(NamedTuple):
    """A message that can be read, its tree, and its place among its siblings where the file nests
    them.
    """

    message: Message
    tree_id: str | None
    tree_state: str | None
    nested_place: int | None
    at: Place


class Refusal(NamedTuple):
    """A message, or a row that could not be read at all, and why it was refused."""

    at: Place
    message_id: str | None
    reason: str
    detail: str


@dataclass
class Export:
    """What one file holds."""

    name: str
    sha256: str
    bytes: int
    form: Literal["trees", "messages", "parquet"]
    rows: int = 0
    messages: list[Met] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


class Line(NamedTuple):
    """A line of an unpacked file; `content` is None where it is longer than LINE_BYTES."""

    at: Place
    content: bytes | None


def read_export(
    path: Path, name: str | None = None, report: Callable[[int], None] = lambda rows: None
) -> Export:
    """Everything in the file at `path`, whatever its form: told by content, never by name.

    `report` is called now and then with the number of rows met so far. Raises InputError where the
    file is missing, cannot be unpacked, or holds nothing.
    """
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            export = Export(name or path.name, sha256, file.tell(), "messages")
            file.seek(0)
            magic = file.read(4)
            file.seek(0)
            if magic == b"PAR1":
                export.form = "parquet"
                found = _in_parquet(file)
            else:
                found = _in_lines(_unpacked(file, magic))
            for each in found:
                _take(each, export, report)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error) or "it ends too early"
        raise InputError(f"{path}: cannot be read: {reason}", WANTED) from error
    if not export.rows:
        raise InputError(f"{path}: holds no rows", WANTED)
    return export


def lines_of(file: BinaryIO) -> Iterator[Line]:
    """The lines of an unpacked file, blank ones aside, without ever holding more than LINE_BYTES of
    one.
    """
    number, start, held = 1, 0, 0
    pieces: list[bytes] = []
    while chunk := file.read(CHUNK_BYTES):
        begin = 0
        while begin < len(chunk):
            end = chunk.find(b"\n", begin) + 1
            piece = chunk[begin : end or len(chunk)]
            begin += len(piece)
            held += len(piece)
            pieces = [*pieces, piece] if held <= LINE_BYTES else []
            if end:
                yield from _line(Place(number, start), pieces, held)
                number, start, held, pieces = number + 1, start + held, 0, []
    yield from _line(Place(number, start), pieces, held)


def _line(at: Place, pieces: list[bytes], held: int) -> Iterator[Line]:
    content = b"".join(pieces)
    if at.line == 1:
        content = content.removeprefix(b"\xef\xbb\xbf")
    if held > LINE_BYTES:
        yield Line(at, None)
    elif content.strip():
        yield Line(at, content)


def _unpacked(file: BinaryIO, magic: bytes) -> Any:
    if magic[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=file)
    if magic == b"\x28\xb5\x2f\xfd":
        return pa.CompressedInputStream(pa.PythonFile(file), "zstd")
    return file


# What a row of a file holds, and whether it is a tree: a message stands alone, a tree is many.
Found = tuple[bool, list[Met | Refusal]]


def _take(found: Found, export: Export, report: Callable[[int], None]) -> None:
    is_tree, messages = found
    export.rows += 1
    if is_tree and export.form == "messages" and not export.messages:
        export.form = "trees"
    for each in messages:
        if isinstance(each, Met):
            export.messages.append(each)
        else:
            export.refusals.append(each)
    if export.rows % 1000 == 0:
        report(export.rows)


def _in_parquet(file: BinaryIO) -> Iterator[Found]:
    number = 0
    for batch in pq.ParquetFile(file).iter_batches(batch_size=4096):
        batch.validate(full=True)
        for row in batch.to_pylist():
            number += 1
            yield _loose_row(row, Place(number, None))


def _in_lines(file: BinaryIO) -> Iterator[Found]:
    decode = msgspec.json.Decoder(Row).decode
    for at, content in lines_of(file):
        if content is None:
            yield False, [Refusal(at, None, "too_long", f"more than {LINE_BYTES} bytes")]
            continue
        try:
            try:
                yield _row(decode(content), at, suspicious=b"\\u0000" in content)
            except msgspec.ValidationError:
                # One value of a wrong type costs its message, not the tree around it.
                yield _loose_row(msgspec.json.decode(content), at)
        except RecursionError:
            yield False, [Refusal(at, None, "too_deep", "more levels than can be parsed")]
        except UnicodeDecodeError as error:
            yield False, [Refusal(at, None, "utf8", str(error))]
        except msgspec.DecodeError as error:
            yield False, [Refusal(at, None, "json", str(error))]


def _row(row: Row, at: Place, suspicious: bool) -> Found:
    # The order matters, since a flat message also names its tree.
    if row.message_id is not None and row.replies:
        return True, list(_in_tree(row, row.message_tree_id, row.tree_state, at, suspicious))
    if row.message_id is not None:
        return False, [
            _checked(Met(row, row.message_tree_id, row.tree_state, None, at), suspicious)
        ]
    if row.prompt is not None:
        return True, list(_in_tree(row.prompt, row.message_tree_id, row.tree_state, at, suspicious))
    if row.thread_id is not None:
        return False, [Refusal(at, None, "form", "a thread; wanted a tree or a message")]
    if row.text is not None or row.role is not None:
        return False, [Refusal(at, None, "incomplete", "no `message_id`")]
    return False, [Refusal(at, None, "form", "neither `message_id` nor `prompt`")]


def _loose_row(row: Any, at: Place) -> Found:
    """The same for a row without types: each of its messages is typed on its own."""
    if not isinstance(row, dict):
        return False, [Refusal(at, None, "form", f"a {type(row).__name__}; wanted an object")]
    root = row if row.get("message_id") is not None and row.get("replies") else row.get("prompt")
    if isinstance(root, dict) and (root is row or row.get("message_id") is None):
        for key in ("message_tree_id", "tree_state"):
            if not isinstance(row.get(key), str | None):
                fault = f"`{key}` is a {type(row[key]).__name__}; wanted a string"
                return True, [Refusal(at, None, "wrong_type", fault)]
        tree_id, tree_state = row.get("message_tree_id"), row.get("tree_state")
        return True, list(_in_tree(root, tree_id, tree_state, at, suspicious=True))
    typed = _typed(row, at)
    if isinstance(typed, Refusal):
        return False, [typed]
    return _row(typed, at, suspicious=True)


def _in_tree(
    root: Any, tree_id: str | None, tree_state: str | None, at: Place, suspicious: bool
) -> Iterator[Met | Refusal]:
    """Every message of a nested tree, typed or not. With a stack: how deep it nests is the file's
    to choose.
    """
    stack: list[tuple[Any, int | None, str | None]] = [(root, None, None)]
    while stack:
        node, place, parent_id = stack.pop()
        if isinstance(node, Message):
            message: Message | Refusal = node
            message_id, replies = node.message_id, node.replies
            node.replies = None
        elif isinstance(node, dict):
            message = _typed(node, at)
            message_id, replies = _text(node.get("message_id")), node.get("replies")
        else:
            yield Refusal(
                at, None, "wrong_type", f"a reply is a {type(node).__name__}; wanted an object"
            )
            continue
        if isinstance(replies, list):
            stack += [
                (reply, number, message_id) for number, reply in reversed(list(enumerate(replies)))
            ]
        if isinstance(message, Message) and place is not None:
            message = _below(message, parent_id, at)
        if isinstance(message, Message):
            yield _checked(
                Met(message, tree_id or message.message_tree_id, tree_state, place or 0, at),
                suspicious,
            )
        else:
            yield message


def _below(message: Message, parent_id: str | None, at: Place) -> Message | Refusal:
    """The message with the parent it is nested below; refused where it names another, or that one
    has no id.
    """
    if message.parent_id is None:
        message.parent_id = parent_id
    if parent_id is not None and message.parent_id == parent_id:
        return message
    above = parent_id or "a message without id"
    detail = f"nested below {above}, its `parent_id` is {message.parent_id}"
    return Refusal(at, message.message_id, "parent", detail)


def _typed(row: dict[str, Any], at: Place) -> Row | Refusal:
    try:
        return msgspec.convert({key: row[key] for key in row if key != "replies"}, Row)
    except msgspec.ValidationError as error:
        return Refusal(at, _text(row.get("message_id")), "wrong_type", str(error))


def _checked(met: Met, suspicious: bool) -> Met | Refusal:
    """`met`, or why it cannot be taken. Only `suspicious` rows are looked through for NUL
    characters.
    """
    message = met.message
    fault = None
    missing = [name for name in ("message_id", "text", "role") if getattr(message, name) is None]
    if missing:
        fault = "incomplete", f"no `{missing[0]}`"
    elif not message.message_id:
        fault = "incomplete", "an empty `message_id`"
    elif message.role not in ("prompter", "assistant"):
        fault = "role", f"role `{message.role}`; wanted prompter or assistant"
    elif message.parent_id == message.message_id:
        fault = "self_parent", "it is its own parent"
    elif suspicious and "\x00" in "".join(filter(None, _strings(met))):
        fault = "nul", "a NUL character"
    return Refusal(met.at, message.message_id, *fault) if fault else met


def _strings(met: Met) -> list[str | None]:
    message = met.message
    names = [*(message.labels or {}), *(message.emojis or {})]
    texts = [message.message_id, message.parent_id, message.text, message.lang, message.model_name]
    return [*texts, message.created_date, met.tree_id, met.tree_state, *names]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
