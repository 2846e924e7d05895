"""The first rows of a table's file, for `worker_main.py`: Parquet, Feather and spreadsheets.

Needs pandas or polars, with what they need for each kind. Run in the worker, without this package.
"""

from __future__ import annotations

import csv
import io
import mimetypes
import os
from collections.abc import Iterable, Sequence
from typing import Any

COLUMNS = 50  # shown
CHARS = 60  # of one value
# One request at a time: threads would only cost memory.
LIBRARIES = {
    "POLARS_MAX_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}


def table(request: dict[str, Any], data: bytes) -> bytes:
    """Return one line about the table, and its first rows as CSV.

    Raises:
        ImportError: there is no library for it.
    """
    kind, rows = request["kind"], request["rows"]
    os.environ.update(LIBRARIES)
    mimetypes.knownfiles.clear()  # openpyxl has them read; this process may not
    failed: Exception | None = None
    for read in (with_pandas, with_polars):
        try:
            return read(kind, rows, data).encode("utf-8", "replace")
        except ImportError as error:
            failed = failed or error
    raise failed or ImportError(kind)


def with_pandas(kind: str, rows: int, data: bytes) -> str:
    """Read with pandas; of Parquet, only what is shown."""
    import pandas

    file = io.BytesIO(data)
    if kind == "excel":
        with pandas.ExcelFile(file) as book:
            names = [str(name) for name in book.sheet_names]
            frame = book.parse(names[0], nrows=rows)
        others = f"; other sheets: {', '.join(names[1:])[:300]}" if names[1:] else ""
        return described(f"sheet {names[0]}", frame, others)
    if kind == "feather":
        from pyarrow import feather

        found = feather.read_table(file, use_threads=False)
        frame = found.slice(0, rows).to_pandas()
        return described(counted(found.num_rows, "row"), frame)
    from pyarrow import parquet

    whole = parquet.ParquetFile(file)
    batches = whole.iter_batches(batch_size=rows, use_threads=False)
    first = next(batches, None)
    frame = whole.schema_arrow.empty_table().to_pandas() if first is None else first.to_pandas()
    return described(counted(whole.metadata.num_rows, "row"), frame)


def described(what: str, frame: Any, more: str = "") -> str:
    """A frame of pandas as text."""
    kinds = [str(kind) for kind in frame.dtypes]
    return text(what, [str(name) for name in frame.columns], kinds, frame.itertuples(False), more)


def with_polars(kind: str, rows: int, data: bytes) -> str:
    """Read with polars."""
    import polars

    file = io.BytesIO(data)
    if kind == "excel":
        frame = polars.read_excel(file).head(rows)
        what = "the first sheet"
    elif kind == "feather":
        whole = polars.read_ipc(file, memory_map=False)
        frame, what = whole.head(rows), counted(whole.height, "row")
    else:
        frame = polars.read_parquet(file, n_rows=rows)
        total = polars.scan_parquet(io.BytesIO(data)).select(polars.len()).collect().item()
        what = counted(total, "row")
    return text(what, frame.columns, [str(kind) for kind in frame.dtypes], frame.iter_rows())


def text(
    what: str,
    names: Sequence[str],
    kinds: Sequence[str],
    rows: Iterable[Sequence[Any]],
    more: str = "",
) -> str:
    """One line about a table, and its rows as CSV."""
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\n")
    writer.writerow(short(name) for name in names[:COLUMNS])
    number = 0
    for row in rows:
        writer.writerow(short(value) for value in row[:COLUMNS])
        number += 1
    columns = ", ".join(f"{short(n)} {k}" for n, k in zip(names[:COLUMNS], kinds, strict=False))
    left = f" and {len(names) - COLUMNS} more" if len(names) > COLUMNS else ""
    first = "The first row follows" if number == 1 else f"The first {number} rows follow"
    head = f"{what}, {counted(len(names), 'column')}: {columns}{left}{more}. {first}"
    return " ".join(head.split()) + "\n" + made.getvalue()


def counted(number: int, thing: str) -> str:
    """A number of things; `plurals.py` can't be imported from here."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def short(value: Any) -> str:
    """A value's text, on one line."""
    whole = " ".join(str(value)[: 10 * CHARS].split())
    return whole if len(whole) <= CHARS else whole[: CHARS - 1] + "…"
