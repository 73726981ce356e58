"""Damaged copies of a file: bytes that are flipped, cut, repeated or replaced, and values of JSON that are replaced."""

import copy
import io
import json
import random
import zipfile

PIECES = (
    b"\x00", b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\xef\xbb\xbf", b"\xc3\x28", b"\xe2\x80\xae", b"NaN", b"1e999", b"-1",
    b"9" * 30, b"[" * 3000, b"{\"a\":" * 3000, b"\r\n", b"'", b'"', b"\\u0000", b"../../etc/passwd", b"%s%n", b"\x1b[2J",
)  # fmt: skip
VALUES = (
    None, True, 0, -1, 2**31, 2**63, 2**70, 1e308, float("nan"), float("inf"), -0.5, "", "x", "../x", "\u202e", "\x00", "x" * 100_000,
    [], {}, [[]], [None], {"": None}, [[[[[[]]]]]],
)  # fmt: skip


def mutated(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """Return a damaged copy of a file's content; `other` is the content of another file of the kind."""
    if rng.random() < 0.6:
        replaced = _replaced_value(content, rng)
        if replaced is not None:
            return replaced
    if content[:2] == b"PK" and rng.random() < 0.6:
        return _with_another_member(content, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        content = rng.choice(CHANGES)(content, other, rng)
    return content


def _with_another_member(content: bytes, rng: random.Random) -> bytes:
    """Return a sound zip archive, as .npz and .pt files are, one of whose members is damaged."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    chosen = rng.choice(sorted(members))
    members[chosen] = rng.choice(CHANGES)(members[chosen], members[rng.choice(sorted(members))], rng)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return file.getvalue()


def _replaced_value(content: bytes, rng: random.Random) -> bytes | None:
    """Return JSON with one to three values replaced, removed or added, or None if the content is not JSON."""
    try:
        table = json.loads(content)
    except (ValueError, RecursionError):
        return None
    for _ in range(rng.choice((1, 1, 2, 3))):
        table = _replace(table, rng)
    return json.dumps(table).encode()


def _replace(table: object, rng: random.Random) -> object:
    nodes = [(parent, key) for parent, key in _places(table)]
    if not nodes:
        return copy.deepcopy(rng.choice(VALUES))
    parent, key = rng.choice(nodes)
    change = rng.random()
    if change < 0.7:
        parent[key] = copy.deepcopy(rng.choice(VALUES))
    elif change < 0.85:
        del parent[key]
    elif isinstance(parent, dict):
        parent["unknown"] = copy.deepcopy(rng.choice(VALUES))
    else:
        parent.insert(key, parent[key])
    return table


def _places(value: object) -> list[tuple]:
    """Return the parent and the key of each value below another, up to 20 of a list."""
    found = []
    stack = [value]
    while stack:
        one = stack.pop()
        keys = list(one) if isinstance(one, dict) else range(min(len(one), 20)) if isinstance(one, list) else ()
        found += [(one, key) for key in keys]
        stack += [one[key] for key in keys]
    return found


def _flip(content: bytes, _other: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content or b"\0")
    for _ in range(rng.choice((1, 1, 3, 10))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(content: bytes, _other: bytes, rng: random.Random) -> bytes:
    start, size = rng.randrange(len(content) + 1), rng.choice((1, 2, 4, 8, 64))
    return content[:start] + rng.randbytes(size) + content[start + size :]


def _cut(content: bytes, _other: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _remove(content: bytes, _other: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + content[start + rng.choice((1, 4, 100, 1000)) :]


def _repeat(content: bytes, _other: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    part = content[start : start + rng.choice((1, 8, 200))]
    return content[:start] + part * rng.choice((2, 10, 300)) + content[start:]


def _insert(content: bytes, _other: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + rng.choice(PIECES) + content[start:]


def _splice(content: bytes, other: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)] + other[rng.randrange(len(other) + 1) :]


CHANGES = (_flip, _overwrite, _cut, _remove, _repeat, _insert, _splice)
