"""What `python -m benchmarks.run` measures, a module a theme; `--only` takes the names."""

from collections.abc import Awaitable, Callable
from typing import Any

from ..bench import Bench
from .cells import cells
from .files import hello, imports, in_a_row
from .forks import forks, recovery
from .kernels import first_answer, sandbox
from .memory import idle, long_life, session
from .peers import peers
from .rates import rates
from .sessions import burst, hundred
from .starts import commands, initialize

PARTS: dict[str, Callable[[Bench], Awaitable[Any]]] = {
    part.__name__: part
    for part in (
        first_answer,
        hello,
        in_a_row,
        imports,
        rates,
        cells,
        hundred,
        session,
        long_life,
        idle,
        burst,
        initialize,
        commands,
        peers,
        sandbox,
        forks,
        recovery,
    )
}

__all__ = ["PARTS"]
