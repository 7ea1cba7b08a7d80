"""Codec 7, trellis, after FORMAT.md sections 6.6 and 6.7 alone: decoding of a payload, and a plain search for a path.

A payload is decoded bit for bit, in f32 where the text says so.
"""
import numpy as np

import generator

STATES, UNIT = 256, 2**14
ENTRIES = (32, 16, 8, 4, 2)
LEVELS = {32: (1024,), 16: (1024,), 8: (1024,), 4: (1024,), 2: (720, 1210)}
MASKS = {
    32: (
        247, 251, 183, 147, 217, 195, 197, 225, 143, 245, 209, 131, 175, 215, 199, 171,
        237, 179, 169, 221, 167, 151, 173, 217, 165, 149, 201, 181, 175, 183, 221, 205,
    ),
    16: (161, 141, 239, 255, 181, 131, 185, 207, 193, 135, 225, 221, 157, 235, 175, 203),
    8: (131, 139, 167, 249, 209, 173, 243, 229),
    4: (225, 163, 159, 205),
    2: (223, 56, 137, 90),
}
LARGEST = (10, 12, 14, 16, 20, 24, 28, 33, 40, 48, 57, 67, 80, 96, 114, 127, 127, 127)
# exp(-1 / 2d^2) for d = 2^((w - 8) / 4), to the last digit that the text's list has.
RATIOS = (
    0.00033546262790251185, 0.0034934892766462, 0.018315638888734196, 0.059105746561956225,
    0.1353352832366127, 0.2431167344342142, 0.3678794411714424, 0.4930686913952398,
    0.6065306597126334, 0.7021885013265596, 0.7788007830714049, 0.8379668855787558,
    0.8824969025845955, 0.9154053121862227, 0.9394130628134758, 0.9567681601026565,
    0.9692332344763441, 0.9781452653377496, 0.9844964370054085, 0.9890122675365304,
    0.9922179382602435, 0.9944909590019059, 0.9961013694701175, 0.9972416753234423,
    0.9980487811074755, 0.9986198853034333, 0.9990239141819757, 0.9993097043977074,
    0.9995118379398894, 0.9996547926147843, 0.9997558891748972, 0.9998273814088031,
)


def parity(states, mask):
    """The parity of each state's bits that are set in the mask."""
    return np.array([(int(state) & mask).bit_count() & 1 for state in states])


EVERY = range(STATES)
CLASS = 2 * parity(EVERY, 157) + parity(EVERY, 86)


def codewords(rate):
    """The values of every state's codeword, f32 [256, V], for a rate of 0 to 4."""
    v = ENTRIES[rate]
    levels = np.array(sorted(level * sign for level in LEVELS[v] for sign in (-1, 1))) / 1024
    width = len(MASKS[v]) // v
    book = np.empty((STATES, v), "f4")
    for i in range(v):
        number = np.zeros(STATES, int)
        for mask in MASKS[v][i * width : (i + 1) * width]:
            number = 2 * number + parity(EVERY, mask)
        book[:, i] = levels[number]
    return book


def frequencies(counts):
    """Frequencies that sum up to 2^14 from counts; a count of 0 keeps frequency 0. In whole numbers throughout."""
    total = sum(counts)
    out = [max(1, (2 * UNIT * c + total) // (2 * total)) if c else 0 for c in counts]

    def greater(left, right):
        return left[0] * right[1] > right[0] * left[1]

    while sum(out) != UNIT:
        few, best = sum(out) < UNIT, None
        for byte, (c, f) in enumerate(zip(counts, out)):
            if c and (few or f > 1):
                share = (c, 2 * f + 1 if few else 2 * f - 1)
                if best is None or (greater(share, best[1]) if few else greater(best[1], share)):
                    best = byte, share
        out[best[0]] += 1 if few else -1
    return out


def unfold(byte):
    """The code that a byte stands for."""
    return byte // 2 if byte % 2 == 0 else -(byte + 1) // 2


def powers(ratio, first, count):
    """W(0) to W(count - 1) of the text, products in f64."""
    weights, weight, factor = [], 1.0, first
    for _ in range(count):
        weights.append(weight)
        weight, factor = weight * factor, factor * (ratio * ratio)
    return weights


def code_table(deviation):
    """Frequencies of the 256 bytes of codes of a deviation."""
    weights = powers(RATIOS[deviation], RATIOS[deviation], 129)
    return frequencies([1 + int(2.0**24 * weights[abs(unfold(byte))]) for byte in range(256)])


def number_table(rate, b):
    """Frequencies of the 256 bytes of m = (k - b) / 2, for a rate of 5 to 22."""
    ratio = RATIOS[rate - 2]
    weights = powers(ratio, ratio * ratio if b else ratio, 129)
    sizes = [abs(2 * unfold(byte) + b) for byte in range(256)]
    return frequencies([1 + int(2.0**24 * weights[k // 2]) if k <= LARGEST[rate - 5] else 0 for k in sizes])


class Rans:
    """FORMAT.md section 6.6, steps 2 and 3: codes one after another, each with a table of its own."""

    def __init__(self, data):
        self.states = [int.from_bytes(data[i : i + 4], "little") for i in range(0, 16, 4)]
        self.words = np.frombuffer(data[16:], "<u2").tolist()
        self.at = self.read = 0
        assert len(data) >= 16 and min(self.states) >= 2**16

    def next(self, table):
        symbols, before, freqs = table
        x = self.states[self.at % 4]
        slot = x % UNIT
        byte = symbols[slot]
        x = freqs[byte] * (x // UNIT) + slot - before[byte]
        if x < 2**16:
            x = x * 2**16 + self.words[self.read]
            self.read += 1
        self.states[self.at % 4] = x
        self.at += 1
        return unfold(byte)

    def end(self):
        assert self.states == [2**16] * 4 and self.read == len(self.words), "the stream does not end as it must"


def lookup(freqs):
    """A table as `Rans.next` takes it: the byte of each slot, what lies before each byte, and the frequencies."""
    before = np.concatenate([[0], np.cumsum(freqs)[:-1]])
    return np.repeat(np.arange(256), freqs).tolist(), before.tolist(), freqs


class Reader:
    """The fields of a payload, one after another."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        out = self.data[self.at : self.at + count]
        assert len(out) == count, "the payload is too short"
        self.at += count
        return out

    def number(self, kind):
        return np.frombuffer(self.take(np.dtype(kind).itemsize), kind)[0].item()

    def varint(self):
        out, shift = 0, 0
        while True:
            byte = self.number("u1")
            out |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                assert out < 2**32 and (byte or shift == 7)
                return out


def settings(reader, n_rows):
    """The fields before the codes."""
    rate, flags, exponent = reader.number("u1"), reader.number("u1"), reader.number("<i2")
    assert rate <= 22 and flags < 32 and -100 <= exponent <= 120
    rates = [(rate, n_rows)]
    if flags & 4:
        second, first = reader.number("u1"), reader.varint()
        assert second <= 22 and 1 <= first < n_rows
        rates = [(rate, first), (second, n_rows - first)]
    out = {"rates": rates, "octave": 2 << (flags & 3), "exponent": exponent, "rank": 0, "coded": bool(flags & 16)}
    if flags & 8:
        out |= {"step": np.float32(reader.number("<f4")), "rank": reader.varint()}
    if out["coded"]:
        out |= {"deviations": [*reader.take(2 * out["rank"] + 1)], "centre": reader.number("u1")}
        out["length"] = reader.varint()
    return out


def side_codes(reader, head, n_rows, n_cols):
    """Right codes [rank, n_cols], left codes [rank, n_rows], and the codes of the rows' gains."""
    runs = [n_cols, n_rows] * head["rank"] + [n_rows]
    if head["coded"]:
        stream = Rans(reader.take(head["length"]))
        tables = [lookup(code_table(w)) for w in head["deviations"]]
        codes = [np.array([stream.next(table) for _ in range(run)]) for table, run in zip(tables, runs)]
        stream.end()
        *sides, gains = codes
        gains = np.where(gains == -128, 0, gains + head["centre"])
    else:
        sides = [np.frombuffer(reader.take(run), "i1") for run in runs[:-1]]
        gains = np.frombuffer(reader.take(n_rows), "u1")
    assert 0 <= gains.min() and gains.max() <= 255
    return sides[0::2], sides[1::2], gains.tolist()


def path_values(reader, rate, count):
    """The values, f32, that a path of a rate says, signs and gains left out."""
    if rate >= 5:
        return whole_numbers(reader.take(reader.varint()), rate, count) * np.float32(2.0 ** (1 - (rate - 2) / 4))
    steps = -(-count // ENTRIES[rate])
    bits = np.unpackbits(np.frombuffer(reader.take(-(-steps // 8)), "u1"))
    assert not bits[steps:].any()
    string = np.concatenate([np.zeros(7, "i8"), bits[:steps]])
    states = np.lib.stride_tricks.sliding_window_view(string, 8) @ (1 << np.arange(8)[::-1])
    return codewords(rate)[states].ravel()[:count]


def whole_numbers(data, rate, count):
    """The k of every step, f32."""
    stream, state, out = Rans(data), 0, np.empty(count, "f4")
    tables = [lookup(number_table(rate, b)) for b in (0, 1)]
    classes = CLASS.tolist()
    for i in range(count):
        state = 2 * state % STATES
        b = classes[state] % 2
        out[i] = k = 2 * stream.next(tables[b]) + b
        state += classes[state] != k % 4
        assert classes[state] == k % 4
    stream.end()
    return out


def gain(code, head):
    """The gain of a code, f32."""
    if code == 0:
        return np.float32(0)
    whole, part = divmod(code - 1, head["octave"])
    return np.float32(2.0 ** (-part / head["octave"])) * np.float32(2.0 ** max(head["exponent"] - whole, -125))


def decode(payload, n_rows, n_cols, key, first_row=0):
    """The delta of a tile, f32 [n_rows, n_cols]; `first_row` counts over all matrices of the tensor of this key."""
    reader = Reader(payload)
    head = settings(reader, n_rows)
    right, left, gains = side_codes(reader, head, n_rows, n_cols)
    values = np.concatenate([path_values(reader, rate, rows * n_cols) for rate, rows in head["rates"]])
    assert reader.at == len(payload), "bytes are left over"
    values = values.reshape(n_rows, n_cols)
    negated = np.array([generator.signs(key, first_row + row, n_cols) for row in range(n_rows)])
    delta = np.where(negated, -values, values) * np.array([gain(code, head) for code in gains])[:, None]
    for q, p in zip(right, left):
        norm = np.float32(np.sqrt(np.float64((q.astype("i8") ** 2).sum())))
        if norm > 0:
            delta = delta + (p.astype("f4") * head["step"] / norm)[:, None] * q.astype("f4")
    assert delta.dtype == np.float32
    return delta


def add(base, delta):
    """FORMAT.md section 6.8 for an f32 base and fine-tune: where the delta is 0 the base's value is taken."""
    return np.where(delta == 0, base, base + delta)


def best_path(errors):
    """The states, [T], of the path from state 0 with the least sum of `errors`, one row [256] a step."""
    cost = np.where(np.arange(STATES) == 0, 0.0, np.inf)
    half, came = np.arange(STATES) // 2, []
    for error in errors:
        upper = cost[half + STATES // 2] < cost[half]
        came.append(upper)
        cost = np.where(upper, cost[half + STATES // 2], cost[half]) + error
    state, states = int(cost.argmin()), []
    for upper in reversed(came):
        states.append(state)
        state = state // 2 + STATES // 2 * int(upper[state])
    assert state == 0
    return np.array(states[::-1])


def search_words(x, rate):
    """The states of the codewords nearest to x, whose length V divides."""
    book = codewords(rate).astype("f8")
    energy = (book**2).sum(1)
    return best_path(energy - 2 * (book @ step) for step in x.reshape(-1, ENTRIES[rate]))


def search_numbers(x, rate):
    """The whole numbers nearest to x, and their bits by the tables."""
    bound = LARGEST[rate - 5]
    allowed = [np.array([k for k in range(-bound, bound + 1) if k % 4 == c]) for c in range(4)]
    nearest = np.stack([k[np.abs(x[:, None] - k).argmin(1)] for k in allowed], 1)
    states = best_path(error[CLASS] for error in (x[:, None] - nearest) ** 2)
    numbers = nearest[np.arange(len(x)), CLASS[states]]
    tables = np.log2(UNIT) - np.log2(np.maximum(1e-9, [number_table(rate, b) for b in (0, 1)]))
    m = (numbers - numbers % 2) // 2
    return numbers, tables[numbers % 2, np.where(m >= 0, 2 * m, -2 * m - 1)].sum()
