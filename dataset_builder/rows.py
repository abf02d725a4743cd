"""A row of an export becomes the messages in it, each read or refused with a reason.

Trees are walked with a stack and threads turn by turn; what is wrong costs its message, not the
row.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from dataset_builder.lines import Place
from dataset_builder.messages import (
    NAME,
    Message,
    Row,
    Thread,
    as_maps,
    check_lists,
    known,
    repeated_key,
)

Form = Literal["trees", "messages", "threads", "parquet"]


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


# What a row of a file holds, and the form it has: a message stands alone, a tree is many.
Found = tuple[Form, list[Met | Refusal]]


_decode = msgspec.json.Decoder(Row).decode


def read_row(content: bytes, at: Place) -> Found:
    """The messages of a line, whatever it holds. Slow and exact."""
    try:
        try:
            row = _decode(content)
        except msgspec.ValidationError:
            row = None
        # The parser keeps the last of two and says nothing.
        key = repeated_key(content)
        if key is not None:
            return refused(at, "duplicate_key", f"`{key}` stands twice in one object")
        if row is not None:
            return typed_row(row, at, suspicious=b"\\u0000" in content)
        # One value of a wrong type costs its message, not the tree around it.
        return loose_row(msgspec.json.decode(content), at)
    except RecursionError:
        return refused(at, "too_deep", "more levels than can be parsed")
    except UnicodeDecodeError as error:
        return refused(at, "utf8", str(error))
    except (msgspec.DecodeError, ValueError) as error:
        return refused(at, "json", str(error))


def refused(at: Place, reason: str, detail: str) -> Found:
    """A row that could not be read at all."""
    return "messages", [Refusal(at, None, reason, detail)]


def typed_row(row: Row, at: Place, suspicious: bool) -> Found:
    """The messages of a row, each read or refused; in rows without `suspicious` no text is looked
    through for NUL characters.
    """
    # The order matters, since a flat message also names its tree.
    tree_id, tree_state = row.message_tree_id or None, row.tree_state or None
    if known(row.message_id) is not None:
        if row.replies:
            return "trees", list(_in_tree(row, tree_id, tree_state, at, suspicious))
        row.parent_id = known(row.parent_id)
        return "messages", [_checked(Met(row, tree_id, tree_state, None, at), suspicious)]
    if known(row.thread_id) is not None:
        turns = row.thread.messages if isinstance(row.thread, Thread) else row.thread
        turns = turns or row.messages or None
        if turns is not None:
            return "threads", list(_in_thread(turns, tree_id, tree_state, at, suspicious))
        return refused(at, "form", "a thread without messages")
    if known(row.prompt) is not None:
        return "trees", list(_in_tree(row.prompt, tree_id, tree_state, at, suspicious))
    if known(row.text) is not None or known(row.role) is not None:
        return refused(at, "incomplete", "no `message_id`")
    return refused(at, "form", "neither `message_id` nor `thread_id` nor `prompt`")


def loose_row(row: Any, at: Place) -> Found:
    """The same for a row without types: each of its messages is typed on its own."""
    if not isinstance(row, dict):
        return refused(at, "form", f"a {type(row).__name__}; wanted an object")
    has_id, has_thread = row.get("message_id") is not None, row.get("thread_id") is not None
    turns = None if has_id or not has_thread else _turns(row)
    root = row if has_id and row.get("replies") else None if has_id else row.get("prompt")
    if isinstance(turns, list) or isinstance(root, dict):
        form: Form = "threads" if isinstance(turns, list) else "trees"
        for key in ("message_tree_id", "tree_state"):
            if not isinstance(row.get(key), str | None):
                fault = f"`{key}` is a {type(row[key]).__name__}; wanted a string"
                return form, [Refusal(at, None, "wrong_type", fault)]
        tree_id, tree_state = row.get("message_tree_id"), row.get("tree_state")
        if isinstance(turns, list):
            return form, list(_in_thread(turns, tree_id, tree_state, at, suspicious=True))
        return form, list(_in_tree(root, tree_id, tree_state, at, suspicious=True))
    typed = _typed(row, at)
    if isinstance(typed, Refusal):
        return "messages", [typed]
    return typed_row(typed, at, suspicious=True)


def _turns(row: dict[str, Any]) -> Any:
    thread = row.get("thread")
    return (thread.get("messages") if isinstance(thread, dict) else thread) or row.get("messages")


def _in_tree(
    root: Any, tree_id: str | None, tree_state: str | None, at: Place, suspicious: bool
) -> Iterator[Met | Refusal]:
    """Every message of a nested tree, typed or not. With a stack: how deep it nests is the file's
    to choose.
    """
    stack: list[tuple[Any, int | None, str | None]] = [(root, None, None)]
    while stack:
        node, place, parent_id = stack.pop()
        message, message_id, replies = _opened(node, at)
        if isinstance(replies, list):
            stack += [
                (reply, number, message_id) for number, reply in reversed(list(enumerate(replies)))
            ]
        if isinstance(message, Message) and place is not None:
            message = _below(message, parent_id, at)
        if isinstance(message, Message):
            met = Met(
                message, tree_id or message.message_tree_id or None, tree_state, place or 0, at
            )
            yield _checked(met, suspicious)
        else:
            yield message


def _in_thread(
    turns: Iterable[Any], tree_id: str | None, tree_state: str | None, at: Place, suspicious: bool
) -> Iterator[Met | Refusal]:
    """Every message of a thread, typed or not; each answers the one before, whether it says so or
    not.
    """
    above: str | None = None
    for number, node in enumerate(turns):
        message, message_id, replies = _opened(node, at)
        if isinstance(message, Message) and replies:
            message = Refusal(at, message_id, "form", "a thread's message with replies")
        if isinstance(message, Message) and number:
            message = _below(message, above, at)
        above = message_id
        if isinstance(message, Message):
            tree = tree_id or message.message_tree_id or None
            yield _checked(Met(message, tree, tree_state, None, at), suspicious)
        else:
            yield message


def _opened(node: Any, at: Place) -> tuple[Message | Refusal, str | None, Any]:
    """The message of a node, its id and its replies, which leave it."""
    if isinstance(node, Message):
        replies, node.replies = node.replies, None
        node.parent_id = known(node.parent_id)
        return node, node.message_id or None, replies
    if isinstance(node, dict):
        message = _typed(node, at)
        if isinstance(message, Message):
            message.parent_id = known(message.parent_id)
        return message, _text(node.get("message_id")), node.get("replies")
    fault = f"a message is a {type(node).__name__}; wanted an object"
    return Refusal(at, None, "wrong_type", fault), None, None


def _below(message: Message, parent_id: str | None, at: Place) -> Message | Refusal:
    """The message with the parent it is nested below; refused where it names another, or that one
    has no id.
    """
    if message.parent_id is None:
        message.parent_id = parent_id
    if parent_id is not None and message.parent_id == parent_id:
        return message
    # Cut: of a long one, each of many replies would have a copy.
    above, named = ((name or "")[:NAME] for name in (parent_id, message.parent_id))
    detail = f"nested below {above or 'a message without id'}, its `parent_id` is {named}"
    return Refusal(at, known(message.message_id), "parent", detail)


def _typed(row: dict[str, Any], at: Place) -> Row | Refusal:
    row = {key: row[key] for key in row if key != "replies"}
    repeated = as_maps(row)
    if repeated is not None:
        fault = f"`{repeated}` stands twice in one map"
        return Refusal(at, _text(row.get("message_id")), "duplicate_key", fault)
    try:
        return msgspec.convert(row, Row)
    except msgspec.ValidationError as error:
        return Refusal(at, _text(row.get("message_id")), "wrong_type", str(error))


def _checked(met: Met, suspicious: bool) -> Met | Refusal:
    """`met`, or why it cannot be taken. Only `suspicious` rows are looked through for NUL
    characters.
    """
    message = met.message
    role = message.role
    fault = None
    if not message.message_id or not isinstance(message.text, str) or not isinstance(role, str):
        fault = "incomplete", _missing(message)
    elif role != "assistant" and role != "prompter":
        fault = "role", f"role `{role}`; wanted prompter or assistant"
    elif message.parent_id == message.message_id:
        fault = "self_parent", "it is its own parent"
    elif max(map(len, filter(None, _names(met)))) > NAME:
        fault = "too_long", f"an id or a tree's state of more than {NAME} characters"
    elif suspicious and "\x00" in "".join(filter(None, _strings(met))):
        fault = "nul", "a NUL character"
    elif message.labels or message.emojis:
        try:
            check_lists(message)
        except ValueError as error:
            fault = "wrong_type", str(error)
    return Refusal(met.at, known(message.message_id), *fault) if fault else met


def _names(met: Met) -> list[Any]:
    message = met.message
    return [
        message.message_id,
        message.parent_id,
        met.tree_id,
        met.tree_state or known(message.tree_state),
    ]


def _missing(message: Message) -> str:
    if message.message_id == "":
        return "an empty `message_id`"
    names = ("message_id", "text", "role")
    return next(f"no `{name}`" for name in names if known(getattr(message, name)) is None)


def _strings(met: Met) -> list[Any]:
    message = met.message
    names: list[str] = []
    for field_ in (message.labels, message.emojis):
        for name, value in (known(field_) or {}).items():
            names += (
                [name, *(each for each in value if isinstance(each, str))]
                if isinstance(value, list)
                else [name]
            )
    texts = [message.message_id, message.parent_id, message.text, message.lang, message.model_name]
    return [*texts, message.created_date, met.tree_id, met.tree_state, *names]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
