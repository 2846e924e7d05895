"""Rows of the table of scripts: what `python -m` runs."""

from __future__ import annotations

from tests.kernels.inside.samples import Sample

PACKAGE = (("pkg/__init__.py", "NAME = 'pkg'\n"), ("pkg/other.py", "def f(x): return 1 / x\n"))
FACTS = """
import __main__, os, sys
print(__name__, __file__, __package__, __spec__.name, __spec__.origin, type(__loader__), __doc__)
print(sys.argv, sys.orig_argv[1:], sys.path, os.getcwd())
print(__main__.__spec__ is __spec__, sorted(globals()), 'pkg.tool' in sys.modules)
"""


def tool(source: str, *args: str, **more: str) -> Sample:
    """A module in a package."""
    return Sample(source, args, module="pkg.tool", file="pkg/tool.py", neighbours=PACKAGE, **more)


MODULES = {
    "module_in_a_package": tool(FACTS, "a", "-b", "é", ""),
    "module_at_the_top": Sample(FACTS, ("x",), module="tool", file="tool.py"),
    "module_is_a_package": Sample(
        FACTS, ("-m",), module="pkg", file="pkg/__main__.py", neighbours=PACKAGE
    ),
    "module_is_a_main": Sample(
        FACTS, module="pkg.__main__", file="pkg/__main__.py", neighbours=PACKAGE
    ),
    "module_in_a_namespace_package": Sample(FACTS, module="space.tool", file="space/tool.py"),
    "module_imports_its_package": tool(
        "from . import NAME, other\nfrom pkg.other import f\nprint(NAME, other.f is f, f(2))"
    ),
    "module_sees_argv_early": tool("import sys; print(sys.argv)", "-x").with_neighbour(
        "pkg/__init__.py", "import sys, __main__; print(sys.argv, sorted(vars(__main__)))"
    ),
    "module_relative_data": tool("print(open('data.txt').read())").with_neighbour(
        "data.txt", "in the root"
    ),
    "module_named_as_the_librarys": Sample(
        "import json; print(__name__, json.NAME)", module="json.mine", file="json/mine.py"
    ).with_neighbour("json/__init__.py", "NAME = 'mine'"),
    "module_uncaught": tool("from pkg.other import f\nprint('before')\nf(0)"),
    "module_exits": tool("import sys; sys.exit(3)"),
    "module_exits_with_text": tool("import sys; sys.exit('no such thing')"),
    "module_interrupted": tool("raise KeyboardInterrupt"),
    "module_syntax_error": tool("print('never')\ndef (:\n    pass"),
    "module_not_utf8": Sample(b"print('\xe9')\n", module="tool", file="tool.py"),
    "module_recurses": tool("def f(n): return n and f(n - 1)\nprint(f(900))"),
    "module_prints_its_stack": tool(
        "import inspect, traceback\ndef f(): traceback.print_stack(); print(inspect.currentframe())\nf()"
    ),
    "module_reads_stdin": tool("print(input('name? '))", stdin="Ada\n"),
    "module_ends": tool(
        "import atexit, threading, time\natexit.register(print, 'exit handler')\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()"
    ),
    "module_missing": Sample("", module="no_such_module_anywhere"),
    "module_missing_in_a_package": Sample("", module="pkg.missing", neighbours=PACKAGE),
    "module_missing_package": Sample("", module="no_such.module"),
    "module_without_main": Sample("", module="pkg", neighbours=PACKAGE),
    "module_of_a_module": Sample("", module="pkg.other.x", neighbours=PACKAGE),
    "module_named_as_a_file": Sample("", module="tool.py", file="tool.py"),
    "module_relative": Sample("", module=".tool", file="tool.py"),
    "module_of_an_option": Sample("", module="-c"),
    "module_built_in": Sample("", module="sys"),
    "module_package_fails": tool("print('never')").with_neighbour("pkg/__init__.py", "1 / 0"),
    "module_package_lacks_a_module": tool("print('never')").with_neighbour(
        "pkg/__init__.py", "import no_such_module_anywhere"
    ),
    "module_imported_before_it_runs": tool("print(__name__)").with_neighbour(
        "pkg/__init__.py", "from . import tool"
    ),
    "module_pickles": tool(
        "import pickle\nclass P:\n    x = 1\np = pickle.loads(pickle.dumps(P()))\nprint(type(p), p.x)"
    ),
    "module_spawns": tool(
        """
        import multiprocessing as mp
        def f(x): return x + 1, __name__, __spec__.name
        if __name__ == '__main__':
            with mp.get_context('spawn').Pool(1) as pool: print(pool.map(f, range(2)))
        """
    ),
    "module_forkserver": tool(
        """
        from concurrent.futures import ProcessPoolExecutor
        import multiprocessing as mp
        def f(x): return x * 10, __package__
        if __name__ == '__main__':
            with ProcessPoolExecutor(1, mp.get_context('forkserver')) as pool:
                print(list(pool.map(f, range(2))))
        """
    ),
    "module_of_the_library": Sample("", ("-i",), module="json.tool", stdin="[1]"),
    "module_of_the_library_works": Sample("", module="json.tool", stdin='{"a": [1]}'),
    "module_that_the_kernel_has_imported": Sample("", ("x",), module="logging.handlers"),
    "module_unittest": Sample(
        "import unittest\nclass T(unittest.TestCase):\n    def test_a(self): self.assertEqual(1, 2)",
        ("-q",),
        module="unittest",
        file="test_it.py",
    ),
    "module_installed": Sample("", ("--version",), module="pytest"),
    "module_profiles_another": tool("print(__name__)").but(
        module="cProfile", args=("-o", "out", "-m", "pkg.tool")
    ),
}
