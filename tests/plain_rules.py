"""Every rule of a recipe a second time, in plain Python over messages: what the expressions and the
SQL are checked against.

Slow, and shares with them only what is decided in one place: the side of a tree, the order by hash,
and the nearness of two prompts.
"""

from collections import Counter, defaultdict
from fractions import Fraction

from dataset_builder.artifacts import hash_order
from dataset_builder.neighbours import NEAR
from dataset_builder.recipe import Keep, Recipe
from dataset_builder.shingles import words
from dataset_builder.split import normalised, side


class Forest:
    """Messages by id and by parent, siblings in the order of the source."""

    def __init__(self, messages, held_out):
        self.known = {row["message_id"]: row for row in messages}
        self.below = defaultdict(list)
        for row in sorted(messages, key=lambda row: (row["place"], row["message_id"])):
            self.below[row["parent_id"]].append(row)
        tops = defaultdict(list)
        for row in messages:
            if row["parent_id"] not in self.known:
                tops[row["tree_id"]].append(row)
        self.sides = {
            tree_id: side(min(rows, key=_top)["text"], held_out) for tree_id, rows in tops.items()
        }
        # Set by the test: the messages near a held-out prompt.
        self.near = set()

    def path(self, row):
        """The messages that lead to `row`, itself the last."""
        path = [row]
        while path[0]["parent_id"] in self.known:
            path.insert(0, self.known[path[0]["parent_id"]])
        return path

    def standing(self, reply):
        alone = len(self.below[reply["parent_id"]]) == 1
        return 0 if reply["rank"] is None and alone else reply["rank"]

    def answers(self, prompt):
        """The best usable reply to `prompt`; None where there is none, or the prompt is deleted."""
        usable = [
            row
            for row in self.below[prompt["message_id"]]
            if not row["deleted"]
            and row["review_result"] is not False
            and self.standing(row) is not None
        ]
        if prompt["deleted"] or not usable:
            return None
        return min(
            usable,
            key=lambda row: (
                row["synthetic"],
                self.standing(row),
                row["place"],
                row["message_id"],
            ),
        )

    def is_best_path(self, reply):
        """Whether the best path from the root of its tree ends with `reply`."""
        path = self.path(reply)
        at = path[0]
        if at["parent_id"] is not None:
            return False
        while at is not None:
            end = self.answers(at)
            if end is None:
                return False
            onward = [
                each for each in self.below[end["message_id"]] if self.answers(each) is not None
            ]
            at = onward[0] if onward else None
        return end is reply


def _top(row):
    return row["parent_id"] is not None, row["message_id"]


def near_held_out(forest, tables):
    """The training prompts near a held-out one, each compared with each."""
    held = tables.heldout.to_pylist()
    texts = [row["question"] for row in held if row["is_root"] or len(words(row["question"])) >= 5]
    equal, sets = {normalised(text) for text in texts}, [shingles(text) for text in texts]
    found = set()
    for row in forest.known.values():
        if row["role"] == "prompter" and forest.sides[row["tree_id"]] == "train":
            ours = shingles(row["text"])
            if normalised(row["text"]) in equal or any(
                jaccard(ours, each) >= NEAR for each in sets
            ):
                found.add(row["message_id"])
    return found


def first_failed(forest, reply, keep: Keep):
    """The first rule that `reply` fails, of those that look at one thread; None where it fails
    none.
    """
    return next(_failed(forest, reply, keep), None)


def _failed(forest, reply, keep):
    path = forest.path(reply)
    replies = [row for row in path if row["role"] == "assistant"]
    if path[0]["parent_id"] is not None:
        yield "complete"
    if not keep.deleted and any(row["deleted"] for row in path):
        yield "deleted"
    if keep.tree_states and reply["tree_state"] not in keep.tree_states:
        yield "tree_states"
    if keep.root_languages is not None and path[0]["lang"] not in keep.root_languages:
        yield "root_languages"
    if keep.languages is not None and any(row["lang"] not in keep.languages for row in path):
        yield "languages"
    if not keep.synthetic and any(row["synthetic"] for row in path):
        yield "synthetic"
    if keep.review and reply["review_result"] is False:
        yield "review"
    if keep.root_review and path[0]["review_result"] is not True:
        yield "root_review"
    if any(row["message_id"] in forest.near for row in path):
        yield "near_held_out"
    if keep.paths == "leaves" and not _ends_a_conversation(forest, reply, keep):
        yield "leaves"
    if keep.paths == "best" and not forest.is_best_path(reply):
        yield "best_path"
    standing = forest.standing(reply)
    if keep.max_rank is not None and (standing is None or standing > keep.max_rank):
        yield "rank"
    if keep.max_path_rank is not None and any(
        _open_assistant_rejects(forest, each, keep.max_path_rank + 1) for each in replies
    ):
        yield "path_rank"
    if keep.turns is not None and not _within(len(path) - len(replies), keep.turns):
        yield "turns"
    if keep.prompt_words is not None:
        prompt = forest.known.get(reply["parent_id"])
        if prompt is None or not _within(prompt["words"], keep.prompt_words):
            yield "prompt_words"
    yield from _labels_failed(reply["labels"] or [], keep)
    if keep.reply_words is not None and not _within(reply["words"], keep.reply_words):
        yield "reply_words"


def _within(n, bounds):
    return bounds[0] <= n <= bounds[1]


def _ends_a_conversation(forest, reply, keep):
    follow_ups = forest.below[reply["message_id"]]
    if not follow_ups:
        return True
    # Open Assistant's walk goes on through every answered follow-up, and cuts off the first one
    # only where nothing answered it.
    first = follow_ups[0]
    if forest.below[first["message_id"]] or first["deleted"]:
        return False
    return keep.synthetic or not first["synthetic"]


def _open_assistant_rejects(forest, reply, top_k):
    """Its loader's own words: a rank of `top_k` or more, or none and siblings."""
    if reply["rank"] is None:
        return len(forest.below[reply["parent_id"]]) > 1
    return reply["rank"] >= top_k


def _labels_failed(labels, keep):
    for kind, bounds in (("min_labels", keep.min_labels), ("max_labels", keep.max_labels)):
        for name in bounds.__struct_fields__:
            bound = getattr(bounds, name)
            if bound is None:
                continue
            means = [each["value"] for each in labels if each["name"] == name]
            means = [mean for mean in means if mean is not None]
            if kind == "min_labels":
                passes = bool(means) and all(mean >= bound for mean in means)
            else:
                passes = bool(means) and all(mean <= bound for mean in means)
            if not passes:
                yield f"{kind}.{name}"


def dropped_by(forest, recipe: Recipe):
    """What the ledger has to say of every reply, before share and cap."""
    replies = [row for row in forest.known.values() if row["role"] == "assistant"]
    found = {
        row["message_id"]: "test"
        if forest.sides[row["tree_id"]] == "test"
        else first_failed(forest, row, recipe.keep)
        for row in replies
    }
    by_prompt = defaultdict(list)
    for row in replies:
        if found[row["message_id"]] is None:
            standing = forest.standing(row)
            place = (standing is None, standing or 0, row["message_id"])
            by_prompt[row["parent_id"]].append((place, row))
    k = 1 if recipe.keep.best_per_prompt else recipe.keep.shortest_of_top
    rule = "best_per_prompt" if recipe.keep.best_per_prompt else "shortest_of_top"
    for placed in by_prompt.values() if k else []:
        top = sorted(placed, key=lambda pair: pair[0])[:k]
        _, chosen = min(top, key=lambda pair: (pair[1]["words"], pair[0]))
        for _, row in placed:
            if row is not chosen:
                found[row["message_id"]] = rule
    return found


# ----------------------------------------------------------------------------------------- caps


def stratum(forest, reply, names):
    """The reply's language, standing and band of length, as far as `names` asks."""
    words = reply["words"]
    band = next((f"at most {n}" for n in (50, 100, 200) if words <= n), "over 200")
    facts = {"lang": reply["lang"], "rank": forest.standing(reply), "length": band}
    return tuple(facts[name] for name in names)


def assert_proportional(strata, kept, n):
    """`kept` (ids) are `n` of `strata` (id to stratum): each stratum has its share of them, rounded
    down or up, and in it those that come first by hash.
    """
    assert len(kept) == n == len(kept & strata.keys())
    members = defaultdict(list)
    for name in sorted(strata, key=lambda name: hash_order("order of examples", name)):
        members[strata[name]].append(name)
    taken = Counter(strata[name] for name in kept)
    for each, names in members.items():
        assert abs(taken[each] - Fraction(n * len(names), len(strata))) < 1, each
        assert set(names[: taken[each]]) <= kept, each


def shingles(text):
    """Each run of three words in `text`; all of it where it has fewer.

    >>> sorted(shingles("Why is the sky blue?"))
    ['is the sky', 'the sky blue', 'why is the']
    """
    found = words(text)
    return frozenset(" ".join(found[at : at + 3]) for at in range(max(1, len(found) - 2)))


def jaccard(one, other):
    """The share of what either holds that both hold."""
    return len(one & other) / len(one | other)
