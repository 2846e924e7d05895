"""An assistant that tries two models from one loaded table, and takes a step back.

The same program prints the transcript that docs/two-models.md has:
`python -m tests.server.test_two_models`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from rmi_agent.kernels import why_not

from tests.conftest import policy
from tests.server.transcripts import DOCS, Transcript, not_said, print_transcript, transcript_of

PAGE = DOCS / "two-models.md"
RENTALS = """\
day,temperature,rentals
2026-03-02,4,118
2026-03-16,9,305
2026-03-30,12,
2026-04-13,15,492
2026-04-27,18,540
2026-05-11,21,561
2026-05-25,24,549
2026-06-08,27,503
2026-06-22,31,388
2026-07-06,33,306
2026-09-14,20,556
2026-10-12,11,371
"""
LOAD = """\
import numpy as np, pandas as pd
rentals = pd.read_csv("rentals.csv", parse_dates=["day"]).dropna()
train, test = rentals[::2], rentals[1::2]
def error(model):
    off = np.polyval(model, test.temperature) - test.rentals
    return round(float(np.sqrt((off**2).mean())), 1)
len(train), len(test)"""
FIT = "model = np.polyfit(train.temperature, train.rentals, {})\nerror(model)"
WITHOUT_SUMMER = f"train = train[train.temperature < 22]\n{FIT.format(2)}"


async def two_models(transcript: Transcript) -> None:
    """Load a table once, fit a line and a parabola, keep the better one, and undo a mistake."""
    call = transcript.call
    await call("write_file", path="rentals.csv", content=RENTALS)
    text, facts = await call("run_cell", code=LOAD)
    first = facts["session_id"]
    assert "(6, 5)" in text
    text, facts = await call("fork_session", session_id=first)
    second = facts["session_id"]
    assert second != first
    text, _ = await call("run_cell", code=FIT.format(1), session_id=first)
    line = float(text.splitlines()[0])
    text, _ = await call("run_cell", code=FIT.format(2), session_id=second)
    assert float(text.splitlines()[0]) < line / 5
    await call("close_session", session_id=first)

    text, facts = await call("run_cell", code=WITHOUT_SUMMER, session_id=second, checkpoint=True)
    assert float(text.splitlines()[0]) > line / 4
    text, restored = await call("restore_session", session_id=second, cell=facts["cell"])
    assert restored["undone"] == [facts["cell"]]
    text, _ = await call("run_cell", code="len(train), error(model)", session_id=second)
    assert text.startswith("(6, ")


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.skipif(sys.platform != "linux", reason="forks need Linux")
@pytest.mark.parametrize("tier", ["off", "bwrap", "landlock"])
async def test_an_assistant_tries_two_models_from_one_table(tmp_path: Path, tier: str) -> None:
    projects = tmp_path / "projects"
    projects.mkdir()
    rules = policy(projects, tier)
    if rules is not None and (why := why_not(rules)):
        pytest.skip(why)
    parts: list[str] = []
    await transcript_of(two_models, projects, tier, parts.append)
    missing = not_said(PAGE, parts)
    assert not missing, f"not in the transcript: {missing}"


if __name__ == "__main__":
    print_transcript(two_models)
