"""The kernels of finetune.attention, in Triton.

A tile is some queries by some keys of one row and one head. The rotary part of a head is one chunk
of its columns and the rest another, as 32 + 48 wastes less than 80 padded to 128; a score is the
sum of both products. Within the rotary chunk the two halves are interleaved, so that one thread
holds what turns together; a product over columns does not care in which order they come.

Columns are padded to powers of two, and tokens beyond the end of a row are zeros: such a key
comes after every query, such a query has no gradient, and neither is stored.
"""

from typing import NamedTuple

import triton
from triton import language as tl


class Tiles(NamedTuple):
    """How a kernel cuts its work, for one card."""

    queries: int
    keys: int
    warps: int
    stages: int


# By whether a head is at most 96 wide.
FORWARD = {True: Tiles(64, 32, 4, 3), False: Tiles(64, 32, 4, 2)}
BACKWARD_QUERIES = {True: Tiles(64, 32, 4, 2), False: Tiles(64, 32, 4, 2)}
BACKWARD_KEYS = {True: Tiles(64, 64, 4, 2), False: Tiles(32, 64, 4, 2)}
# Products of float32 run without matrix units, and larger tiles spill.
EXACT = Tiles(32, 32, 4, 1)


@triton.jit
def _grain(columns: tl.constexpr, padded: tl.constexpr, valid):
    """The mask of a chunk's rows and columns."""
    mask = valid[:, None]
    if columns < padded:
        mask = mask & (tl.arange(0, padded) < columns)[None, :]
    return mask


@triton.jit
def _load(at, places, valid, stride, COLUMNS: tl.constexpr, PADDED: tl.constexpr):
    """A chunk of columns, (places, PADDED)."""
    columns = tl.arange(0, PADDED)
    mask = _grain(COLUMNS, PADDED, valid)
    return tl.load(at + places[:, None] * stride + columns[None, :], mask=mask, other=0.0)


@triton.jit
def _store(at, chunk, places, valid, stride, COLUMNS: tl.constexpr, PADDED: tl.constexpr):
    columns = tl.arange(0, PADDED)
    mask = _grain(COLUMNS, PADDED, valid)
    where = at + places[:, None] * stride + columns[None, :]
    tl.store(where, chunk.to(at.dtype.element_ty), mask=mask)


@triton.jit
def _load_turned(
    at, cos, sin, places, valid, stride, HALF: tl.constexpr, PADDED_HALF: tl.constexpr
):
    """The rotary chunk, turned in float32 and rounded: (places, 2 * PADDED_HALF), interleaved."""
    first = _load(at, places, valid, stride, HALF, PADDED_HALF)
    second = _load(at + HALF, places, valid, stride, HALF, PADDED_HALF)
    c = _load(cos, places, valid, 2 * HALF, HALF, PADDED_HALF)
    s = _load(sin, places, valid, 2 * HALF, HALF, PADDED_HALF)
    one, two = first.to(tl.float32), second.to(tl.float32)
    turned = tl.join(one * c - two * s, two * c + one * s)
    turned = tl.reshape(turned, [places.shape[0], 2 * PADDED_HALF])
    return turned.to(at.dtype.element_ty)


@triton.jit
def _store_turned_back(
    at, chunk, cos, sin, places, valid, stride, HALF: tl.constexpr, PADDED_HALF: tl.constexpr
):
    """The gradient of what `_load_turned` gives, as that of what it read."""
    one, two = tl.split(tl.reshape(chunk, [places.shape[0], PADDED_HALF, 2]))
    c = _load(cos, places, valid, 2 * HALF, HALF, PADDED_HALF)
    s = _load(sin, places, valid, 2 * HALF, HALF, PADDED_HALF)
    _store(at, one * c + two * s, places, valid, stride, HALF, PADDED_HALF)
    _store(at + HALF, two * c - one * s, places, valid, stride, HALF, PADDED_HALF)


@triton.jit
def _times(left, right, sums=None):
    """left right + sums. Never TF32, which would round what is float32."""
    return tl.dot(left, right, sums, input_precision="ieee")


@triton.jit
def forward_kernel(
    qkv,
    cos,
    sin,
    bounds,
    out,  # (tokens, HEADS * WIDTH)
    sums,  # (HEADS, tokens) float32: the base 2 logarithm of the sum of a query's exponentials
    tokens,
    stride,  # of a token in qkv
    scale,  # of scores, times the base 2 logarithm of e
    HEADS: tl.constexpr,
    KEPT: tl.constexpr,
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,
    PADDED_HALF: tl.constexpr,
    REST: tl.constexpr,
    PADDED_REST: tl.constexpr,
    VALUE: tl.constexpr,
    TAIL: tl.constexpr,
    PADDED_TAIL: tl.constexpr,
    BLOCKS: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """One program for each row, head and block of queries."""
    program = tl.program_id(0)
    first = (BLOCKS - 1 - program % BLOCKS) * QUERIES  # the longest first
    head = (program // BLOCKS) % HEADS
    row = program // (BLOCKS * HEADS)
    begin = tl.load(bounds + row).to(tl.int64)
    length = (tl.load(bounds + row + 1) - begin).to(tl.int32)
    if first >= length:
        return
    cos += begin * 2 * HALF
    sin += begin * 2 * HALF
    q = qkv + begin * stride + head * WIDTH
    k = qkv + begin * stride + (HEADS + head // (HEADS // KEPT)) * WIDTH
    v = k + KEPT * WIDTH
    queries = first + tl.arange(0, QUERIES)
    valid = queries < length
    q_turned = _load_turned(q, cos, sin, queries, valid, stride, HALF, PADDED_HALF)
    if REST > 0:
        q_rest = _load(q + 2 * HALF, queries, valid, stride, REST, PADDED_REST)
    highest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    o = tl.zeros([QUERIES, VALUE], tl.float32)
    if TAIL > 0:
        o_tail = tl.zeros([QUERIES, PADDED_TAIL], tl.float32)
    for start in range(0, tl.minimum(first + QUERIES, length), KEYS):
        keys = start + tl.arange(0, KEYS)
        there = keys < length
        k_turned = _load_turned(k, cos, sin, keys, there, stride, HALF, PADDED_HALF)
        scores = _times(q_turned, tl.trans(k_turned))
        if REST > 0:
            k_rest = _load(k + 2 * HALF, keys, there, stride, REST, PADDED_REST)
            scores = _times(q_rest, tl.trans(k_rest), scores)
        scores = tl.where(queries[:, None] >= keys[None, :], scores * scale, float("-inf"))
        # Finite from the first block on: every query sees the row's first key.
        higher = tl.maximum(highest, tl.max(scores, 1))
        shares = tl.exp2(scores - higher[:, None])
        before = tl.exp2(highest - higher)
        total = total * before + tl.sum(shares, 1)
        shares = shares.to(out.dtype.element_ty)
        highest = higher
        o = _times(shares, _load(v, keys, there, stride, VALUE, VALUE), o * before[:, None])
        if TAIL > 0:
            v_tail = _load(v + VALUE, keys, there, stride, TAIL, PADDED_TAIL)
            o_tail = _times(shares, v_tail, o_tail * before[:, None])
    out += begin * HEADS * WIDTH + head * WIDTH
    _store(out, o / total[:, None], queries, valid, HEADS * WIDTH, VALUE, VALUE)
    if TAIL > 0:
        o_tail = o_tail / total[:, None]
        _store(out + VALUE, o_tail, queries, valid, HEADS * WIDTH, TAIL, PADDED_TAIL)
    sums += head.to(tl.int64) * tokens + begin
    tl.store(sums + queries, highest + tl.log2(total), mask=valid)


@triton.jit
def backward_queries_kernel(
    d_out,  # (tokens, HEADS * WIDTH), as out
    out,
    sums,
    deltas,  # (HEADS, tokens) float32, written: the sum of d_out * out
    qkv,
    cos,
    sin,
    bounds,
    d_qkv,  # as qkv, contiguous; the queries' columns are written
    tokens,
    d_out_stride,
    stride,
    scale,  # of scores
    HEADS: tl.constexpr,
    KEPT: tl.constexpr,
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,
    PADDED_HALF: tl.constexpr,
    REST: tl.constexpr,
    PADDED_REST: tl.constexpr,
    VALUE: tl.constexpr,
    TAIL: tl.constexpr,
    PADDED_TAIL: tl.constexpr,
    BLOCKS: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """One program for each row, head and block of queries."""
    program = tl.program_id(0)
    first = (BLOCKS - 1 - program % BLOCKS) * QUERIES
    head = (program // BLOCKS) % HEADS
    row = program // (BLOCKS * HEADS)
    begin = tl.load(bounds + row).to(tl.int64)
    length = (tl.load(bounds + row + 1) - begin).to(tl.int32)
    if first >= length:
        return
    cos += begin * 2 * HALF
    sin += begin * 2 * HALF
    q = qkv + begin * stride + head * WIDTH
    k = qkv + begin * stride + (HEADS + head // (HEADS // KEPT)) * WIDTH
    v = k + KEPT * WIDTH
    o = out + begin * HEADS * WIDTH + head * WIDTH
    d_o = d_out + begin * d_out_stride + head * WIDTH
    of_head = head.to(tl.int64) * tokens + begin
    queries = first + tl.arange(0, QUERIES)
    valid = queries < length
    q_turned = _load_turned(q, cos, sin, queries, valid, stride, HALF, PADDED_HALF)
    if REST > 0:
        q_rest = _load(q + 2 * HALF, queries, valid, stride, REST, PADDED_REST)
    do = _load(d_o, queries, valid, d_out_stride, VALUE, VALUE)
    o_value = _load(o, queries, valid, HEADS * WIDTH, VALUE, VALUE)
    delta = tl.sum(do.to(tl.float32) * o_value.to(tl.float32), 1)
    if TAIL > 0:
        do_tail = _load(d_o + VALUE, queries, valid, d_out_stride, TAIL, PADDED_TAIL)
        o_tail = _load(o + VALUE, queries, valid, HEADS * WIDTH, TAIL, PADDED_TAIL)
        delta += tl.sum(do_tail.to(tl.float32) * o_tail.to(tl.float32), 1)
    tl.store(deltas + of_head + queries, delta, mask=valid)
    total = tl.load(sums + of_head + queries, mask=valid, other=float("inf"))
    dq_turned = tl.zeros([QUERIES, 2 * PADDED_HALF], tl.float32)
    if REST > 0:
        dq_rest = tl.zeros([QUERIES, PADDED_REST], tl.float32)
    to_base_2 = scale * 1.4426950408889634
    for start in range(0, tl.minimum(first + QUERIES, length), KEYS):
        keys = start + tl.arange(0, KEYS)
        there = keys < length
        k_turned = _load_turned(k, cos, sin, keys, there, stride, HALF, PADDED_HALF)
        scores = _times(q_turned, tl.trans(k_turned))
        if REST > 0:
            k_rest = _load(k + 2 * HALF, keys, there, stride, REST, PADDED_REST)
            scores = _times(q_rest, tl.trans(k_rest), scores)
        seen = queries[:, None] >= keys[None, :]
        shares = tl.exp2(tl.where(seen, scores * to_base_2 - total[:, None], float("-inf")))
        d_shares = _times(do, tl.trans(_load(v, keys, there, stride, VALUE, VALUE)))
        if TAIL > 0:
            v_tail = _load(v + VALUE, keys, there, stride, TAIL, PADDED_TAIL)
            d_shares = _times(do_tail, tl.trans(v_tail), d_shares)
        d_scores = (shares * (d_shares - delta[:, None])).to(qkv.dtype.element_ty)
        dq_turned = _times(d_scores, k_turned, dq_turned)
        if REST > 0:
            dq_rest = _times(d_scores, k_rest, dq_rest)
    d_stride = (HEADS + 2 * KEPT) * WIDTH
    dq = d_qkv + begin * d_stride + head * WIDTH
    dq_turned *= scale
    _store_turned_back(dq, dq_turned, cos, sin, queries, valid, d_stride, HALF, PADDED_HALF)
    if REST > 0:
        _store(dq + 2 * HALF, dq_rest * scale, queries, valid, d_stride, REST, PADDED_REST)


@triton.jit
def backward_keys_kernel(
    d_out,
    sums,
    deltas,
    qkv,
    cos,
    sin,
    bounds,
    d_qkv,  # the keys' and the values' columns are written
    tokens,
    d_out_stride,
    stride,
    scale,
    HEADS: tl.constexpr,
    KEPT: tl.constexpr,
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,
    PADDED_HALF: tl.constexpr,
    REST: tl.constexpr,
    PADDED_REST: tl.constexpr,
    VALUE: tl.constexpr,
    TAIL: tl.constexpr,
    PADDED_TAIL: tl.constexpr,
    BLOCKS: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """One program for each row, kept head and block of keys: it sums over the queries of all heads
    that share the kept one, always in the same order. Tiles are (keys, queries) here.
    """
    program = tl.program_id(0)
    first = (program % BLOCKS) * KEYS  # early keys are seen by the most queries
    kept = (program // BLOCKS) % KEPT
    row = program // (BLOCKS * KEPT)
    begin = tl.load(bounds + row).to(tl.int64)
    length = (tl.load(bounds + row + 1) - begin).to(tl.int32)
    if first >= length:
        return
    GROUP: tl.constexpr = HEADS // KEPT
    cos += begin * 2 * HALF
    sin += begin * 2 * HALF
    k = qkv + begin * stride + (HEADS + kept) * WIDTH
    keys = first + tl.arange(0, KEYS)
    valid = keys < length
    k_turned = _load_turned(k, cos, sin, keys, valid, stride, HALF, PADDED_HALF)
    dk_turned = tl.zeros([KEYS, 2 * PADDED_HALF], tl.float32)
    if REST > 0:
        k_rest = _load(k + 2 * HALF, keys, valid, stride, REST, PADDED_REST)
        dk_rest = tl.zeros([KEYS, PADDED_REST], tl.float32)
    v = _load(k + KEPT * WIDTH, keys, valid, stride, VALUE, VALUE)
    dv = tl.zeros([KEYS, VALUE], tl.float32)
    if TAIL > 0:
        v_tail = _load(k + KEPT * WIDTH + VALUE, keys, valid, stride, TAIL, PADDED_TAIL)
        dv_tail = tl.zeros([KEYS, PADDED_TAIL], tl.float32)
    to_base_2 = scale * 1.4426950408889634
    blocks = tl.cdiv(length - first, QUERIES)
    for number in range(GROUP * blocks):
        head = kept * GROUP + number // blocks
        queries = first + (number % blocks) * QUERIES + tl.arange(0, QUERIES)
        there = queries < length
        q = qkv + begin * stride + head * WIDTH
        d_o = d_out + begin * d_out_stride + head * WIDTH
        of_head = head.to(tl.int64) * tokens + begin
        q_turned = _load_turned(q, cos, sin, queries, there, stride, HALF, PADDED_HALF)
        scores = _times(k_turned, tl.trans(q_turned))
        if REST > 0:
            q_rest = _load(q + 2 * HALF, queries, there, stride, REST, PADDED_REST)
            scores = _times(k_rest, tl.trans(q_rest), scores)
        total = tl.load(sums + of_head + queries, mask=there, other=float("inf"))
        seen = queries[None, :] >= keys[:, None]
        shares = tl.exp2(tl.where(seen, scores * to_base_2 - total[None, :], float("-inf")))
        do = _load(d_o, queries, there, d_out_stride, VALUE, VALUE)
        d_shares = _times(v, tl.trans(do))
        rounded = shares.to(qkv.dtype.element_ty)
        dv = _times(rounded, do, dv)
        if TAIL > 0:
            do_tail = _load(d_o + VALUE, queries, there, d_out_stride, TAIL, PADDED_TAIL)
            d_shares = _times(v_tail, tl.trans(do_tail), d_shares)
            dv_tail = _times(rounded, do_tail, dv_tail)
        delta = tl.load(deltas + of_head + queries, mask=there, other=0.0)
        d_scores = (shares * (d_shares - delta[None, :])).to(qkv.dtype.element_ty)
        dk_turned = _times(d_scores, q_turned, dk_turned)
        if REST > 0:
            dk_rest = _times(d_scores, q_rest, dk_rest)
    d_stride = (HEADS + 2 * KEPT) * WIDTH
    dk = d_qkv + begin * d_stride + (HEADS + kept) * WIDTH
    dk_turned *= scale
    _store_turned_back(dk, dk_turned, cos, sin, keys, valid, d_stride, HALF, PADDED_HALF)
    if REST > 0:
        _store(dk + 2 * HALF, dk_rest * scale, keys, valid, d_stride, REST, PADDED_REST)
    d_value = dk + KEPT * WIDTH
    _store(d_value, dv, keys, valid, d_stride, VALUE, VALUE)
    if TAIL > 0:
        _store(d_value + VALUE, dv_tail, keys, valid, d_stride, TAIL, PADDED_TAIL)
