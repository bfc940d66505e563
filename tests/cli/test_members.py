"""`jobguard cluster member`, on our store and on real etcd: the same commands, to the same end."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobguard import membership, wire
from jobguard.cli import main
from jobguard.cli.members import show_command
from jobguard.observe import Cluster, Member
from jobguard.wire import int64
from tests.ports import free_ports
from tests.stores import BIN, Kind, Node, eventually, running
from tests.stores import Cluster as Store

PROGRAM = {
    "jobguard": [sys.executable, "-m", "jobguard_store"],
    "etcd": [str(BIN / "etcd"), "--log-level", "warn"],
}


@pytest.fixture
def three(kind: Kind, tmp_path: Path) -> Iterator[Store]:
    with running(kind, tmp_path, 3) as store:
        comes_to(store, "cluster status", "well: 3 of 3")
        yield store


def told(store: Store, line: str, *more: str) -> Result:
    environment = {"JOBGUARD_ENDPOINTS": ",".join(store.endpoints), "JOBGUARD_TIMEOUT": "30"}
    return CliRunner(env=environment).invoke(main, [*line.split(), *more], catch_exceptions=False)


def done(store: Store, line: str) -> str:
    answer = told(store, line)
    assert answer.exit_code == 0, answer.stderr
    return answer.stdout


def comes_to(store: Store, line: str, says: str) -> None:
    """A node that takes a second to answer counts as one that does not."""
    eventually(lambda: says in told(store, line).stdout, what=says)


def refused(store: Store, line: str, code: int) -> str:
    answer = told(store, line)
    assert (answer.exit_code, answer.stdout) == (code, ""), answer.stderr
    assert answer.stderr.startswith("Error: ")
    assert answer.stderr.count("\n") == 1
    return answer.stderr


def settled(answer: Result) -> Result | None:
    """etcd changes nothing before its members have been in touch for five seconds."""
    if "in touch" in answer.stderr:
        return None
    assert answer.exit_code == 0, answer.stderr
    return answer


def moved(store: Store, heir: str) -> bool:
    """etcd gives a transfer up that takes its election timeout, and then never answers who asked for it."""
    answer = told(store, f"cluster transfer-leadership {heir}")
    assert answer.exit_code in (0, 7), answer.stderr
    return answer.stdout == f"{heir} leads.\n"


def newcomer(store: Store, command: list[str], directory: Path) -> Node:
    flags = command[2:]
    url = flags[flags.index("--listen-client-urls") + 1]
    program = [*PROGRAM[store.kind], *flags, "--data-dir", str(directory / "new")]
    return Node("s4", url, program, directory / "new.log")


def test_a_member_joins_by_the_printed_command_votes_leads_moves_and_leaves(
    three: Store, tmp_path: Path
) -> None:
    peer, client, elsewhere = (f"http://127.0.0.1:{port}" for port in free_ports(3))
    add = f"cluster member add s4 --peer-urls {peer} --client-urls {client}"
    answer = eventually(lambda: settled(told(three, f"{add} --learner -o json")), 60, "etcd's five seconds")
    added = json.loads(answer.stdout)
    assert "has this peer URL already" in refused(three, add, 1)
    assert "has a learner already" in refused(
        three, f"cluster member add s5 --peer-urls {elsewhere} --learner", 1
    )
    id = added["member"]["id"]
    assert [id, "(not", "started)", "learner"] in [
        line.split()[:4] for line in done(three, "cluster member list").splitlines()
    ]
    comes_to(three, "cluster status", "well: 3 of 3")  # a learner costs nobody a quorum
    assert "has not caught up" in refused(three, f"cluster member promote {id}", 1)

    node = newcomer(three, added["command"], tmp_path)
    three.nodes.append(node)
    node.start()
    eventually(lambda: told(three, "cluster member promote s4").exit_code == 0, 60, "its vote")
    assert "votes already" in refused(three, "cluster member promote s4", 1)
    eventually(lambda: moved(three, "s4"), 120, "its lead")
    eventually(lambda: json.loads(told(three, "cluster status -o json").stdout or "{}").get("leader") == "s4")

    done(three, f"cluster member update s4 --peer-urls {elsewhere}")
    assert elsewhere in done(three, "cluster member list")
    assert "confirm with --yes" in told(three, "cluster member remove s4").stderr
    assert f"s4 ({id}) was removed." in done(three, "cluster member remove s4 --yes")
    refused(three, "cluster member remove s4 --yes", 3)
    assert "s4" not in done(three, "cluster member list")


def test_a_learner_that_has_not_started_costs_a_store_of_one_nothing(store: Store) -> None:
    added = json.loads(done(store, "cluster member add s2 --peer-urls http://127.0.0.1:9 --learner -o json"))
    comes_to(store, "cluster status", "well: 1 of 1 node answers")
    done(store, f"cluster member remove {added['member']['id']} --yes")


def test_the_printed_command_is_one_for_a_shell(capsys: pytest.CaptureFixture[str]) -> None:
    added = wire.Member(ID=int64(5), peerURLs=("http://10.0.0.4:2380",))
    started = wire.Member(ID=int64(1), name="s1", peerURLs=("http://a:1", "http://b:1"))
    show_command(added, membership.start_command((started, wire.Member(ID=int64(2)), added), added, "s4"))
    assert capsys.readouterr().out.split(" \\\n  ") == [
        "jobguard store",
        "--name s4",
        "--listen-peer-urls http://10.0.0.4:2380",
        "--initial-advertise-peer-urls http://10.0.0.4:2380",
        "--listen-client-urls http://10.0.0.4:2379",
        "--advertise-client-urls http://10.0.0.4:2379",
        "--initial-cluster s1=http://a:1,s1=http://b:1,s4=http://10.0.0.4:2380",
        "--initial-cluster-state existing\n",
    ]


def seen(**states: str) -> Cluster:
    members = [
        Member(id=id, name=id, state=state, client_urls=[], learner=id == "a4")  # type: ignore[arg-type]
        for id, state in states.items()
    ]
    return Cluster(health="well", summary="", leader="a1", term=1, members=members, revision=1)


@pytest.mark.parametrize(
    ("cluster", "member", "warning"),
    [
        (seen(a1="leader", a2="follower", a3="follower"), 0xA3, "no node may fail: 2 of 2"),
        (seen(a1="leader", a2="follower", a3="unreachable"), 0xA3, "no node may fail: 2 of 2"),
        (seen(a1="leader", a2="follower", a3="unreachable"), 0xA2, "costs the store its quorum: 1 of the 2"),
        (seen(a1="leader", a2="follower", a3="follower", a4="unreachable"), 0xA4, ""),
        (seen(a1="leader", a2="follower", a3="follower", a5="follower"), 0xA5, ""),
    ],
)
def test_what_a_removal_would_cost_is_said_before(cluster: Cluster, member: int, warning: str) -> None:
    said = membership.cost_of_removing(cluster, member)
    assert warning in said
    assert bool(said) == bool(warning)
