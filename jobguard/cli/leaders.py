"""jobguard leaders: who leads each election."""

from jobguard import observe
from jobguard.cli.face import Face, command, draw, left, when


@command(epilog="Example: jobguard leaders -o json")
def leaders(face: Face) -> None:
    """Who leads, since when, and who stands by. The beats' election is `beat`."""
    page = observe.leaders(face.client, stale=face.stale)
    rows = [
        (
            leader.election,
            leader.where,
            when(leader.since),
            left(leader.seconds_left),
            leader.fencing_token,
            ", ".join(other.where for other in leader.standing_by) or "nobody",
        )
        for leader in page.items
    ]
    heads = ("ELECTION", "LEADER", "SINCE", "LEFT", "TOKEN", "STANDING BY")
    face.give(page, lambda: draw(heads, rows, "Nobody leads."))
