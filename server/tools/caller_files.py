"""The files that callers may use: the projects folders, and each principal's own home folder.

Knows settings and policies; `server/files` reads and writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..files import Projects, identities
from ..launch import kernels_are_here
from ..sandboxing import private_paths
from ..settings import Settings
from .caller import principal

if TYPE_CHECKING:
    from ...kernels import Policy


class CallerFiles:
    """The files of one server's callers.

    Args:
        settings: name the projects folders.
        policy: names the home folders; None if code has its user's own.

    Attributes:
        are_here: whether code runs on this machine, with these files.
    """

    def __init__(self, settings: Settings, policy: Policy | None) -> None:
        self.roots, self._policy = settings.roots, policy
        self.are_here = kernels_are_here(settings)
        self._known: dict[str, Projects] = {}
        homes = [] if policy is None else [policy.homes]
        self.hidden = (*private_paths(settings), *homes)
        # Not files: an editor replaces them, and their numbers may become those of others.
        self._known_folders = identities(path for path in self.hidden if path.is_dir())

    def of_caller(self) -> Projects:
        """What the calling principal may use."""
        return self.of(principal())

    def of(self, who: str) -> Projects:
        """What a principal may use."""
        if (known := self._known.get(who)) is None:
            home = None if self._policy is None else self._policy.home(who).resolve()
            known = self._known[who] = Projects(self.roots, home, self.hidden, self._known_folders)
        return known
