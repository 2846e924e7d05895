"""The record of a session: a notebook that is valid after every cell, even after a crash.

Also reads such notebooks, and compares the outputs of two runs of a cell.
"""

from ..encoding import decoded, encoded
from .compare import Difference, differences
from .recovery import PID_FILE_SUFFIX, is_open, is_recorded, recover
from .retention import delete_notebook, outdated_notebooks, prune
from .run import Run
from .runs_on_record import RunsOnRecord, recorded
from .signing import Signer
from .steps import Step, Steps, steps_of
from .titles import plain_title, retitle, set_title
from .undone import is_undone, mark_undone, undone_in
from .writer import Recorder

__all__ = [
    "PID_FILE_SUFFIX",
    "Difference",
    "Recorder",
    "Run",
    "RunsOnRecord",
    "Signer",
    "Step",
    "Steps",
    "decoded",
    "delete_notebook",
    "differences",
    "encoded",
    "is_open",
    "is_recorded",
    "is_undone",
    "mark_undone",
    "outdated_notebooks",
    "plain_title",
    "prune",
    "recorded",
    "recover",
    "retitle",
    "set_title",
    "steps_of",
    "undone_in",
]
