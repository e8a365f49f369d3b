"""Shared pairs of terms in a system of sums, compiled: the inner loops of the search.

A system has *values*, inputs first and then nodes, and *rows*, which are sums of shifted values: outputs first, then the
definition of each node. A term of a row is packed as ``value << 7 | shift << 1 | minus``, an occurrence of a value as
``row << 7 | shift << 1 | minus``. The search only ever does two things, each the inverse of the other:

- `extract`: a pair of terms that stands in k rows, in whatever sign and shift, becomes a node; k - 1 adders are saved.
- `ruin`: a node is replaced by its terms wherever it stands.

The greedy search (Hartley 1996: the most frequent pair first) keeps no table of pairs. Each value has an upper bound of
what its best pair saves, and the value with the highest bound is looked at: its rows are walked, its pairs counted. Pairs
only become rarer while nodes are extracted, so a bound that proves right belongs to a best pair of all. That needs
memory for the terms only, and few looks per node.

`improve` then ruins some nodes and searches again, keeping what is not worse (large neighbourhood search): what greedy
took first is what spoils it.

Two things restrict a pair. The depth: terms of levels l can be summed within a depth D exactly if the sum of 2^l is at
most 2^D (Kraft), so `slack` is what a row has left of that. The sign: every row keeps a term that is added, so that no
output needs a negation.

All of it is in one file because Numba's cache looks for changes only in the file of the function that is called.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

__all__ = ["State", "commit", "fill", "improve", "seed", "settle", "start"]

# Fields of a row and of a value
START, LENGTH, ROOM, STAMP = range(4)  # its list in `terms` or `places`, and when that was last saved
PLUS, SLACK = 4, 5  # of a row: terms that are added; 2^depth less the sum of 2^level of its terms
PRICE, ALIVE = 4, 5  # of a value: what a term of it costs; 1 for a node, 2 for one never ruined
BOUND, AFTER, BEFORE = 6, 7, 8  # no pair of it saves more; its neighbours among the values of one bound
ROW_FIELDS, VALUE_FIELDS = 6, 9

# Scalars
INPUTS, OUTPUTS, DIGITS, FREE, LOWEST, COST, TOP, RANDOM, WORK, SAVED, NOW, TERMS_END, PLACES_END = range(13)
SCALARS = 13

ROUND = 256  # ruins between looks at all levels


class State(NamedTuple):
    """A system of sums; see the head of this file."""

    row: np.ndarray  # a line for each
    terms: np.ndarray  # lists of the rows; one that outgrows its place moves to the end
    value: np.ndarray  # a line for each
    weight: np.ndarray  # 2^level of each value: apart from its line, for it is read most
    places: np.ndarray  # lists of occurrences of the values
    head: np.ndarray  # first value of each bound
    counts: np.ndarray  # per value and shift: occurrences of four kinds of pairs
    touched: np.ndarray  # which of them are not 0
    held: np.ndarray  # scratch
    free: np.ndarray  # numbers for nodes
    saved: np.ndarray  # journal: whether of a value, its number, length, three fields and the list
    g: np.ndarray  # scalars


compiled = njit(cache=True, error_model="numpy", nogil=True)  # searches of several layers run at the same time


@compiled
def draw(g: np.ndarray, n: int) -> int:
    """A random number below n (xorshift)."""
    x = g[RANDOM]
    x ^= x << 13
    x ^= (x >> 7) & 0x1FFFFFFFFFFFFFF
    x ^= x << 17
    g[RANDOM] = x
    return ((x >> 20) & 0xFFFFFFF) % n


@compiled
def seed(g: np.ndarray, number: int) -> None:
    """Start the random numbers anew."""
    g[RANDOM] = (0x9E3779B97F4A7C1 ^ (number * 0x5851F42D4C95)) | 1
    for _ in range(8):
        draw(g, 2)


# Lists


@compiled
def compact(table: np.ndarray, data: np.ndarray, g: np.ndarray, end: int) -> None:
    old = data[: g[end]].copy()
    e = 0
    for i in range(len(table)):
        b, n = table[i, START], table[i, LENGTH]
        table[i, START], table[i, ROOM] = e, n
        for j in range(n):
            data[e + j] = old[b + j]
        e += n
    g[end] = e


@compiled
def reserve(table: np.ndarray, data: np.ndarray, g: np.ndarray, end: int, i: int, room: int) -> None:
    if g[end] + room > len(data):
        compact(table, data, g, end)
    b, e = table[i, START], g[end]
    for j in range(table[i, LENGTH]):
        data[e + j] = data[b + j]
    table[i, START], table[i, ROOM], g[end] = e, room, e + room


@compiled
def push(table: np.ndarray, data: np.ndarray, g: np.ndarray, end: int, i: int, item: int) -> None:
    n = table[i, LENGTH]
    if n == table[i, ROOM]:
        reserve(table, data, g, end, i, n + (n >> 1) + 2)
    data[table[i, START] + n] = item
    table[i, LENGTH] = n + 1


@compiled
def remove(table: np.ndarray, data: np.ndarray, i: int, item: int) -> None:
    b, n = table[i, START], table[i, LENGTH] - 1
    j = b
    while data[j] != item:
        j += 1
    data[j] = data[b + n]
    table[i, LENGTH] = n


@compiled
def stands(s: State, row: int, value: int, shift: int, minus: int) -> bool:
    """Whether a row has a term."""
    term = value << 7 | shift << 1 | minus
    j = s.row[row, START]
    end = j + s.row[row, LENGTH]
    while j < end and s.terms[j] != term:
        j += 1
    return j < end


# Terms, with the journal that takes them back


@compiled
def save(s: State, table: np.ndarray, data: np.ndarray, of_value: int, i: int) -> None:
    table[i, STAMP] = s.g[NOW]
    e = s.g[SAVED]
    n, b = table[i, LENGTH], table[i, START]
    s.saved[e], s.saved[e + 1], s.saved[e + 2] = of_value, i, n
    s.saved[e + 3], s.saved[e + 4] = table[i, 4], table[i, 5]
    s.saved[e + 5] = s.weight[i] if of_value else 0
    for j in range(n):
        s.saved[e + 6 + j] = data[b + j]
    s.g[SAVED] = e + 6 + n


@compiled
def touch(s: State, row: int, value: int) -> None:
    """Save a row and a value unless they are saved already."""
    if s.row[row, STAMP] != s.g[NOW]:
        save(s, s.row, s.terms, 0, row)
    if s.value[value, STAMP] != s.g[NOW]:
        save(s, s.value, s.places, 1, value)


@compiled
def add_term(s: State, row: int, value: int, shift: int, minus: int) -> None:
    touch(s, row, value)
    push(s.row, s.terms, s.g, TERMS_END, row, value << 7 | shift << 1 | minus)
    push(s.value, s.places, s.g, PLACES_END, value, row << 7 | shift << 1 | minus)
    s.row[row, PLUS] += 1 - minus
    s.row[row, SLACK] -= s.weight[value]
    s.g[COST] += s.value[value, PRICE]


@compiled
def drop_term(s: State, row: int, value: int, shift: int, minus: int) -> None:
    touch(s, row, value)
    remove(s.row, s.terms, row, value << 7 | shift << 1 | minus)
    remove(s.value, s.places, value, row << 7 | shift << 1 | minus)
    s.row[row, PLUS] -= 1 - minus
    s.row[row, SLACK] += s.weight[value]
    s.g[COST] -= s.value[value, PRICE]


@compiled
def commit(g: np.ndarray) -> None:
    """Forget what was before."""
    g[NOW] += 1
    g[SAVED] = 0
    g[LOWEST] = g[FREE]


@compiled
def recover(table: np.ndarray, data: np.ndarray, g: np.ndarray, end: int, saved: np.ndarray) -> None:
    i, n = saved[1], saved[2]
    if table[i, ROOM] < n:
        reserve(table, data, g, end, i, n)
    b = table[i, START]
    for j in range(n):
        data[b + j] = saved[6 + j]
    table[i, LENGTH], table[i, 4], table[i, 5] = n, saved[3], saved[4]


@compiled
def restore(s: State, cost: int, free: int) -> None:
    """Take back everything since the last `commit`."""
    e = 0
    f = s.g[LOWEST]
    while e < s.g[SAVED]:
        record = s.saved[e:]
        if record[0]:
            recover(s.value, s.places, s.g, PLACES_END, record)
            i = record[1]
            s.weight[i] = record[5]
            if i >= s.g[INPUTS] and not s.value[i, ALIVE]:
                s.free[f] = i
                f += 1
        else:
            recover(s.row, s.terms, s.g, TERMS_END, record)
        e += 6 + record[2]
    s.g[COST], s.g[FREE] = cost, free
    commit(s.g)


# Values in order of their bounds


@compiled
def leave(s: State, v: int) -> None:
    k = s.value[v, BOUND]
    if k == 0:
        return
    p, n = s.value[v, BEFORE], s.value[v, AFTER]
    if p >= 0:
        s.value[p, AFTER] = n
    else:
        s.head[k] = n
    if n >= 0:
        s.value[n, BEFORE] = p
    s.value[v, BOUND] = 0


@compiled
def enter(s: State, v: int, bound: int) -> None:
    leave(s, v)
    k = min(bound, len(s.head) - 1)
    if k < 1:
        return
    n = s.head[k]
    s.value[v, BOUND], s.value[v, AFTER], s.value[v, BEFORE] = k, n, -1
    s.head[k] = v
    if n >= 0:
        s.value[n, BEFORE] = v
    s.g[TOP] = max(s.g[TOP], k)


@compiled
def enter_all(s: State, v: int) -> None:
    """Enter a value of which nothing is known but how often it stands."""
    enter(s, v, (s.value[v, LENGTH] - 1) * s.value[v, PRICE])


# Pairs


@compiled
def node_price(price: int, other: int) -> int:
    p = max(price, other)
    return p + 1 if p > 1 else 1


@compiled
def chained(s: State, row: int, v: int, shift: int, minus: int, step: int, other: int) -> bool:
    """Whether two terms of one value are a pair, when pairs are taken from the lowest shift on."""
    low, sign = shift, minus
    while low >= step:
        if stands(s, row, v, low - step, 0):
            sign = 0
        elif stands(s, row, v, low - step, 1):
            sign = 1
        else:
            break
        low -= step
    taken = False
    while low < shift:
        following = 0 if stands(s, row, v, low + step, 0) else 1
        taken = not taken and sign ^ following == minus ^ other
        low, sign = low + step, following
    return not taken


@compiled
def look(s: State, v: int, best: np.ndarray) -> None:
    """Find the best pair of a value.

    `best` becomes what it saves, the other value, its shift less that of `v`, and the kind: 0 for v + u, 1 for v - u, 2
    for u - v. Of equal ones that of the nearest level is taken, then a random one.
    """
    middle = s.g[DIGITS] - 1
    width = 2 * middle + 1
    pairs = 0
    weight = s.weight[v]
    first = s.value[v, START]
    for j in range(first, first + s.value[v, LENGTH]):
        o = s.places[j]
        row, shift, minus = o >> 7, (o >> 1) & 63, o & 1
        b, n = s.row[row, START], s.row[row, LENGTH]
        slack = s.row[row, SLACK]
        opposite = 2 + minus if s.row[row, PLUS] == 1 else 1
        s.g[WORK] += n + 2
        for i in range(b, b + n):
            t = s.terms[i]
            u = t >> 7
            if abs(s.weight[u] - weight) > slack:
                continue
            apart = ((t >> 1) & 63) - shift
            if u == v and (apart <= 0 or not chained(s, row, v, shift, minus, apart, t & 1)):
                continue
            key = u * width + apart + middle
            if s.counts[key, 0] + s.counts[key, 1] + s.counts[key, 2] + s.counts[key, 3] == 0:
                s.touched[pairs] = key
                pairs += 1
            s.counts[key, opposite * ((t & 1) ^ minus)] += 1
    choose(s, v, pairs, best)


@compiled
def choose(s: State, v: int, pairs: int, best: np.ndarray) -> None:
    """The best of the pairs that `look` counted; the counts are cleared."""
    middle = s.g[DIGITS] - 1
    width = 2 * middle + 1
    best[0] = 0
    equal = 0
    distance = 0
    price, weight = s.value[v, PRICE], s.weight[v]
    for i in range(pairs):
        key = s.touched[i]
        same, left, right = s.counts[key, 0], s.counts[key, 2], s.counts[key, 3]
        k = max(same, s.counts[key, 1] + max(left, right))
        for kind in range(4):
            s.counts[key, kind] = 0
        if k < 2:
            continue
        u = key // width
        saving = (k - 1) * (price + s.value[u, PRICE] - node_price(price, s.value[u, PRICE]))
        apart = abs(s.weight[u] - weight)
        if saving < best[0] or (saving == best[0] and apart > distance):
            continue
        if saving > best[0] or apart < distance:
            best[0], distance, equal = saving, apart, 0
        equal += 1
        if draw(s.g, equal) == 0:
            best[1], best[2] = u, key - u * width - middle
            best[3] = 0 if same == k else (1 if left >= right else 2)


@compiled
def hold(s: State, v: int, u: int, apart: int, kind: int) -> int:
    """Occurrences of `v` that are a pair with `u`, into `held`; how many."""
    n = 0
    b = s.value[v, START]
    distance = abs(s.weight[u] - s.weight[v])
    for j in range(b, b + s.value[v, LENGTH]):
        o = s.places[j]
        row, shift, minus = o >> 7, (o >> 1) & 63, o & 1
        other = minus ^ (kind != 0)
        if shift + apart < 0 or distance > s.row[row, SLACK] or not stands(s, row, u, shift + apart, other):
            continue
        if u == v and not chained(s, row, v, shift, minus, apart, other):
            continue
        if s.row[row, PLUS] == 1 and ((kind == 1 and minus) or (kind == 2 and not minus)):
            continue
        s.held[n] = o
        n += 1
    return n


@compiled
def extract(s: State, v: int, u: int, apart: int, kind: int) -> int:
    """Make a node of a pair and put it in all its places; the node."""
    s.g[FREE] -= 1
    s.g[LOWEST] = min(s.g[LOWEST], s.g[FREE])
    n = s.free[s.g[FREE]]
    definition = s.g[OUTPUTS] + n - s.g[INPUTS]
    touch(s, definition, n)
    distance = abs(s.weight[u] - s.weight[v])
    s.weight[n] = 2 * max(s.weight[v], s.weight[u])
    s.value[n, PRICE] = node_price(s.value[v, PRICE], s.value[u, PRICE])
    s.value[n, ALIVE] = 1
    minus_v, minus_u = int(kind == 2), int(kind == 1)
    at_v, at_u = max(0, -apart), max(0, apart)
    for j in range(hold(s, v, u, apart, kind)):
        o = s.held[j]
        row, shift, minus = o >> 7, (o >> 1) & 63, o & 1
        sign = minus ^ minus_v
        if s.row[row, SLACK] < distance or (s.row[row, PLUS] == 1 and sign and kind):
            continue  # an earlier place in the same row took what this one needs
        drop_term(s, row, v, shift, minus)
        drop_term(s, row, u, shift + apart, sign ^ minus_u)
        add_term(s, row, n, shift - at_v, sign)
    s.row[definition, PLUS] = 0
    s.row[definition, SLACK] = s.weight[n]
    add_term(s, definition, v, at_v, minus_v)
    add_term(s, definition, u, at_u, minus_u)
    s.g[COST] -= s.value[n, PRICE]
    return n


@compiled
def forget(s: State, n: int) -> None:
    """Free the number of a node that stands nowhere."""
    leave(s, n)
    s.value[n, ALIVE] = 0
    s.free[s.g[FREE]] = n
    s.g[FREE] += 1
    s.g[COST] += s.value[n, PRICE]


@compiled
def replace(s: State, n: int) -> None:
    """Replace a node by its terms wherever it stands."""
    definition = s.g[OUTPUTS] + n - s.g[INPUTS]
    uses, terms = s.value[n, LENGTH], s.row[definition, LENGTH]
    for j in range(uses):
        s.held[j] = s.places[s.value[n, START] + j]
    for i in range(terms):
        s.held[uses + i] = s.terms[s.row[definition, START] + i]
    for i in range(uses, uses + terms):
        t = s.held[i]
        drop_term(s, definition, t >> 7, (t >> 1) & 63, t & 1)
    for j in range(uses):
        o = s.held[j]
        row, shift, minus = o >> 7, (o >> 1) & 63, o & 1
        drop_term(s, row, n, shift, minus)
        for i in range(uses, uses + terms):
            t = s.held[i]
            add_term(s, row, t >> 7, shift + ((t >> 1) & 63), minus ^ (t & 1))
    for i in range(uses, uses + terms):
        enter_all(s, s.held[i] >> 7)
    forget(s, n)


# Searches


@compiled
def fill(s: State, rows: np.ndarray, values: np.ndarray, shift: int, minus: np.ndarray) -> None:
    """Add many terms."""
    for i in range(len(rows)):
        add_term(s, rows[i], values[i], shift, minus[i])


@compiled
def start(s: State, values: np.ndarray) -> None:
    """Let the search look at values."""
    for v in values:
        enter_all(s, v)


@compiled
def promise(s: State, v: int, u: int, apart: int, kind: int) -> int:
    """What could be saved with the node of a pair afterwards: repeated neighbours of its places."""
    width = 2 * s.g[DIGITS] - 1
    minus_v = int(kind == 2)
    pairs = 0
    for j in range(hold(s, v, u, apart, kind)):
        o = s.held[j]
        row, shift, sign = o >> 7, (o >> 1) & 63, (o & 1) ^ minus_v
        b = s.row[row, START]
        s.g[WORK] += s.row[row, LENGTH]
        for i in range(b, b + s.row[row, LENGTH]):
            t = s.terms[i]
            x = t >> 7
            if x in (v, u):
                continue
            key = x * width + ((t >> 1) & 63) - shift + s.g[DIGITS] - 1
            if s.counts[key, 0] + s.counts[key, 1] == 0:
                s.touched[pairs] = key
                pairs += 1
            s.counts[key, (t & 1) ^ sign] += 1
    total = 0
    for i in range(pairs):
        key = s.touched[i]
        total += max(0, s.counts[key, 0] - 1) + max(0, s.counts[key, 1] - 1)
        s.counts[key, 0] = s.counts[key, 1] = 0
    return total


@compiled
def candidates(s: State, found: np.ndarray) -> int:
    """Best pairs of some values of the highest bound, into `found`; how many. -1 when nothing can be saved any more."""
    while s.g[TOP] >= 1 and s.head[s.g[TOP]] < 0:
        s.g[TOP] -= 1
    top = s.g[TOP]
    if top < 1:
        return -1
    n = 0
    while n < len(found) and s.head[top] >= 0:
        v = s.head[top]
        leave(s, v)
        best = found[n]
        look(s, v, best)
        if best[0] < top:
            enter(s, v, best[0])
            continue
        best[4] = v
        if len(found) > 1:
            best[5] = promise(s, v, best[1], best[2], best[3])
        n += 1
    return n


@compiled
def greedy(s: State, ahead: int) -> None:
    """Extract the pair that saves most until none saves anything; of `ahead` equal ones the most promising."""
    found = np.zeros((ahead, 6), np.int64)
    while True:
        n = candidates(s, found)
        if n < 0:
            return
        if n == 0:
            continue
        chosen = 0
        for i in range(1, n):
            if found[i, 5] > found[chosen, 5]:
                chosen = i
        for i in range(n - 1, -1, -1):
            enter(s, found[i, 4], found[i, 0])
        v, u = found[chosen, 4], found[chosen, 1]
        node = extract(s, v, u, found[chosen, 2], found[chosen, 3])
        enter_all(s, node)
        if s.value[node, LENGTH] < 2:  # its places were in one another's way
            replace(s, node)
            leave(s, v)
            leave(s, u)


@compiled
def tidy(s: State) -> bool:
    """Remove nodes that are used once or are another value, among those that changed; whether there were any."""
    changed = False
    e = 0
    while e < s.g[SAVED]:
        kind, i = s.saved[e], s.saved[e + 1]
        e += 6 + s.saved[e + 2]
        n = i if kind else i - s.g[OUTPUTS] + s.g[INPUTS]
        if n < s.g[INPUTS] or s.value[n, ALIVE] != 1:
            continue
        if s.row[s.g[OUTPUTS] + n - s.g[INPUTS], LENGTH] == 1 or s.value[n, LENGTH] == 1:
            replace(s, n)
            changed = True
    return changed


@compiled
def settle(s: State, ahead: int) -> None:
    greedy(s, ahead)
    while tidy(s):
        greedy(s, ahead)


@compiled
def ruin_some(s: State, size: int) -> None:
    """Ruin about `size` nodes: any, or those of some rows."""
    top = len(s.value) - s.g[FREE]
    nodes = top - s.g[INPUTS]
    if draw(s.g, 2):
        for _ in range(size):
            n = s.g[INPUTS] + draw(s.g, nodes)
            if s.value[n, ALIVE] == 1:
                replace(s, n)
        return
    for _ in range(4):
        row = draw(s.g, s.g[OUTPUTS])
        for _ in range(size // 4 + 1):
            length = s.row[row, LENGTH]
            if length == 0:
                break
            n = s.terms[s.row[row, START] + draw(s.g, length)] >> 7
            if s.value[n, ALIVE] == 1:
                replace(s, n)


@compiled
def relevel(s: State) -> None:
    """Lower the levels of nodes to what their definitions need."""
    changed = True
    while changed:
        changed = False
        for n in range(s.g[INPUTS], len(s.value)):
            if not s.value[n, ALIVE]:
                continue
            row = s.g[OUTPUTS] + n - s.g[INPUTS]
            need = s.weight[n] - s.row[row, SLACK]
            weight = 1
            while weight < need:
                weight *= 2
            if weight < s.weight[n]:
                less = s.weight[n] - weight
                b = s.value[n, START]
                for j in range(b, b + s.value[n, LENGTH]):
                    s.row[s.places[j] >> 7, SLACK] += less
                s.row[row, SLACK] -= less
                s.weight[n] = weight
                changed = True


@compiled
def improve(s: State, work: int, size: int, heat: float, ahead: int) -> None:
    """Ruin and search again until `work` terms were walked; worse by up to about `heat` is kept in the beginning."""
    commit(s.g)
    begin = s.g[WORK]
    turn = 0
    while s.g[WORK] - begin < work:
        cost, free = s.g[COST], s.g[FREE]
        ruin_some(s, 1 + draw(s.g, size))
        settle(s, ahead)
        s.g[WORK] += 100
        limit = heat * (1 - (s.g[WORK] - begin) / work)
        if s.g[COST] - cost <= limit * draw(s.g, 1000) / 1000:
            commit(s.g)
        else:
            restore(s, cost, free)
        turn += 1
        if turn % ROUND == 0:
            relevel(s)
