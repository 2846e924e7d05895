"""What recording a cell costs early and late in a notebook: `python -m benchmarks.recording`.

The rival in the same run is a full save through nbformat at the same length.
"""

from __future__ import annotations

import base64
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook, new_output
from rmi_agent.kernels.notebook.writer import Recorder


def milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)


def cell(picture: str) -> nbformat.NotebookNode:
    made: nbformat.NotebookNode = new_code_cell("plot()")
    data = {"image/png": picture} if picture else {"text/plain": "42"}
    made.outputs = [new_output("display_data", data=data)]
    return made


def measure(folder: Path, cells: int, picture: str) -> None:
    recorder = Recorder(folder, {})
    times: list[float] = []

    def record() -> None:
        made = cell(picture)
        recorder.start(made, "benchmark")
        recorder.finish(made, "benchmark")

    for _ in range(cells):
        times.append(milliseconds(record))
    recorder.close()
    early, late = statistics.median(times[5:25]), statistics.median(times[-20:])
    whole = new_notebook(cells=[cell(picture) for _ in range(min(cells, 200))])
    save = statistics.median(
        milliseconds(lambda: nbformat.write(whole, folder / "rival.ipynb")) for _ in range(3)
    )
    what = f"{len(picture):,} byte pictures" if picture else "small cells"
    print(f"{what}: cell 10 {early:.2f} ms, cell {cells} {late:.2f} ms, ratio {late / early:.2f}")
    print(f"  a full save by nbformat at cell {len(whole.cells)}: {save:.1f} ms")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        measure(Path(place), 2000, "")
        measure(Path(place), 300, base64.b64encode(os.urandom(750_000)).decode())
