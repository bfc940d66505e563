"""The harness itself: two real etcds must agree, or a disagreement with ours would mean nothing."""

from tests.gateway import Gateway, b64
from tests.parity.agreement import check
from tests.parity.replay import At, Call, Watch, replay, replay_on_both
from tests.parity.requests import long_sequence


def test_two_etcds_agree(oracle: Gateway, other_oracle: Gateway) -> None:
    other_oracle.put("elsewhere")  # absolute revisions differ from here on, as ours will

    check(lambda steps: replay_on_both(oracle, other_oracle, steps), long_sequence, examples=25)


def test_the_harness_sees_a_difference(oracle: Gateway, other_oracle: Gateway) -> None:
    put = Call("/v3/kv/put", {"key": b64("a"), "value": b64("1")})
    other = Call("/v3/kv/put", {"key": b64("a"), "value": b64("2")})
    for last in (Call("/v3/kv/range", {"key": b64("a")}), Watch({"key": b64("a"), "start_revision": At(1)})):
        assert replay(oracle, [put, last]) != replay(other_oracle, [other, last])
