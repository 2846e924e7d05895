"""The pictures of a run as a result has them: as many as fit, scaled down where they must be.

Pictures are numbered through a cell, from 1; what a result lacks can be had one by one. Knows
nbformat outputs and MCP content.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mcp_types import ImageContent

from ..errors import WorkerError
from ..refusals import Refusal
from ..views import (
    NO_ROOM,
    Allowance,
    Picture,
    Reader,
    Worker,
    drawn,
    fitted,
    is_drawable,
    is_simple,
)

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from ...kernels import Run

PICTURES = 8  # max pictures in one result
NOTED = 200  # max characters of the reason why a picture is left out


async def pictures(run: Run, room: int, worker: Worker) -> tuple[list[ImageContent], list[str]]:
    """The run's pictures, and notes on what was changed or left out.

    Args:
        run: a finished run.
        room: max bytes of all pictures together, in base64 and JSON.
        worker: scales pictures down.
    """
    bundles = await bundles_of(run.cell.outputs, worker)
    if not bundles:
        return [], []
    shown, reasons = await worker.in_thread(chosen, bundles[:PICTURES], room, Allowance(worker))
    notes = [f"picture {number} is {picture.change}" for number, picture in shown if picture.change]
    notes += [f"picture {number} is left out: {reason}" for number, reason in reasons]
    later = [number for number, reason in reasons if reason == NO_ROOM]
    if len(bundles) > PICTURES:
        later.append(PICTURES + 1)
        notes.append(f"pictures {PICTURES + 1} to {len(bundles)} are left out")
    if later:
        call = f"session_id={run.session_id!r}, cell={run.number}, picture={later[0]}"
        notes.append(f"read_output({call}) returns one picture")
    text = "; ".join(notes)
    return [content(picture) for _, picture in shown], [f"{text[:1].upper()}{text[1:]}"] * bool(
        text
    )


async def one_picture(run: Run, number: int, room: int, worker: Worker) -> tuple[ImageContent, str]:
    """A run's picture by its number from 1, and a note on it.

    Raises:
        Refusal: there is no such picture, or it can't be sent.
    """
    bundles = await bundles_of(run.cell.outputs, worker)
    if not 1 <= number <= len(bundles):
        there = f"only {len(bundles)}" if bundles else "no pictures"
        raise Refusal(f"Cell {run.number} has {there}, so picture={number} can't be had.")

    def make() -> Picture:
        return fitted(drawn(bundles[number - 1], worker), room, worker)

    try:
        picture = await worker.in_thread(make)
    except WorkerError as error:
        raise Refusal(
            f"Picture {number} of cell {run.number} can't be sent: {reason_of(error)}."
            f" It is in notebook://{run.session_id}."
        ) from error
    change = f", {picture.change}" if picture.change else ""
    return content(picture), f"Picture {number} of {len(bundles)} in cell {run.number}{change}"


async def bundles_of(outputs: Sequence[NotebookNode], worker: Worker) -> list[dict[str, Any]]:
    """The mimebundles that are pictures or can be drawn, in order."""
    bundles = [
        output.data
        for output in outputs
        if output.output_type in ("display_data", "execute_result")
    ]

    def find() -> list[dict[str, Any]]:
        return [bundle for bundle in bundles if is_drawable(bundle)]

    return find() if all(map(is_simple, bundles)) else await worker.in_thread(find)


def chosen(
    bundles: list[dict[str, Any]], room: int, reader: Reader
) -> tuple[list[tuple[int, Picture]], list[tuple[int, str]]]:
    """The pictures that fit together, and why others don't, each with its number."""
    found: dict[int, Picture] = {}
    reasons: dict[int, str] = {}
    for number, bundle in enumerate(bundles, 1):
        try:
            found[number] = drawn(bundle, reader)
        except WorkerError as error:
            reasons[number] = reason_of(error)
    shown: dict[int, Picture] = {}
    # The smallest first: what they leave of their share of the room goes to the larger ones.
    for place, number in enumerate(sorted(found, key=lambda number: found[number].size)):
        try:
            shown[number] = fitted(found[number], room // (len(found) - place), reader)
            room -= shown[number].size
        except WorkerError as error:
            reasons[number] = reason_of(error)
    return sorted(shown.items()), sorted(reasons.items())


def reason_of(error: WorkerError) -> str:
    """Why a picture can't be sent, in words for a note."""
    if "No module named 'PIL'" in str(error):
        return "it is too large, and scaling it down needs rmi-agent-mcp-server[charts]"
    return str(error)[:NOTED]


def content(picture: Picture) -> ImageContent:
    """A picture as MCP content."""
    data = base64.b64encode(picture.data).decode()
    return ImageContent(type="image", data=data, mime_type=picture.kind)
