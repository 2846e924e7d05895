"""Words the system's errors about files for the caller, with the file that a name may mean."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Set
from itertools import islice
from pathlib import Path

from ..errors import NotAFileError, PathNotAllowedError, RootError
from .names import LIST_HINT, format_name, root_is_gone
from .safe_open import Identity
from .similar import most_similar
from .walking import walk

SEARCHED = 2_000  # max files among which one with a similar name is searched


@contextlib.contextmanager
def translated_errors(
    root: Path,
    file_name: str,
    done: str,
    suffixes: frozenset[str] | None = None,
    hidden: Set[Identity] = frozenset(),
) -> Iterator[None]:
    """Translate the system's errors into the original project's messages.

    Args:
        root: the folder that the file is in.
        file_name: as the caller gave it.
        done: what can't be done: "read", "found", "written".
        suffixes: of the files that a missing name may mean; None means of all.
        hidden: files and folders that it can't mean.

    Raises:
        PathNotAllowedError: for any OSError or RootError in the body.
    """
    name = format_name(file_name)
    try:
        yield
    except RootError as error:
        raise root_is_gone(root, str(error)) from None
    except NotAFileError:
        raise PathNotAllowedError(f"Error: Path is not a file: {name}. {LIST_HINT}") from None
    except FileNotFoundError:
        advice = LIST_HINT
        if done != "written" and (meant := meant_by(root, file_name, suffixes, hidden)):
            advice = f"Did you mean {format_name(meant)}?"
        raise PathNotAllowedError(f"Error: File not found: {name}. {advice}") from None
    except OSError as error:
        raise PathNotAllowedError(
            f"Error: File can't be {done}: {name}: {error.strerror}. {LIST_HINT}"
        ) from None


def meant_by(
    root: Path, file_name: str, suffixes: frozenset[str] | None, hidden: Set[Identity]
) -> str | None:
    """The file that a name that does not exist may mean; None if none is similar."""
    name = file_name.replace("\\", "/").removeprefix(f"{root.as_posix()}/")
    name = name.removeprefix("./").removeprefix(f"{root.name}/")
    files = walk(root, suffixes, hidden=hidden)
    return most_similar(name, (each for each, _ in islice(files, SEARCHED)))
