"""The record of a session: a notebook that is valid after every cell, even after a crash.

Also reads such notebooks, and compares the outputs of two runs of a cell.
"""

from .compare import Difference, Recorded, differences, recorded
from .encoding import decoded, encoded
from .recovery import JOURNAL_SUFFIX, is_open, is_recorded, recover
from .run import Run
from .runs_on_record import RunsOnRecord
from .writer import Recorder

__all__ = [
    "JOURNAL_SUFFIX",
    "Difference",
    "Recorded",
    "Recorder",
    "Run",
    "RunsOnRecord",
    "decoded",
    "differences",
    "encoded",
    "is_open",
    "is_recorded",
    "recorded",
    "recover",
]
