"""The kernel of finetune.token_attention, in Triton."""

import triton
from triton import language as tl

from finetune.gpu.attention import _load, _store, _times


@triton.jit
def token_kernel(
    q,  # (answers, KEPT * SHARED, WIDTH)
    keys,  # (answers, KEPT, slots, WIDTH), and values likewise
    values,
    firsts,  # (answers,): the first slot that each looks at
    place,  # (1,): the last one
    out,  # as q
    of_answer,  # strides of keys and values
    of_head,
    of_token,  # stride of an answer in q
    scale,  # of scores, times the base 2 logarithm of e
    KEPT: tl.constexpr,
    SHARED: tl.constexpr,
    QUERIES: tl.constexpr,  # SHARED, padded to what a product takes
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    SLOTS: tl.constexpr,  # at a time
):
    """One program for each answer and kept head: all queries that share it."""
    program = tl.program_id(0).to(tl.int64)
    answer, head = program // KEPT, program % KEPT
    first, last = tl.load(firsts + answer), tl.load(place)
    k = keys + answer * of_answer + head * of_head
    v = values + answer * of_answer + head * of_head
    queries = tl.arange(0, QUERIES)
    is_query = queries < SHARED
    at = q + answer * of_token + head * SHARED * WIDTH
    own = _load(at, queries, is_query, WIDTH, WIDTH, PADDED)
    highest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    o = tl.zeros([QUERIES, PADDED], tl.float32)
    for start in range(first // SLOTS * SLOTS, last + 1, SLOTS):
        slots = start + tl.arange(0, SLOTS)
        there = (slots >= first) & (slots <= last)
        scores = _times(own, tl.trans(_load(k, slots, there, WIDTH, WIDTH, PADDED)))
        # Of every block at least one slot is there, so that the highest is finite.
        scores = tl.where(there[None, :], scores * scale, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        shares = tl.exp2(scores - higher[:, None])
        before = tl.exp2(highest - higher)
        total = total * before + tl.sum(shares, 1)
        highest = higher
        shares = shares.to(out.dtype.element_ty)
        o = _times(shares, _load(v, slots, there, WIDTH, WIDTH, PADDED), o * before[:, None])
    to = out + answer * KEPT * SHARED * WIDTH + head * SHARED * WIDTH
    _store(to, o / total[:, None], queries, is_query, WIDTH, WIDTH, PADDED)
