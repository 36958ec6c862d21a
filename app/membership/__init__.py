"""This node as a member of the mesh: the glue between the protocol (app.mesh), the node, and the peers that follow from it."""

from app.membership.membership import Membership as Membership
from app.membership.membership import Self as Self
