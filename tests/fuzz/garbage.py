"""What a broken or hostile sender sends: bytes and documents that were valid once.

Place in the house   tests/fuzz -> garbage
Gives                strategies; `fuzzed`, a property's settings: the same examples each time, or ever new
"""

import os
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

# `make fuzz` sets it: more examples, and others in each round.
ROUND = int(os.environ.get("FUZZ_TIMES", "0"))
NUMBER_MAX = 2**63 - 1


def fuzzed(examples: int, *, shrink: bool = True) -> Callable[[Any], Any]:
    """`shrink`: whether a failure is made small by trying again and again; a node that hangs takes long."""
    decorate: Callable[[Any], Any] = settings(
        max_examples=examples * (ROUND or 1),
        derandomize=not ROUND,
        database=None,
        deadline=None,
        print_blob=True,
        phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if shrink else [])],
        suppress_health_check=list(HealthCheck),
    )
    return decorate


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """`whole` after one to four accidents, each at any byte."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        to = draw(st.integers(at, min(len(data), at + 24)))
        match draw(st.sampled_from(("cut off", "lose", "flip", "insert", "replace", "double"))):
            case "cut off":
                del data[at:]
            case "lose":
                del data[at:to]
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "insert":
                data[at:at] = draw(st.binary(max_size=12))
            case "replace":
                data[at:to] = draw(st.binary(max_size=to - at))
            case "double":
                data[at:at] = data[at:to]
    return bytes(data)


def in_pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:stop] for start, stop in pairwise(places)]


# --- JSON -----------------------------------------------------------------------------------------


def _deep(depth: int, left: str, right: str) -> bytes:
    return (left * depth + right * depth).encode()


# Spelled, since no document we could build has NaN in it, a name twice, or text that is no text.
ODD_VALUES = [
    *(b"null", b"true", b"0", b"-1", b"1.5", b"1e400", b"-0", b"NaN", b"-Infinity"),
    *(b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809", b"1" * 5000),
    *(b'"9223372036854775808"', b'"-9223372036854775808"', b'"' + b"9" * 5000 + b'"', b'"1 "', b'"0x1"'),
    *(b'""', b'"AA=="', b'"AA"', b'"!!"', b'"A===="', b'"\\ud800"', b'"\xff\xfe"', b'"\\u0000"', b'"\n"'),
    *(b"[]", b"[null]", b"[[]]", b"{}", b'{"key":"AA=="}', b'{"a":1,"a":2}', b'{"\xff":1}', b'["\xff"]'),
    *(b'"NONE"', b'"http://["', b'["http://["]', b'["http://127.0.0.1:1,"]', b'["http://h:99999"]'),
    *(_deep(2000, "[", "]"), _deep(100_000, "[", "]"), _deep(2000, '{"request_txn":', "}")),
]

odd_values = st.sampled_from(ODD_VALUES)


@st.composite
def odd_documents(draw: st.DrawFn, document: dict[str, Any]) -> bytes:
    """`document` with some of its values replaced by something else, anywhere in it."""

    def spell(value: Any) -> bytes:
        if draw(st.integers(0, 3)) == 0:
            return draw(odd_values)
        match value:
            case dict():
                pairs = [b'"%b":%b' % (name.encode(), spell(each)) for name, each in value.items()]
                if pairs and draw(st.integers(0, 7)) == 0:
                    pairs.append(draw(st.sampled_from(pairs)))
                return b"{%b}" % b",".join(pairs)
            case list():
                return b"[%b]" % b",".join([spell(each) for each in value])
            case bool():
                return b"true" if value else b"false"
            case int():
                return b"%d" % value
        return b'"%b"' % str(value).encode()

    return spell(document)
