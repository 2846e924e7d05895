"""The record of a session: a notebook that is complete after every cell, whatever happens.

Also reads it again, and compares what two runs of one cell have put out.
"""

from .compare import Difference, Recorded, differences, recorded
from .encoding import decoded, encoded
from .journal import JOURNAL_SUFFIX, is_open, is_recorded, recover
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
