"""Stand-ins for the nodes of a cluster on one machine, to develop and test with: a node can be killed and come back empty.

Each has namespaces of its own (`namespaces`), or directories of its own where these are refused (`simulated`); `nodes` is
what callers see, `state` what is kept on disk between calls. Nothing here knows what runs on the nodes.
"""

from .nodes import Cluster
from .probe import refusal
from .state import ClusterError, Node, NodeStatus, RefusedError

__all__ = ["Cluster", "ClusterError", "Node", "NodeStatus", "RefusedError", "refusal"]
