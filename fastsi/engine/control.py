"""What the engine asks while the paths of a request end: how many more, and which count."""

from __future__ import annotations

from typing import Protocol


class GroupController(Protocol):
    """Decides how many paths of one request are needed, from the texts of those that ended.

    The engine knows nothing of answers or votes; ``fastsi.vote.VoteController`` is one of these.
    What a controller decides must depend on the texts by path index alone, not on the order of the
    calls: then the same paths count in every batch.
    """

    @property
    def wanted(self) -> int:
        """Paths 0..wanted-1 are worth running now.

        Always more than the paths that are decided on, so that there is one to wait for. Later
        paths start only when rows would be idle otherwise. Read after each call of `finished`.
        """

    def finished(self, index: int, text: str) -> int | None:
        """Take the text of path ``index``, once per path, in the order in which paths end.

        Returns:
            None while undecided; then the number of paths that count. Paths of higher index are
            cancelled: their pages are free at once, and they are not in the result.
        """
