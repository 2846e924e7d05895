"""A script on a kernel gives what `python FILE` gives: one table, each sample run both ways."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rmi_agent.kernels import Module, Run, Script, Session, Sessions

from tests.conftest import SANDBOX, cell, kernel_env, stream, value
from tests.kernels.inside.ends import ENDS
from tests.kernels.inside.hooks import HOOKS
from tests.kernels.inside.modules import MODULES
from tests.kernels.inside.samples import HELPER, Sample, python_of

pytestmark = pytest.mark.anyio

RUNPY = re.compile(r'  File "<frozen runpy>", line \d+, in \w+\n')
SAMPLES = {
    "name_is_main": Sample("print(__name__)\nif __name__ == '__main__': print('main')"),
    "file_and_folder": Sample("import os; print(__file__, os.getcwd())"),
    "argv": Sample("import sys; print(sys.argv)", args=("a", "-b", "c d", "é", "")),
    "sys_path": Sample("import sys; print(sys.path[0]); print(sys.path)"),
    "module_globals": Sample("print(sorted(globals()))"),
    "main_module": Sample("import __main__; x = 5; print(__main__.x, __main__.__spec__)"),
    "docstring": Sample("'''Words.'''\nprint(__doc__)"),
    "empty": Sample(""),
    "neighbour_module": Sample(
        "import helper; from helper import shout; print(helper.NAME, shout('x'))",
        neighbours=HELPER,
    ),
    "neighbour_package": Sample(
        "from pack.inner import f; print(f())",
        neighbours=(("pack/__init__.py", ""), ("pack/inner.py", "def f(): return __name__")),
    ),
    "neighbours_named_as_the_librarys": Sample(
        "import random, traitlets, site, os.path; from traitlets import x\n"
        "print(random.NAME, traitlets.__name__, x.__name__, 'NAME' in vars(site))",
        neighbours=(
            *(("random.py", "NAME = 'mine'"), ("site.py", "NAME = 'mine'"), ("os/x.py", "")),
            *(("traitlets/__init__.py", ""), ("traitlets/x.py", "")),
        ),
    ),
    "relative_file": Sample("print(open('data.txt').read())", neighbours=(("data.txt", "inside"),)),
    "writes_beside_itself": Sample(
        "open('out.txt', 'w').write('x'); import os; print(sorted(os.listdir('.')))"
    ),
    "exit_nothing": Sample("import sys; print('a'); sys.exit()"),
    "exit_int": Sample("import sys; sys.exit(3)"),
    "exit_large": Sample("import sys; sys.exit(300)"),
    "exit_negative": Sample("import sys; sys.exit(-1)"),
    "exit_string": Sample("import sys; sys.exit('no such thing')"),
    "exit_object": Sample("import sys; sys.exit([1, 2])"),
    "exit_true": Sample("raise SystemExit(True)"),
    "builtin_exit": Sample("print('x'); exit(4)"),
    "builtin_quit": Sample("quit()"),
    "exit_in_finally": Sample("try: 1/0\nfinally: raise SystemExit(5)"),
    "uncaught": Sample("def f(x):\n    return 1 / x\n\nprint('before')\nf(0)"),
    "uncaught_in_neighbour": Sample("import helper\nhelper.shout(1)", neighbours=HELPER),
    "import_error": Sample("import no_such_module_anywhere"),
    "name_error_suggests": Sample("counter = 1\nprint(countr)"),
    "syntax_error": Sample("print('never')\ndef (:\n    pass"),
    "indentation_error": Sample("if True:\nprint(1)"),
    "syntax_error_in_neighbour": Sample("import bad", neighbours=(("bad.py", "x = = 1"),)),
    "keyboard_interrupt": Sample(
        "raise KeyboardInterrupt",
    ),
    "exception_group": Sample(
        "raise ExceptionGroup('several', [ValueError(1), TypeError('t'),"
        " ExceptionGroup('in', [KeyError('k')])])"
    ),
    "chained_from": Sample(
        "try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise ValueError('v') from e"
    ),
    "chained_context": Sample("try:\n    {}['k']\nexcept KeyError:\n    int('x')"),
    "exception_note": Sample("e = ValueError('v'); e.add_note('a note'); raise e"),
    "exception_without_str": Sample(
        "class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E()"
    ),
    "exception_text_exits": Sample(
        "class E(Exception):\n    def __str__(self): raise SystemExit(3)\nraise E()"
    ),
    "exception_class_without_name": Sample(
        "class Meta(type):\n    @property\n    def __name__(cls): raise RuntimeError\n"
        "class E(Exception, metaclass=Meta): pass\nraise E('v')"
    ),
    "exception_text_not_utf8": Sample(r"raise ValueError('\ud800')"),
    "exit_text_not_utf8": Sample(r"raise SystemExit('\udfff')"),
    "exit_object_without_text": Sample(
        "class X:\n    def __str__(self): raise RuntimeError\nraise SystemExit(X())"
    ),
    "exit_object_that_exits": Sample(
        "class X:\n    def __str__(self): raise SystemExit(3)\nraise SystemExit(X())"
    ),
    "exit_int_of_its_own": Sample(
        "class I(int):\n    def __and__(self, other): raise RuntimeError\n"
        "    __lt__ = __le__ = __index__ = __and__\nraise SystemExit(I(3))"
    ),
    "recursion": Sample("def f(n): return f(n + 1)\nf(0)"),
    "own_excepthook": Sample(
        "import sys\nsys.excepthook = lambda t, v, tb: print('hooked', t.__name__, v)\n1/0"
    ),
    "broken_excepthook": Sample(
        "import sys\ndef hook(t, v, tb): raise OSError('hook')\nsys.excepthook = hook\n1/0"
    ),
    "asyncio_run": Sample(
        """
        import asyncio
        async def main():
            await asyncio.sleep(0.01)
            print(await asyncio.gather(*(asyncio.sleep(0, i) for i in range(3))))
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))
        asyncio.run(main())
        asyncio.run(main())
        """
    ),
    "asyncio_fails": Sample(
        "import asyncio\nasync def main():\n    raise ValueError('v')\nasyncio.run(main())"
    ),
    "asyncio_no_running_loop": Sample(
        "import asyncio\ntry: asyncio.get_running_loop()\nexcept RuntimeError as e: print(e)"
    ),
    "asyncio_new_loop": Sample(
        "import asyncio\nloop = asyncio.new_event_loop()\nasyncio.set_event_loop(loop)\n"
        "print(loop.run_until_complete(asyncio.sleep(0, 'done')))\nloop.close()"
    ),
    "asyncio_subprocess": Sample(
        """
        import asyncio, sys
        async def main():
            p = await asyncio.create_subprocess_exec(sys.executable, '-c', 'print(6*7)',
                                                     stdout=asyncio.subprocess.PIPE)
            print((await p.communicate())[0].decode())
        asyncio.run(main())
        """
    ),
    "unittest_main": Sample(
        """
        import unittest
        class T(unittest.TestCase):
            def test_good(self): self.assertEqual(1, 1)
            def test_bad(self): self.assertEqual(1, 2)
        unittest.main()
        """
    ),
    "unittest_passes": Sample(
        "import unittest\nclass T(unittest.TestCase):\n    def test(self): pass\nunittest.main()"
    ),
    "doctest": Sample("'''\n>>> 1 + 1\n3\n'''\nimport doctest; print(doctest.testmod())"),
    "argparse_error": Sample(
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('n', type=int)\np.parse_args()",
        args=("x",),
    ),
    "argparse_help": Sample(
        "import argparse\np = argparse.ArgumentParser(description='d')\np.parse_args()",
        args=("-h",),
    ),
    "logging_default": Sample("import logging; logging.warning('w'); logging.info('i')"),
    "logging_basic_config": Sample(
        "import logging; logging.basicConfig(level='INFO', format='%(message)s'); logging.info('i')"
    ),
    "logging_memory_handler": Sample(
        "import logging, logging.handlers, sys\n"
        "h = logging.handlers.MemoryHandler(99, target=logging.StreamHandler(sys.stdout))\n"
        "logging.getLogger().addHandler(h); logging.warning('kept')"
    ),
    "warnings": Sample(
        "import warnings\nwarnings.warn('careful')\nwarnings.warn('old', DeprecationWarning)\n"
        "for _ in range(3): warnings.warn('once')"
    ),
    "invalid_escape": Sample("print('\\d')"),
    "input": Sample("print(input('name? ') + '!'); print(input())", stdin="Ann\nBob\n"),
    "input_eof": Sample("input('? ')", stdin=""),
    "stdin_lines": Sample("import sys\nfor line in sys.stdin: print(repr(line))", stdin="a\nb"),
    "stdin_bytes": Sample("import sys; print(sys.stdin.buffer.read())", stdin="é\r\n"),
    "stdin_by_descriptor": Sample("print(open(0).read())", stdin="direct"),
    "stdin_in_a_child": Sample("import os; os.system('cat')", stdin="to the child\n"),
    "isatty": Sample("import sys; print(sys.stdin.isatty(), sys.stdout.isatty())"),
    "stream_names": Sample("import sys; print(sys.stdin, sys.stdout, sys.stderr, sep='\\n')"),
    "thread_joined": Sample(
        "import threading, time\n"
        "def late():\n    time.sleep(0.3); print('late')\n"
        "threading.Thread(target=late).start(); print('main ends')"
    ),
    "daemon_thread_left": Sample(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    ),
    "thread_fails": Sample("import threading\nthreading.Thread(target=lambda: 1/0).start()"),
    "thread_pool_left_open": Sample(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "pool = ThreadPoolExecutor(2)\npool.submit(print, 'from the pool')"
    ),
    "atexit_order": Sample(
        "import atexit\natexit.register(print, 'first')\natexit.register(print, 'second', end='.\\n')\n"
        "@atexit.register\ndef last(): print('third')\nprint('main')"
    ),
    "atexit_after_error": Sample("import atexit\natexit.register(print, 'bye')\n1/0"),
    "atexit_unregister": Sample("import atexit\natexit.register(print)\natexit.unregister(print)"),
    "atexit_fails": Sample(
        "import atexit\ndef bad():\n    raise ValueError('v')\natexit.register(bad)"
    ),
    "atexit_without_repr": Sample(
        "import atexit\nclass F:\n    def __call__(self): raise ValueError('v')\n"
        "    def __repr__(self): raise RuntimeError\n"
        "import sys\nif sys.version_info < (3, 13): atexit.register(F())"
    ),
    "finalizer": Sample(
        "import weakref\nclass C: pass\nc = C()\nweakref.finalize(c, print, 'gone')"
    ),
    "multiprocessing_fork": Sample(
        """
        import multiprocessing as mp
        def f(x): print(f'child {x}\\n', end='', flush=True); return x * x
        if __name__ == '__main__':
            with mp.get_context('fork').Pool(2) as pool: print(pool.map(f, [1, 2, 3]))
        """,
        anyhow=True,
    ),
    "multiprocessing_spawn": Sample(
        """
        import multiprocessing as mp
        def f(q): q.put(__name__)
        if __name__ == '__main__':
            context = mp.get_context('spawn')
            q = context.Queue(); p = context.Process(target=f, args=(q,))
            p.start(); print(q.get()); p.join(); print(p.exitcode)
        """
    ),
    "multiprocessing_forkserver": Sample(
        """
        import multiprocessing as mp
        def f(x): return x + 1
        if __name__ == '__main__':
            with mp.get_context('forkserver').Pool(2) as pool: print(pool.map(f, range(4)))
        """
    ),
    "process_pool": Sample(
        """
        from concurrent.futures import ProcessPoolExecutor
        def f(x): return x * 10
        if __name__ == '__main__':
            with ProcessPoolExecutor(2) as pool: print(list(pool.map(f, range(3))))
        """
    ),
    "process_fails": Sample(
        """
        import multiprocessing as mp
        def f(): raise SystemExit(9)
        if __name__ == '__main__':
            p = mp.get_context('fork').Process(target=f); p.start(); p.join(); print(p.exitcode)
        """
    ),
    "os_fork": Sample(
        """
        import os, sys
        pid = os.fork()
        if pid == 0:
            print('child', flush=True); sys.exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """
    ),
    "pickle_own_class": Sample(
        "import pickle\nclass P:\n    x = 1\np = pickle.loads(pickle.dumps(P()))\nprint(type(p), p.x)"
    ),
    "dataclass_hints": Sample(
        "from __future__ import annotations\nimport typing\nfrom dataclasses import dataclass, fields\n"
        "@dataclass\nclass A:\n    x: int\n    y: 'A | None' = None\n"
        "print(A(1), typing.get_type_hints(A), [f.type for f in fields(A)])"
    ),
    "inspect_source": Sample("import inspect\ndef f():\n    return 1\nprint(inspect.getsource(f))"),
    "subprocess_output": Sample(
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c',"
        " 'import sys; print(1); print(2, file=sys.stderr)'])"
    ),
    "subprocess_to_own_stdout": Sample(
        "import subprocess, sys\nsubprocess.run(['echo', 'x'], stdout=sys.stdout, stderr=sys.stderr)"
    ),
    "os_system": Sample(
        "import os; print(os.system('echo out; echo err >&2; exit 3') >> 8)", anyhow=True
    ),
    "descriptor_write": Sample("import os; os.write(1, b'raw\\n'); os.write(2, b'err\\n')"),
    "binary_stdout": Sample("import sys; sys.stdout.buffer.write(bytes(range(128, 256)) + b'\\n')"),
    "print_without_newline": Sample("print('a', end=''); print('b', end='')"),
    "unicode": Sample("print('héllo ✓ 🐍')"),
    "lone_surrogate": Sample("print('\\ud800')"),
    "megabytes": Sample("for i in range(60_000): print('x' * 40, i)"),
    "stdout_closed": Sample("import sys; print('x'); sys.stdout.close()"),
    "stdout_replaced": Sample(
        "import io, sys\nold, sys.stdout = sys.stdout, io.StringIO()\nprint('hidden')\n"
        "text = sys.stdout.getvalue(); sys.stdout = old; print('got', repr(text))"
    ),
    "redirect_stdout": Sample(
        "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as f: print('in')\n"
        "print(repr(f.getvalue()))"
    ),
    "latin1_cookie": Sample("# -*- coding: latin-1 -*-\nprint('é')\n".encode("latin-1")),
    "bom": Sample(b"\xef\xbb\xbfprint('bom')\n"),
    "crlf": Sample(b"x = 1\r\nif x:\r\n    print('crlf')\r\n"),
    "no_cookie_not_utf8": Sample(b"print('a')\nprint('\xe9')\n"),
    "unknown_cookie": Sample(b"# coding: nonsense\nprint(1)\n"),
    "signal_handler": Sample(
        "import os, signal\nsignal.signal(signal.SIGUSR1, lambda n, f: print('got', n))\n"
        "os.kill(os.getpid(), signal.SIGUSR1); print('after')"
    ),
    "sigint_to_itself": Sample(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nprint('never')"
    ),
    "alarm": Sample(
        "import signal, time\ndef ring(n, f): raise TimeoutError('ring')\n"
        "signal.signal(signal.SIGALRM, ring)\nsignal.setitimer(signal.ITIMER_REAL, 0.1)\n"
        "try: time.sleep(5)\nexcept TimeoutError as e: print(e)"
    ),
    "os_exit": Sample("import os\nprint('last words', flush=True)\nos._exit(7)"),
    "killed": Sample(
        "import os, signal\nprint('x', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    ),
    "no_get_ipython": Sample("try: get_ipython\nexcept NameError as e: print(e)"),
    "tqdm_is_the_plain_one": Sample("from tqdm.auto import tqdm; print(tqdm.__mro__)"),
    "rich_is_plain_text": Sample("import rich; rich.print('[bold]x[/bold]', [1, 2])"),
    "type_of_builtins": Sample("print(__builtins__, type(input), type(exit).__name__, type(open))"),
    "runpy_neighbour": Sample(
        "import runpy; print(runpy.run_path('helper.py')['NAME'])", neighbours=HELPER
    ),
    "temporary_directory": Sample(
        "import tempfile, os\nwith tempfile.TemporaryDirectory() as d: print(os.path.isdir(d))"
    ),
    "time_and_locale": Sample(
        "import locale, sys; print(locale.getpreferredencoding(), sys.stdout.encoding)"
    ),
}


def normal(text: str, anyhow: bool) -> str:
    """Fold what differs between any two runs of the same program."""
    text = RUNPY.sub("", text)  # frames that no reader needs
    text = re.sub(r"0x[0-9a-f]+", "0x…", text)
    text = re.sub(r"in \d+\.\d+s", "in …s", text)
    return "".join(sorted(text.splitlines(keepends=True))) if anyhow else text


if sys.version_info >= (3, 12):  # whose interpreter prints that error only when threads end
    for name in ("exit_object_without_text", "exit_object_that_exits"):
        del SAMPLES[name]
TABLE = SAMPLES | ENDS | HOOKS | MODULES
# A part of each kind at once, the others with the slow ones.
LATER = [*list(SAMPLES)[1::2], *list(ENDS)[8:], *list(HOOKS)[8:], *list(MODULES)[6:]]
ROWS = [
    pytest.param(
        name,
        marks=[
            pytest.mark.xfail(sample.differs != "", reason=sample.differs, strict=True),
            *([pytest.mark.slow] if name in LATER else ()),
        ],
    )
    for name, sample in TABLE.items()
]


@pytest.mark.parametrize("name", ROWS)
async def test_a_script_gives_what_python_gives(
    name: str, sessions: Sessions, tmp_path: Path
) -> None:
    sample = TABLE[name]
    folder = tmp_path.resolve()
    for neighbour, text in sample.neighbours:
        (folder / neighbour).parent.mkdir(parents=True, exist_ok=True)
        (folder / neighbour).write_text(text)
    path = folder / sample.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sample.bytes())
    session = await sessions.open()
    python = python_of(session)
    expected = subprocess.run(
        [python, *(("-m", sample.module) if sample.module else (sample.file,)), *sample.args],
        cwd=folder,
        input=sample.stdin.encode(),
        capture_output=True,
        env=kernel_env(),
        timeout=60,
    )

    script = Script(path, path.read_bytes(), sample.args, sample.stdin)
    module = Module(sample.module, folder, sample.args, sample.stdin)
    run = await session.submit_program(module if sample.module else script, 60).task
    await sessions.close(session)

    assert normal(stream(run), sample.anyhow) == normal(
        expected.stdout.decode("utf-8", "replace"), sample.anyhow
    )
    assert normal(stream(run, "stderr"), sample.anyhow) == normal(
        expected.stderr.decode("utf-8", "replace"), sample.anyhow
    )
    assert run.exit_code == expected.returncode


POOLS = """
import multiprocessing, tempfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
threads, processes = ThreadPoolExecutor(1), ProcessPoolExecutor(1)
pool, folder = multiprocessing.get_context("fork").Pool(1), tempfile.TemporaryDirectory()
"""
USE = "[each.submit(abs, -2).result(10) for each in (threads, processes)], pool.map(abs, [-3])"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")
async def test_what_cells_have_started_survives_the_end_of_a_script(
    session: Session, tmp_path: Path
) -> None:
    def script() -> Script:
        path = tmp_path / "main.py"
        path.write_text(
            "from concurrent.futures import *\np, t = ProcessPoolExecutor(1),"
            " ThreadPoolExecutor(1)\nprint(p.submit(abs, -1).result(), t.submit(abs, -1).result())"
        )
        return Script(path, path.read_bytes())

    assert value(await cell(session, POOLS + USE)) == "([2, 2], [3])"

    for _ in range(2):
        run = await session.submit_program(script(), 30).task
        assert (stream(run), run.exit_code) == ("1 1\n", 0)

        used = await cell(session, USE)
        assert value(used) == "([2, 2], [3])", used.cell.outputs
        assert value(await cell(session, "import os; os.path.isdir(folder.name)")) == "True"

    await cell(session, "pool.terminate(); processes.shutdown(); folder.cleanup()")


def kinds(run: Run) -> list[str]:
    """What a run has shown, in order: text and the kinds of pictures."""
    return [output.get("text") or " ".join(sorted(output.data)) for output in run.cell.outputs]


PICTURE = "image/png text/plain"


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["Agg", "svg", "inline"])
async def test_figures_left_open_are_shown_whatever_the_backend(
    session: Session, tmp_path: Path, backend: str
) -> None:
    path = tmp_path / "main.py"
    path.write_text(
        f"import matplotlib; matplotlib.use({backend!r})\nimport matplotlib.pyplot as plt\n"
        "plt.plot([1, 2]); plt.figure(); plt.plot([3, 4]); plt.figure(); plt.plot([5]); plt.close()"
    )

    run = await session.submit_program(Script(path, path.read_bytes()), 60).task
    assert kinds(run) == [PICTURE, PICTURE]
    assert run.exit_code == 0

    run = await cell(session, "plt.get_fignums()")  # closed
    assert value(run) == "[]"


@pytest.mark.slow
async def test_a_cells_figures_are_shown_once_whatever_the_backend(session: Session) -> None:
    run = await cell(
        session,
        "import matplotlib; matplotlib.use('Agg')\nimport matplotlib.pyplot as plt\nplt.plot([1]);",
        timeout=60,
    )
    assert kinds(run) == [PICTURE]

    assert kinds(await cell(session, "plt.savefig('saved.png'); plt.get_fignums()")) == [
        "text/plain"
    ]
    assert kinds(await cell(session, "plt.title('Later');")) == [PICTURE]
    assert kinds(await cell(session, "plt.close('all')")) == []


@pytest.mark.slow
async def test_figures_of_cells_are_shown_after_a_script_has_drawn(
    session: Session, tmp_path: Path
) -> None:
    path = tmp_path / "main.py"
    path.write_text("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\nprint('end')")

    run = await session.submit_program(Script(path, path.read_bytes()), 60).task
    assert kinds(run) == [PICTURE, "end\n"]

    run = await cell(session, "plt.plot([1]); plt.isinteractive()")
    assert kinds(run) == ["text/plain", PICTURE]
    assert value(run) == "True"


async def test_a_breakpoint_in_a_cell_asks_for_commands(session: Session) -> None:
    running = session.submit_cell("x = 1\nbreakpoint()\nprint('x is', x)", 30)
    for command in ("p x + 41", "x = 7", "c"):
        while (question := running.question) is None:
            await asyncio.sleep(0.01)
        question.answer(command)
    run = await running.task

    assert run.status == "ok"
    assert "ipdb> p x + 41\n42\n" in stream(run)
    assert stream(run).endswith("ipdb> c\nx is 7\n")


async def test_what_a_script_displays_comes_between_its_lines(
    session: Session, tmp_path: Path
) -> None:
    path = tmp_path / "main.py"
    path.write_text(
        "from IPython.display import display\n"
        "for number in range(20): print(number); display({'number': number})\nprint('end')"
    )

    run = await session.submit_program(Script(path, path.read_bytes()), 60).task

    expected = [each for number in range(20) for each in (f"{number}\n", "text/plain")]
    assert kinds(run) == [*expected, "end\n"]


@pytest.mark.skipif(SANDBOX == "off", reason="would install it in the tests' own environment")
async def test_a_module_that_only_the_sandboxs_environment_has_runs(
    session: Session, tmp_path: Path
) -> None:
    there = "import site, os; p = os.path.join(site.getsitepackages()[0], 'only_there.py')"
    made = await cell(
        session, f"{there}\nopen(p, 'w').write('import sys; print(sys.argv); 1 / 0')\np"
    )
    run = await session.submit_program(Module("only_there", tmp_path, ("a",)), 30).task
    path = value(made).strip("'")
    assert stream(run) == f"['{path}', 'a']\n"
    assert stream(run, "stderr").splitlines()[:2] == [
        "Traceback (most recent call last):",
        f'  File "{path}", line 1, in <module>',
    ]
    await cell(session, "os.remove(p)")
