"""The graph of a network in the form that VisualDL draws: operations, the layers that they are in, and edges.

VisualDL reads the programs of Paddle 2 only, so it is given its own format, made of a real run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from .flow import Node

_VERSION = "1.0.0"  # of VisualDL's format
_ROOT = "/"


def visualdl_graph(nodes: Sequence[Node]) -> dict[str, Any]:
    """What VisualDL's graph page shows.

    Args:
        nodes (sequence of Node): of :func:`trace_flow`.

    Returns:
        dict: ``version``, ``nodes`` (operations and, around them, layers), ``vars`` (tensors) and ``edges``;
        it can be written as JSON.
    """
    graph = _Graph()
    for number, node in enumerate(nodes):
        graph.add(number, node)
    for number, node in enumerate(nodes):
        for source in node.sources:
            graph.connect(source, number)
    return {
        "version": _VERSION,
        "nodes": list(graph.nodes.values()),
        "vars": graph.tensors,
        "edges": list(graph.edges.values()),
    }


class _Graph:
    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}
        self.tensors: list[dict[str, Any]] = []
        self.edges: dict[tuple[str, str], dict[str, Any]] = {}
        self.names: list[str] = []
        self._node(_ROOT, "", leaf=False)

    def add(self, number: int, node: Node) -> None:
        """An operation and its result, in the layers that it runs in."""
        inside = _ROOT + node.where.replace(".", "/") if node.where else _ROOT
        above = _ROOT
        for path in _paths(inside):
            if path not in self.nodes:
                self._node(path, path.rpartition("/")[2], leaf=False, parent=above)
            above = path
        name = f"{inside.rstrip('/')}/{node.kind}_{number}"
        self._node(name, node.kind, leaf=True, parent=above)
        self.nodes[name]["attrs"] = {"detail": node.detail, "shape": str(list(node.shape))}
        self.nodes[name]["attr_types"] = {"detail": "STRING", "shape": "STRING"}
        self.nodes[name]["output_vars"]["Y"].append(_tensor(number))
        self.names.append(name)
        self.tensors.append(
            {
                "name": _tensor(number),
                "shape": list(node.shape),
                "type": "LOD_TENSOR",
                "dtype": "float32",
                "value": [],
                "persistable": False,
                "attrs": {},
                "from_node": name,
                "to_nodes": [],
            }
        )

    def _node(self, name: str, kind: str, leaf: bool, parent: str = "") -> None:
        self.nodes[name] = {
            "name": name,
            "show_name": name,
            "type": kind,
            "attrs": {},
            "is_leaf_node": leaf,
            "parent_node": parent,
            "input_vars": {"X": []},
            "output_vars": {"Y": []},
            **{key: [] for key in ("children_node", "input_nodes", "output_nodes")},
            **{key: [] for key in ("edge_input_nodes", "edge_output_nodes")},
        }
        if parent:
            self.nodes[parent]["children_node"].append(name)

    def connect(self, source: int, target: int) -> None:
        """The tensor of ``source`` goes into ``target``: out of its layers and into the other's."""
        first, last, tensor = self.names[source], self.names[target], _tensor(source)
        self.tensors[source]["to_nodes"].append(last)
        out, into = [first, *self._above(first)], [last, *self._above(last)]
        common = next(name for name in out if name in into)
        out, into = out[: out.index(common)], into[: into.index(common)]
        for name in out:
            _once(self.nodes[name]["output_nodes"], last)
            _once(self.nodes[name]["output_vars"]["Y"], tensor)
        for name in into:
            _once(self.nodes[name]["input_nodes"], first)
            _once(self.nodes[name]["input_vars"]["X"], tensor)
        way = [*out, *reversed(into)]
        for start, end in itertools.pairwise(way):
            self._edge(start, end, source)

    def _edge(self, start: str, end: str, source: int) -> None:
        if (start, end) not in self.edges:
            self.edges[start, end] = {"from_node": start, "to_node": end, "vars": [], "label": ""}
            self.nodes[start]["edge_output_nodes"].append(end)
            self.nodes[end]["edge_input_nodes"].append(start)
        edge = self.edges[start, end]
        _once(edge["vars"], _tensor(source))
        several = len(edge["vars"]) > 1
        edge["label"] = f"{len(edge['vars'])} tensors" if several else str(self.tensors[source]["shape"])

    def _above(self, name: str) -> list[str]:
        """The layers around a node, from the innermost."""
        found = []
        while name != _ROOT:
            name = self.nodes[name]["parent_node"]
            found.append(name)
        return found


def _paths(path: str) -> Iterator[str]:
    """``/a``, ``/a/b`` and so on up to ``path``."""
    parts = [part for part in path.split("/") if part]
    for length in range(1, len(parts) + 1):
        yield _ROOT + "/".join(parts[:length])


def _tensor(number: int) -> str:
    return f"tensor_{number}"


def _once(values: list[str], value: str) -> None:
    if value not in values:
        values.append(value)
