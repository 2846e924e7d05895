"""The settings of a server that `rmi-agent` starts for one program, or why there is none to run.

The program is a file of the person's current folder, which joins the projects folders, or one of
the projects folder. Nothing is created for a file that is missing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ..errors import BadSettings, PathNotAllowedError
from ..files import Projects, project_files
from ..settings import Settings, variable_of

PROGRAMS = frozenset({".py", ".ipynb"})
SEARCHED = 2_000  # max files of a folder among which those with a similar name are searched
NAMED = 3  # max files with a similar name that are named


def for_one_run(settings: Settings, here: tuple[Path, ...], wanted: str | None) -> Settings:
    """Settings with which a program can be run.

    Args:
        settings: as they were read.
        here: folders of the person's, where the program was found; with the projects folder,
            these are what it may use.
        wanted: the name of a program that was not found there, to be looked for in the projects
            folder.

    Raises:
        BadSettings: there is no such file, or its folder may not be used.
    """
    there = tuple(folder for folder in settings.python_projects_dir if folder.is_dir())
    if wanted is not None and not is_in(there, wanted):
        raise BadSettings(missing(settings, there, wanted))
    known = tuple(folder.resolve() for folder in there)
    new = tuple(
        folder for folder in here if not any(folder.resolve().is_relative_to(one) for one in known)
    )
    if settings.sandbox != "off":
        for folder in new:
            refuse_home(folder)
    if not there and not new:
        return settings
    folders = {"python_projects_dir": (*there, *new), "notebooks_dir": settings.notebooks}
    # Another server does not have the new folders.
    own = {"attach": "never"} if new and settings.rmi_agent_server is None else {}
    return settings.model_copy(update={**folders, **own})


def is_in(folders: tuple[Path, ...], wanted: str) -> bool:
    """Whether a program is in one of the folders."""
    if not folders:
        return False
    try:
        Projects(tuple(folder.resolve() for folder in folders)).existing(wanted)
    except PathNotAllowedError:
        return False
    return True


def missing(settings: Settings, folders: tuple[Path, ...], wanted: str) -> str:
    """Say where a program was looked for, and which ones have a similar name."""
    variable, all_ = variable_of("python_projects_dir"), settings.python_projects_dir
    places = " or ".join(map(str, all_))
    if not folders:
        places += ", which does not exist"
    names = dict.fromkeys(alike(folders, wanted))
    close = difflib.get_close_matches(wanted, names, NAMED, cutoff=0.6)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return (
        f"File not found: {wanted} is neither in the current folder, {Path.cwd()}, nor in the"
        f" projects folder, {places} ({variable}).{hint}"
    )


def alike(folders: tuple[Path, ...], wanted: str) -> Iterator[str]:
    """The programs among which one with a similar name may be."""
    parent = Path.cwd() / Path(wanted).parent
    if parent.is_dir():
        for path in islice(parent.iterdir(), SEARCHED):
            if path.suffix in PROGRAMS:
                yield str(Path(wanted).parent / path.name)
    for folder in folders:
        for name, _ in islice(project_files.walk(folder.resolve(), PROGRAMS), SEARCHED):
            yield name


def refuse_home(folder: Path) -> None:
    """Refuse to let code in the sandbox change a folder that has the whole home folder.

    Raises:
        BadSettings: it has.
    """
    home = Path.home().resolve()
    if home.is_relative_to(folder.resolve()):
        what = "is" if home == folder.resolve() else "contains"
        raise BadSettings(
            f"Code in the sandbox may change the folder that it is run in, and {folder} {what} your"
            " home folder. Move the file into a folder of its own, or run it without a sandbox:"
            " rmi-agent run --no-sandbox FILE"
        )
