"""The peers that follow from the view of the mesh."""

from app.credentials import ApiKeyCredentials
from app.mesh.members import Member, Record, Status, View
from app.node_client import NodeClient
from app.peers.mesh import MeshPeers
from app.upstream import Upstream


def test_until_its_catalogue_is_here_a_member_counts_as_having_none_of_what_has_a_name() -> None:
    view = View(Member(Record("a" * 16, 1, "here"), (0, Status.ALIVE), 0.0))
    services = ("api", "agents", "inference", "memory", "tools", "rag")
    view.add(Member(Record("b" * 16, 1, "there", "http://127.0.0.1:9", services), (0, Status.ALIVE), 0.0))
    peers = MeshPeers(lambda: view, NodeClient(Upstream(), "a" * 16, ApiKeyCredentials("")), lambda node_id, answered: None)
    peers.follow(1.0)
    [peer] = peers.all()
    assert {service for service in services if not peer.has(service, "some")} == {"agents", "inference", "rag"}
    assert all(peer.has(service, None) and peer.offers(service) for service in services)
