"""Trees of messages as OpenAssistant publishes them (Köpf et al. 2023, arXiv:2304.07327) → conversations along paths.

Both forms are read: one tree a row, and one message a row with its parent. It knows no file.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from adapt.instructions.example import ExampleFault
from adapt.instructions.forms import Found, mended_turns

Paths = Literal["best", "all"]
MOST_NODES = 20_000
"""Messages of one tree."""
DEEPEST = 500


@dataclass
class Node:
    """A message; `rank` 0 is what people liked best, None where nobody ranked."""

    role: Any
    text: Any
    rank: int | None = None
    usable: bool = True
    replies: list["Node"] = field(default_factory=list)


def is_tree(row: Mapping[str, Any]) -> bool:
    """{"message_tree_id", "prompt": {"text", "role", "replies"}}"""
    return isinstance(row.get("prompt"), dict) and "text" in row["prompt"]


def is_message(row: Mapping[str, Any]) -> bool:
    """{"message_id", "parent_id", "text", "role"}"""
    return {"message_id", "text", "role"} <= set(row)


def tree_of(row: Mapping[str, Any]) -> Node:
    """The tree of a row. Raises ExampleFault. Without recursion, so that a deep one costs nothing."""
    root = _node(row["prompt"])
    stack = [(root, row["prompt"], 1)]
    count = 0
    while stack:
        node, written, depth = stack.pop()
        count += 1
        replies = written.get("replies") or []
        if count > MOST_NODES or depth > DEEPEST:
            raise ExampleFault("too-large", f"has more than {MOST_NODES:,} messages or goes deeper than {DEEPEST}")
        if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
            raise ExampleFault("form", "has replies that are no messages")
        node.replies = [_node(reply) for reply in replies]
        stack += [(child, reply, depth + 1) for child, reply in zip(node.replies, replies, strict=True)]
    return root


class Trees:
    """Single messages, in any order → their trees. All are in memory."""

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[int, Node, str | None]] = {}

    def add(self, number: int, row: Mapping[str, Any]) -> None:
        """Take a row. Raises ExampleFault for one without an id or with that of another."""
        name, parent = row["message_id"], row.get("parent_id")
        if not isinstance(name, str) or not (parent is None or isinstance(parent, str)):
            raise ExampleFault("form", "has a 'message_id' or 'parent_id' that is no text")
        if name in self._nodes:
            raise ExampleFault("form", f"repeats the message_id of row {self._nodes[name][0]:,}")
        self._nodes[name] = (number, _node(row), parent)

    def trees(self) -> Iterator[tuple[int, Node | ExampleFault]]:
        """(row of the first message, its tree); then each message that no first message leads to, as a fault."""
        roots: list[tuple[int, Node]] = []
        for number, node, parent in self._nodes.values():
            if parent is None:
                roots.append((number, node))
            elif parent in self._nodes:
                self._nodes[parent][1].replies.append(node)
        reached: set[int] = set()
        for number, root in roots:
            waiting = [root]
            while waiting:
                node = waiting.pop()
                reached.add(id(node))
                waiting += node.replies
            yield number, root
        for number, node, parent in self._nodes.values():
            if id(node) not in reached:
                yield number, ExampleFault("orphan", f"answers {str(parent)[:60]!r}, which leads to no first message")


def conversations(root: Node, paths: Paths) -> Iterator[Found | ExampleFault]:
    """The best path (at each message the reply that ranks first), or all paths with the best first.

    What was deleted or did not pass the set's own review ends a path before it. A path that ends with a question loses
    it; of paths that are then the same only one is told.
    """
    if not root.usable:
        yield ExampleFault("deleted", "was deleted, or did not pass the set's review")
        return
    told: set[tuple[int, ...]] = set()
    for path, ranks in _paths(root, paths):
        end = len(path)
        while end and _is_question(path[end - 1]):
            end -= 1
        key = tuple(map(id, path[:end]))
        if key in told:
            continue
        told.add(key)
        try:
            messages, mended = mended_turns([(node.role, node.text) for node in path[: end or len(path)]])
        except ExampleFault as fault:
            yield fault
            continue
        if 0 < end < len(path):
            mended.append("open-end")
        ranked = [rank for rank in ranks[:end] if rank is not None]
        yield Found(messages, {"rank": max(ranked)} if ranked else {}, mended)


def _paths(root: Node, paths: Paths) -> Iterator[tuple[list[Node], list[int | None]]]:
    """Paths from the root to a leaf, by rank, with the rank of each message on it."""
    stack: list[tuple[list[Node], list[int | None]]] = [([root], [None])]
    while stack:
        path, ranks = stack.pop()
        usable = [reply for reply in path[-1].replies if reply.usable]
        # What nobody ranked comes last, in the order of the file, and first of it what somebody answered.
        order = sorted(usable, key=lambda reply: (reply.rank is None, reply.rank or 0, not reply.replies))
        if not order:
            yield path, ranks
        for reply in reversed(order[:1] if paths == "best" else order):
            stack.append(([*path, reply], [*ranks, reply.rank]))


def _is_question(node: Node) -> bool:
    return isinstance(node.role, str) and node.role.strip().lower() in ("prompter", "user", "human")


def _node(row: Mapping[str, Any]) -> Node:
    rank = row.get("rank")
    known = isinstance(rank, int | float) and not isinstance(rank, bool) and rank == rank and rank >= 0
    return Node(
        row.get("role"),
        row.get("text"),
        int(rank) if known and rank is not None else None,
        row.get("deleted") is not True and row.get("review_result") is not False,
    )
