"""A new user's first project: from nothing to green tests, by MCP's tools and by nothing else.

The same program prints the transcript that docs/first-project.md has:
`python -m tests.server.test_first_project`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from rmi_agent.kernels import why_not

from tests.conftest import policy
from tests.server.transcripts import DOCS, Transcript, not_said, print_transcript, transcript_of

PAGE = DOCS / "first-project.md"

ORDERS = """\
day,product,pieces,price
2026-03-02,tea,3,4.50
2026-03-02,cup,1,12.00
2026-03-03,tea,2,4.50
2026-03-04,pot,1,30.00
"""
SHOP = '''\
"""A shop's orders."""

import pandas as pd


def load(path):
    """The orders in a CSV file, each with what it comes to."""
    orders = pd.read_csv(path, parse_dates=["day"])
    orders["total"] = orders.price
    return orders
'''
REPORT = '''\
"""Writes what each product has brought in: python -m shop.report ORDERS RESULT."""

import sys

from shop import load


def by_product(orders):
    """The total of each product, the largest first."""
    return orders.groupby("product").total.sum().sort_values(ascending=False)


if __name__ == "__main__":
    totals = by_product(load(sys.argv[1]))
    totals.to_csv(sys.argv[2])
    print(f"{len(totals)} products, {totals.sum():.2f} in all")
'''
CONFTEST = """\
from pathlib import Path

import pytest

from shop import load


@pytest.fixture
def orders():
    return load(Path(__file__).parent / "data" / "orders.csv")
"""
TESTS = """\
from shop.report import by_product


def test_an_order_comes_to_pieces_times_price(orders):
    assert orders.total.tolist() == [13.5, 12.0, 9.0, 30.0]


def test_the_largest_comes_first(orders):
    assert by_product(orders).index.tolist() == ["pot", "tea", "cup"]
"""
TABLE = """\
# /// script
# dependencies = ["rich"]
# ///
import csv

from rich.console import Console
from rich.table import Table

table = Table("product", "total")
with open("totals.csv") as file:
    for product, total in list(csv.reader(file))[1:]:
        table.add_row(product, total)
Console(width=40).print(table)
"""


async def first_project(transcript: Transcript) -> None:
    """From an empty folder to green tests and a result, as a new user would go."""
    call = transcript.call
    text, facts = await call("list_environments")
    assert [each["name"] for each in facts["environments"]] == ["default"]

    text, facts = await call("run_cell", code="!uv init --package shop")
    session = facts["session_id"]
    text, _ = await call(
        "run_cell",
        code="%cd shop\n!uv add pandas\n!uv add --dev pytest",
        session_id=session,
        timeout=300,
    )
    assert "+ pandas==" in text
    assert "+ pytest==" in text
    await call("write_file", path="shop/data/orders.csv", content=ORDERS)
    await call("write_file", path="shop/src/shop/__init__.py", content=SHOP)
    await call("write_file", path="shop/src/shop/report.py", content=REPORT)
    await call("write_file", path="shop/conftest.py", content=CONFTEST)
    await call("write_file", path="shop/test_report.py", content=TESTS)

    text, facts = await call("run_python", module="pytest", cwd="shop", args=["-q"])
    assert facts["tests"]["counts"] == {"failed": 2}
    session = facts["session_id"]
    look = "import sys\nsys.last_traceback.tb_frame.f_locals['orders']"
    text, _ = await call("run_cell", code=look, session_id=session)
    assert "pieces" in text
    text, _ = await call("read_file", path="shop/src/shop/__init__.py")
    fixed = SHOP.replace("= orders.price", "= orders.pieces * orders.price")
    await call("write_file", path="shop/src/shop/__init__.py", content=fixed)
    text, facts = await call("run_python", module="pytest", cwd="shop", args=["-q"])
    assert facts["tests"]["counts"] == {"passed": 2}
    assert facts["exit_code"] == 0

    arguments = ["data/orders.csv", "totals.csv"]
    text, facts = await call("run_python", module="shop.report", cwd="shop", args=arguments)
    assert "3 products, 64.50 in all" in text
    assert "Wrote shop/totals.csv" in text
    text, _ = await call("read_file", path="shop/totals.csv")
    assert "pot,30.0" in text
    await call("write_file", path="shop/table.py", content=TABLE)
    text, _ = await call("run_python", file_name="shop/table.py")
    assert "│ pot     │ 30.0  │" in text

    # Somebody else gets the project without its environment.
    text, _ = await call("run_cell", code="!rm -r shop/.venv")
    text, _ = await call("run_python", module="shop.report", cwd="shop", args=arguments)
    assert "install_packages([], environment='shop')" in text
    text, _ = await call("install_packages", packages=[], environment="shop")
    assert "pandas" in text
    text, facts = await call("run_python", module="pytest", cwd="shop", args=["-q"])
    assert facts["tests"]["counts"] == {"passed": 2}
    await call("list_environments")


@pytest.mark.network
@pytest.mark.anyio
@pytest.mark.parametrize("tier", ["bwrap", "landlock"])
async def test_a_new_user_gets_from_nothing_to_green_tests(tmp_path: Path, tier: str) -> None:
    projects = tmp_path / "projects"
    projects.mkdir()
    rules = policy(projects, tier)
    assert rules is not None
    if why := why_not(rules):
        pytest.skip(why)
    parts: list[str] = []
    await transcript_of(first_project, projects, tier, parts.append)
    missing = not_said(PAGE, parts)
    assert not missing, f"not in the transcript: {missing}"


if __name__ == "__main__":
    print_transcript(first_project)
