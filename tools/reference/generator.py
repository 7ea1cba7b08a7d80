"""Mask generator 1 after FORMAT.md section 6.4: xxh3-64 of a tensor's name for the key, Philox4x32-10 for the draws."""
import numpy as np

# The first 128 bytes of XXH3's secret.
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
)
WORD, WIDE = 2**32 - 1, 2**64 - 1


def key(name, seed):
    """XXH3-64 of the name with the seed; names of 17 to 128 bytes alone, a weight's name has as many."""
    data = name.encode()
    if not 17 <= len(data) <= 128:
        raise ValueError(f"{name}: a name of 17 to 128 bytes is needed")

    def mix(at, secret):
        low, high = (int.from_bytes(data[i : i + 8], "little") for i in (at, at + 8))
        under, over = (int.from_bytes(SECRET[i : i + 8], "little") for i in (secret, secret + 8))
        product = (low ^ (under + seed & WIDE)) * (high ^ (over - seed & WIDE))
        return product & WIDE ^ product >> 64

    total = len(data) * 0x9E3779B185EBCA87
    for pair in range((len(data) - 1) // 32 + 1):
        total += mix(16 * pair, 32 * pair) + mix(len(data) - 16 * (pair + 1), 32 * pair + 16)
    total &= WIDE
    total = (total ^ total >> 37) * 0x165667919E3779F9 & WIDE
    return total ^ total >> 32


def draws(key, row, count):
    """The first `count` 16-bit draws of a row."""
    blocks = np.arange(-(-count // 8), dtype="u8")
    x = [blocks, np.full_like(blocks, row & WORD), np.full_like(blocks, row >> 32), np.zeros_like(blocks)]
    low, high = key & WORD, key >> 32
    for _ in range(10):
        first, second = x[0] * np.uint64(0xD2511F53), x[2] * np.uint64(0xCD9E8D57)
        x = [
            second >> np.uint64(32) ^ x[1] ^ np.uint64(low), second & np.uint64(WORD),
            first >> np.uint64(32) ^ x[3] ^ np.uint64(high), first & np.uint64(WORD),
        ]
        low, high = low + 0x9E3779B9 & WORD, high + 0xBB67AE85 & WORD
    return np.stack(x, 1).astype("<u4").view("<u2").ravel()[:count]


def signs(key, row, count):
    """FORMAT.md section 6.7: True where an entry of the row is negated."""
    words = draws(key, row, -(-count // 16)).astype("<u2")
    return np.unpackbits(words.view("u1"), bitorder="little")[:count].astype(bool)
