"""Kinds of state that a copy of a kernel keeps, and kinds because of which none is made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of state that is as before the cell that ended the kernel.

    Attributes:
        setup: a cell that makes it.
        check: an expression of it, evaluated before the cell, in it, and after it.
        change: what the cell does to it before it ends the kernel; without one, `check` changes it.
        gives: what `check` gives after the cell; the same as before it if empty.
        needs: a library that it takes.
    """

    setup: str
    check: str
    change: str = ""
    gives: str = ""
    needs: str = ""


KEPT = {
    # -- values
    "number": Kind("number = 10**40", "number", "number += 1"),
    "list": Kind("items = [1, [2]]", "items", "items[1].append(3)"),
    "list-that-holds-itself": Kind(
        "loop = [1]; loop.append(loop)", "(len(loop), loop[1] is loop)", "loop.insert(0, 5)"
    ),
    "dict": Kind("table = dict(b=1, a=2)", "[*table.items()]", "table['b'] = table.pop('b')"),
    "set": Kind("chosen = {'a', 'b', 'c'}", "[*chosen]", "chosen.discard('b')"),
    "bytearray": Kind(
        "block = bytearray(30_000_000)", "sum(block[::4096])", "block[:] = b'x' * len(block)"
    ),
    "memoryview": Kind(
        "under = bytearray(b'abc'); view = memoryview(under)[1:]",
        "(bytes(view), view.obj is under)",
        "view[0] = 0",
    ),
    "struct-array": Kind(
        "import array, struct; packed = array.array('d', [1, 2])",
        "(packed, struct.unpack('2d', packed.tobytes()))",
        "packed[0] = 9",
    ),
    "ctypes-buffer": Kind(
        "import ctypes; raw = ctypes.create_string_buffer(b'raw', 8)", "raw.raw", "raw[0] = b'x'"
    ),
    "mmap-private": Kind(
        "import mmap; pages = mmap.mmap(-1, 8192, flags=mmap.MAP_PRIVATE); pages[:3] = b'abc'",
        "(pages[:3], pages.tell())",
        "pages.seek(5); pages[:3] = b'xyz'",
    ),
    "droppable-memory": Kind(  # which glibc has for random numbers, where the system offers it
        "kept_beside = 1; import ctypes; libc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_void_p\n"
        "dropped = libc.mmap(None, ctypes.c_size_t(4096), 3, 0x28, -1, ctypes.c_size_t(0));",
        "kept_beside",
        "kept_beside = 2",
    ),
    "deleted-name": Kind("doomed = 1", "'doomed' in globals()", "del doomed"),
    "new-name": Kind("pass", "'fresh' in globals()", "fresh = 1"),
    "builtins": Kind(
        "import builtins; builtins.shout = str.upper", "shout('a')", "builtins.shout = str.lower"
    ),
    # -- code
    "function": Kind(
        "def add(x, y=[]): y.append(x); return y\nadd(1);", "add.__defaults__", "add(2)"
    ),
    "lambda": Kind(
        "twice = lambda x: 2 * x", "twice(4)", "twice.__code__ = (lambda x: 0).__code__"
    ),
    "closure": Kind(
        "def counter():\n    n = 0\n    def count():\n        nonlocal n; n += 1; return n\n"
        "    return count\ncount = counter(); count();",
        "count.__closure__[0].cell_contents",
        "count()",
    ),
    "generator": Kind("steps = (n * n for n in range(9)); next(steps);", "next(steps)", gives="1"),
    "generator-in-a-try": Kind(
        "seen = []\ndef trying():\n    try:\n        for n in range(9): yield n\n"
        "    finally: seen.append('ended')\ntrial = trying(); next(trial);",
        "(seen, trial.gi_frame is None)",
        "trial.close()",
    ),
    "async-generator": Kind(
        "async def stepping():\n    for n in range(5): yield n\n"
        "walk = stepping(); await anext(walk);",
        "walk.ag_frame.f_locals['n']",
        "try: walk.asend(None).send(None)\nexcept StopIteration: pass",
    ),
    "iterator": Kind(
        "import itertools; numbered = itertools.count(5)", "numbered", "next(numbered)"
    ),
    "instance": Kind(
        "class Thing:\n    size = 1\n    def __init__(self): self.own = [1]\nthing = Thing()",
        "(thing.own, thing.size, isinstance(thing, Thing))",
        "thing.own.append(2); thing.__class__ = type('Other', (Thing,), {})\nThing.size = 2",
    ),
    "class-attribute": Kind(
        "class Shared: made = []", "(Shared.made, hasattr(Shared, 'late'))", "Shared.late = 1"
    ),
    "slots": Kind(
        "class Slim:\n    __slots__ = ('a',)\nslim = Slim(); slim.a = 1", "slim.a", "slim.a = 2"
    ),
    "local-class": Kind(
        "def inner():\n    class Local:\n        def __call__(self): return self.n\n"
        "    made = Local(); made.n = 3; return made\nlocal = inner()",
        "local()",
        "local.n = 4",
    ),
    "dataclass": Kind(
        "import dataclasses\n@dataclasses.dataclass\nclass Point: x: int; y: int = 2\n"
        "point = Point(1)",
        "point",
        "point.x = 7",
    ),
    "enum": Kind(
        "import enum\nclass Colour(enum.Enum): RED = 1",
        "(Colour.RED.name, Colour(1) is Colour.RED, Colour.__members__)",
        "Colour.RED._name_ = 'BLUE'",
    ),
    "lru-cache": Kind(
        "import functools\n@functools.lru_cache\ndef slow(n): return n\nslow(1); slow(1);",
        "slow.cache_info()",
        "slow(2)",
    ),
    "weakref": Kind(
        "import weakref\nclass Target: pass\ntarget = Target(); weak = weakref.ref(target)",
        "weak() is None",
        "del target",
    ),
    "finalizer": Kind(
        "class Ended: pass\nending = Ended(); ended = []\n"
        "final = weakref.finalize(ending, ended.append, 1)",
        "(ended, final.alive)",
        "del ending",
    ),
    "exception": Kind(
        "try: {}['gone']\nexcept KeyError as error: caught = error",
        "(caught.args, caught.__traceback__.tb_lineno, caught.__notes__ if hasattr(caught,"
        " '__notes__') else None)",
        "caught.add_note('late')",
    ),
    "last-traceback": Kind(
        "def failing(deep=5): 1 / 0\ntry: failing()\n"
        "except ZeroDivisionError as error: import sys; sys.last_value = error;"
        " sys.last_traceback = error.__traceback__",
        "(type(sys.last_value), sys.last_traceback.tb_next.tb_frame.f_locals)",
        "sys.last_value, sys.last_traceback = KeyError(), None",
    ),
    # -- modules
    "module": Kind(
        "import types; own = types.ModuleType('own'); sys.modules['own'] = own; own.x = 1",
        "(own.x, sys.modules.get('own') is own)",
        "del sys.modules['own']; own.x = 2",
    ),
    "monkeypatched-module": Kind(
        "import textwrap, json; textwrap.shorten = len",
        "textwrap.shorten('abc')",
        "textwrap.shorten = max",
    ),
    "module-of-a-file": Kind(
        "import importlib, pathlib, sys; pathlib.Path('of_a_file.py').write_text('items = [1]')\n"
        "sys.path.insert(0, ''); importlib.invalidate_caches(); import of_a_file",
        "of_a_file.items",
        "of_a_file.items.append(2)",
    ),
    "reloaded-module": Kind(
        "pathlib.Path('reloaded.py').write_text('version = globals().get(\"version\", 0) + 1')\n"
        "importlib.invalidate_caches(); import reloaded",
        "reloaded.version",
        "importlib.reload(reloaded)",
    ),
    "sys-path": Kind("sys.path.append('/nowhere')", "sys.path", "sys.path.remove('/nowhere')"),
    "import-hooks": Kind(
        "class Finder:\n    def find_spec(*_): return None\nsys.meta_path.append(Finder())",
        "[type(each).__name__ for each in sys.meta_path][-1:]",
        "sys.meta_path.pop()",
    ),
    # -- the process
    "environment": Kind(
        "import os, subprocess; os.environ['KIND'] = 'a'",
        "(os.environ['KIND'], subprocess.getoutput('echo $KIND'))",
        "os.environ['KIND'] = 'b'",
    ),
    "working-folder": Kind(
        "os.makedirs('deep', exist_ok=True); os.chdir('deep')",
        "(os.path.basename(os.getcwd()), os.path.basename(os.readlink('/proc/self/cwd')))",
        "os.chdir('..')",
    ),
    "umask": Kind(
        "os.umask(0o027);",
        "open('/proc/self/status').read().split('Umask:')[1].split()[0]",
        "os.umask(0o022)",
    ),
    "niceness": Kind("os.nice(1);", "os.nice(0)", "os.nice(1)"),
    "resource-limit": Kind(
        "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))"
        "\nresource.setrlimit(resource.RLIMIT_NOFILE, (500, resource.getrlimit(7)[1]))",
        "resource.getrlimit(resource.RLIMIT_NOFILE)[0]",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (600, resource.getrlimit(7)[1]))",
    ),
    "signal-handler": Kind(
        "import signal; signals = []\n"
        "signal.signal(signal.SIGUSR1, lambda *_: signals.append(1))\n"
        "signal.signal(signal.SIGALRM, lambda *_: signals.append(2))",
        "(signal.raise_signal(signal.SIGUSR1), signal.raise_signal(signal.SIGALRM), signals[-2:])",
        "signals.clear(); signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
    ),
    "signal-mask": Kind(
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2});",
        "signal.pthread_sigmask(signal.SIG_BLOCK, ())",
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})",
    ),
    "recursion-limit": Kind(
        "sys.setrecursionlimit(4321)", "sys.getrecursionlimit()", "sys.setrecursionlimit(5432)"
    ),
    "switch-interval": Kind(
        "sys.setswitchinterval(0.25)", "sys.getswitchinterval()", "sys.setswitchinterval(0.5)"
    ),
    "gc": Kind(
        "import gc; collected = []\n"
        "def noted(phase, info): collected.append(phase)\n"
        "gc.callbacks.append(noted); gc.set_threshold(5000, 20, 30)",
        "(gc.get_threshold(), noted in gc.callbacks, gc.isenabled())",
        "gc.callbacks.remove(noted); gc.set_threshold(700); gc.disable()",
    ),
    "locale": Kind(
        "import locale; locale.setlocale(locale.LC_ALL, 'C');",
        "locale.setlocale(locale.LC_CTYPE)",
        "locale.setlocale(locale.LC_ALL, 'C.UTF-8')",
    ),
    "time-zone": Kind(
        "import time; os.environ['TZ'] = 'JST-9'; time.tzset()",
        "(time.tzname, time.localtime(0).tm_hour)",
        "os.environ['TZ'] = 'UTC0'; time.tzset()",
    ),
    "fault-handler": Kind(
        "import faulthandler; faulthandler.enable(open(os.devnull, 'w'))",
        "faulthandler.is_enabled()",
        "faulthandler.disable()",
    ),
    # -- the interpreter's settings
    "random": Kind(
        "import random; random.seed(3); random.gauss(0, 1);",
        "random.getstate()[1][-1], random.getstate()[2]",
        "random.random(); random.gauss(0, 1)",
    ),
    "random-draw": Kind(
        "rolled = random.Random(3)", "rolled.random()", gives="0.23796462709189137"
    ),
    "decimal-context": Kind(
        "import decimal; decimal.getcontext().prec = 5",
        "decimal.Decimal(1) / 3",
        "decimal.getcontext().prec = 7",
    ),
    "context-variable": Kind(
        "import contextvars; level = contextvars.ContextVar('level'); level.set(3);",
        "level.get(None)",
        "level.set(4)",
    ),
    "thread-local": Kind(
        "import threading; mine = threading.local(); mine.x = 1", "mine.x", "mine.x = 2"
    ),
    "lock-held-by-the-user": Kind(
        "held = threading.RLock(); held.acquire(); bolt = threading.Lock(); bolt.acquire();",
        "(repr(held).split()[1], bolt.locked())",
        "bolt.release()",
    ),
    "warning-filters": Kind(
        "import warnings; warnings.filterwarnings('error', category=ResourceWarning)",
        "warnings.filters[0]",
        "warnings.resetwarnings()",
    ),
    "logging": Kind(
        "import logging, io; heard = io.StringIO(); logger = logging.getLogger('kind')\n"
        "logger.setLevel('DEBUG'); logger.propagate = False\n"
        "logger.addHandler(logging.StreamHandler(heard)); logger.debug('first')",
        "(heard.getvalue(), logger.level, len(logger.handlers), logger.propagate)",
        "logger.error('second'); logger.handlers.clear(); logger.setLevel('ERROR')",
    ),
    "logging-to-a-file": Kind(
        "to_file = logging.FileHandler('kind.log'); logger.addHandler(to_file)"
        "\nlogger.debug('one')",
        "(to_file.stream.closed, to_file in logger.handlers)",
        "to_file.close(); logger.removeHandler(to_file)",
    ),
    "regex-cache": Kind(
        "import re; pattern = re.compile('k+(?P<i>i)nd'); match = pattern.search('a kind')",
        "(match['i'], match.span(), ('k+(?P<i>i)nd') in [key[1] for key in re._cache])",
        "re.purge(); match = None",
    ),
    "unraisable-hook": Kind(
        "sys.unraisablehook = lambda *_: None; hook = sys.unraisablehook",
        "sys.unraisablehook is hook",
        "sys.unraisablehook = sys.__unraisablehook__",
    ),
    "standard-output": Kind(
        "quiet = io.StringIO(); sys.stderr, stderr = quiet, sys.stderr; print('to', file=sys.stderr)",
        "(quiet.getvalue()[:2], sys.stderr is quiet)",
        "print('more', file=sys.stderr); sys.stderr = stderr",
    ),
    # -- files
    "open-file": Kind(
        "open('lines', 'w').write('one\\ntwo\\nthree\\n'); lines = open('lines'); lines.readline();",
        "(lines.tell(), lines.readline(), lines.seek(4))",
        "lines.seek(0); lines.close()",
    ),
    "file-being-written": Kind(
        "out = open('out', 'w+b', buffering=0); out.write(b'before');",
        "(out.tell(), out.closed)",
        "out.write(b'later'); out.close()",
    ),
    "unwritten-buffer": Kind(
        "late = open('late', 'w'); late.write('unwritten');",
        "late.closed",
        "late.close()",
    ),
    "file-without-a-name": Kind(
        "import tempfile; nameless = tempfile.TemporaryFile(); nameless.write(b'abcdef')\n"
        "nameless.seek(2);",
        "(nameless.tell(), nameless.read(2), nameless.seek(2))",
        "nameless.seek(0)",
    ),
    "descriptor": Kind(
        "fd = os.open('lines', os.O_RDONLY); os.lseek(fd, 4, 0);",
        "os.lseek(fd, 0, os.SEEK_CUR)",
        "os.lseek(fd, 0, 0)",
    ),
    "closed-descriptor": Kind(
        "fd2 = os.open('lines', os.O_RDONLY)",
        "os.path.exists(f'/proc/self/fd/{fd2}')",
        "os.close(fd2)",
    ),
    "folder-being-listed": Kind(
        "os.mkdir('many'); [os.mknod(f'many/{n:0200}') for n in range(300)]  # more than one read\n"
        "listing = os.scandir('many'); [next(listing) for _ in range(5)];",
        "len([*listing])",
        gives="295",
    ),
    "temporary-folder": Kind(
        "temporary = tempfile.TemporaryDirectory(); open(temporary.name + '/in', 'w').close()",
        "(os.listdir(temporary.name), temporary._finalizer.alive)",
        "temporary._finalizer.detach()",
    ),
    "text-in-memory": Kind(
        "text = io.StringIO('abc'); text.read(1);",
        "(text.tell(), text.getvalue())",
        "text.read(); text.write('x')",
    ),
    "bytes-in-memory": Kind(
        "data = io.BytesIO(b'abc'); data.read(1);",
        "(data.tell(), data.getvalue())",
        "data.write(b'x')",
    ),
    "sqlite-in-memory": Kind(
        "import sqlite3; base = sqlite3.connect(':memory:')\n"
        "base.execute('create table t (n)'); base.executemany('insert into t values (?)',"
        " [(n,) for n in range(9)]); base.commit()",
        "base.execute('select sum(n) from t').fetchone()",
        "base.execute('delete from t where n > 3'); base.commit()",
    ),
    "sqlite-transaction-in-memory": Kind(
        "open_base = sqlite3.connect(':memory:'); open_base.execute('create table t (n)')\n"
        "open_base.commit(); open_base.execute('insert into t values (1)');",
        "(open_base.in_transaction, open_base.execute('select count(*) from t').fetchone())",
        "open_base.rollback()",
    ),
    "sqlite-cursor": Kind(
        "cursor = base.execute('select n from t order by n'); cursor.fetchone();",
        "cursor.fetchone()",
        gives="(1,)",
    ),
    "sqlite-file": Kind(
        "stored = sqlite3.connect('stored.db'); stored.execute('create table t (n)')\n"
        "stored.create_function('kind', 0, lambda: 5); stored.commit()",
        "stored.execute('select kind(), count(*) from t').fetchone()",
        "stored.close(); stored = sqlite3.connect(':memory:'); stored.create_function('kind', 0,"
        " lambda: 6); stored.execute('create table t (n)')",
    ),
    "pickled": Kind(
        "import pickle; dumped = pickle.dumps([1, 2]); pickler = pickle.Unpickler(io.BytesIO(dumped))",
        "pickle.loads(dumped)",
        "dumped = pickle.dumps([3])",
    ),
    "result-of-a-process": Kind(
        "import subprocess; ran = subprocess.run(['echo', 'hi'], capture_output=True)",
        "(ran.stdout, ran.returncode)",
        "ran.stdout = b''",
    ),
    "ended-process": Kind(
        "popen = subprocess.Popen(['false']); popen.wait();", "popen.poll()", "popen.returncode = 7"
    ),
    # -- asyncio and threads that have ended
    "asyncio-lock": Kind(
        "import asyncio; lock = asyncio.Lock(); await lock.acquire();",
        "lock.locked()",
        "lock.release()",
    ),
    "asyncio-queue": Kind(
        "queue = asyncio.Queue(); queue.put_nowait(1)",
        "(queue.qsize(), queue._queue)",
        "queue.get_nowait()",
    ),
    "asyncio-finished-task": Kind(
        "async def answer(): return 42\ndone = asyncio.get_running_loop().create_task(answer())\n"
        "await done;",
        "done.result()",
        "done = None; done = asyncio.get_running_loop().create_future(); done.set_result(1)",
    ),
    "asyncio-future": Kind(
        "future = asyncio.get_running_loop().create_future()",
        "future.done()",
        "future.set_result(1)",
    ),
    "ended-thread": Kind(
        "worked = []; worker = threading.Thread(target=worked.append, args=(1,))\n"
        "worker.start(); worker.join()",
        "(worked, worker.is_alive())",
        "worked.append(2)",
    ),
    "pool-that-was-shut-down": Kind(
        "import concurrent.futures\nwith concurrent.futures.ThreadPoolExecutor(2) as pool:\n"
        "    squares = [pool.submit(pow, n, 2) for n in range(3)]",
        "([each.result() for each in squares], pool._shutdown)",
        "pool._shutdown = False; squares.pop()",
    ),
    "pool-that-never-ran": Kind(
        "unused = concurrent.futures.ThreadPoolExecutor(2)", "unused._shutdown", "unused.shutdown()"
    ),
    # -- IPython
    "history": Kind(
        "'an answer'",
        "('x' in In, In[2], 999 in Out, len(In) == get_ipython().execution_count)",
        "In.append('x'); Out[999] = 1",
    ),
    "last-value": Kind(
        "77", "_77 if '_77' in globals() else [*Out.values()][0]", "Out.clear(); Out[1] = 'changed'"
    ),
    "alias": Kind(
        "%alias kindly echo kind",
        "get_ipython().alias_manager.is_alias('kindly')",
        "get_ipython().alias_manager.undefine_alias('kindly')",
    ),
    "magic": Kind(
        "from IPython.core.magic import register_line_magic\n"
        "@register_line_magic\ndef kind(line): return line * 2",
        "get_ipython().run_line_magic('kind', 'a')",
        "get_ipython().register_magic_function(lambda line: 0, magic_name='kind')",
    ),
    "cell-magic": Kind(
        "%%capture captured\nprint('captured')",
        "captured.stdout",
        "captured._stdout = io.StringIO()",
    ),
    "extension": Kind(
        "pathlib.Path('../extending.py').write_text('def load_ipython_extension(ip): ip.push("
        "dict(extended=1))')\nsys.path.insert(0, '..'); importlib.invalidate_caches()\n"
        "get_ipython().run_line_magic('load_ext', 'extending')",
        "('extending' in get_ipython().extension_manager.loaded, extended)",
        "get_ipython().extension_manager.loaded.clear(); extended = 2",
    ),
    "formatter": Kind(
        "class Plain: pass\nget_ipython().display_formatter.formatters['text/plain'].for_type("
        "Plain, lambda one, p, cycle: p.text('plainly'))\nplain = Plain()",
        "get_ipython().display_formatter.format(plain)[0]",
        "get_ipython().display_formatter.formatters['text/plain'].pop(Plain)",
    ),
    "folders-visited": Kind(
        "%cd ..\n%cd -", "[os.path.basename(each) for each in _dh][-3:]", "_dh.append('elsewhere')"
    ),
    "precision": Kind(
        "%precision 3",
        "get_ipython().display_formatter.format(3.14159)[0]",
        "get_ipython().run_line_magic('precision', '5')",
    ),
    "event-hook": Kind(
        "def each_cell(*_): pass\nget_ipython().events.register('post_run_cell', each_cell)",
        "each_cell in get_ipython().events.callbacks['post_run_cell']",
        "get_ipython().events.unregister('post_run_cell', each_cell)",
    ),
    # -- libraries
    "numpy-small": Kind(
        "import numpy as np; small = np.arange(6.0).reshape(2, 3)",
        "small.tolist()",
        "small[:] = 0",
        needs="numpy",
    ),
    "numpy-large": Kind(
        "large = np.ones(10_000_000)",
        "(large.sum(), large.flags.owndata)",
        "large *= 2",
        needs="numpy",
    ),
    "numpy-order": Kind(
        "fortran = np.asfortranarray(small + 1)",
        "(fortran.flags.f_contiguous, fortran.strides)",
        "fortran = np.ascontiguousarray(fortran)",
        needs="numpy",
    ),
    "numpy-views": Kind(
        "whole = np.arange(10); part = whole[::2]",
        "(np.shares_memory(whole, part), whole.sum(), part.base is whole)",
        "part[0] = 99",
        needs="numpy",
    ),
    "numpy-structured": Kind(
        "rows = np.zeros(2, [('a', 'i4'), ('b', 'U5')]); rows[0] = (1, 'x')",
        "rows.tolist()",
        "rows['b'] = 'y'",
        needs="numpy",
    ),
    "numpy-objects": Kind(
        "mixed = np.array([[1], {}, None], dtype=object)",
        "mixed.tolist()",
        "mixed[0].append(2)",
        needs="numpy",
    ),
    "numpy-legacy-random": Kind(
        "np.random.seed(4); np.random.normal();",
        "(int(np.random.get_state()[1].sum()), np.random.get_state()[2:])",
        "np.random.normal(); np.random.random()",
        needs="numpy",
    ),
    "numpy-generator": Kind(
        "drawn = np.random.default_rng(4)",
        "drawn.bit_generator.state",
        "drawn.random()",
        needs="numpy",
    ),
    "numpy-settings": Kind(
        "np.set_printoptions(precision=2); np.seterr(divide='raise');",
        "(repr(np.array([1 / 3])), np.geterr())",
        "np.set_printoptions(precision=8); np.seterr(divide='ignore')",
        needs="numpy",
    ),
    "linear-algebra": Kind(
        "square = np.ones((300, 300)); product = square @ square",
        "(float(product.sum()), float((square @ square).sum()))",
        "square[:] = 2; product[:] = 0",
        needs="numpy",
    ),
    "memmap-read": Kind(
        "np.arange(5).tofile('numbers'); mapped = np.memmap('numbers', dtype=int, mode='c')",
        "mapped.tolist()",
        "mapped[:] = 0",
        needs="numpy",
    ),
    "pandas": Kind(
        "import pandas as pd; frame = pd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})\n"
        "column = frame['a']",
        "(frame.to_dict(), column.tolist())",
        "frame.loc[0, 'a'] = 50; frame['c'] = 1",
        needs="pandas",
    ),
    "pandas-grouped": Kind(
        "grouped = frame.groupby('b')",
        "grouped.a.sum().to_dict()",
        "frame.drop(frame.index, inplace=True); grouped = frame.groupby('b')",
        needs="pandas",
    ),
    "pandas-options": Kind(
        "pd.set_option('display.max_rows', 7)",
        "pd.get_option('display.max_rows')",
        "pd.reset_option('display.max_rows')",
        needs="pandas",
    ),
    "pandas-reader": Kind(
        "pathlib.Path('table.csv').write_text('a\\n' + '1\\n' * 9)\n"
        "reader = pd.read_csv('table.csv', chunksize=3); next(reader);",
        "next(reader).index.tolist()",
        gives="[3, 4, 5]",
        needs="pandas",
    ),
    "matplotlib": Kind(
        "import matplotlib; matplotlib.use('agg'); import matplotlib.pyplot as plt\n"
        "figure, axes = plt.subplots(); axes.plot([1, 2]); plt.rcParams['font.size'] = 9\n"
        "fonts = plt.rcParams['font.size']",
        "(len(axes.lines), axes.get_title(), plt.rcParams['font.size'],"
        " figure.canvas.get_width_height())",
        "axes.plot([3]); axes.set_title('late'); plt.rcParams['font.size'] = 12",
        needs="matplotlib",
    ),
    "requests": Kind(
        "import requests; web = requests.Session(); web.headers['X-Kind'] = 'a'"
        "\nweb.cookies.set('c', '1')",
        "(web.headers['X-Kind'], web.cookies.get_dict())",
        "web.headers['X-Kind'] = 'b'; web.cookies.clear()",
        needs="requests",
    ),
    "arrow": Kind(
        "import pyarrow as pa; arrow = pa.table({'a': [1, 2]})",
        "arrow.to_pydict()",
        "arrow = arrow.slice(1)",
        needs="pyarrow",
    ),
    "duckdb": Kind(
        "import duckdb; duck = duckdb.connect(); duck.execute('create table t as select 1 a')",
        "duck.execute('select * from t').fetchall()",
        "duck.execute('delete from t')",
        needs="duckdb",
    ),
    # -- last, since they slow cells down
    "tracing-of-memory": Kind(
        "import tracemalloc; tracemalloc.start(3)",
        "(tracemalloc.is_tracing(), tracemalloc.get_traceback_limit())",
        "tracemalloc.stop()",
    ),
    "autoreload": Kind(
        "%load_ext autoreload\n%autoreload 2",
        "len(get_ipython().events.callbacks['pre_run_cell'])",
        "get_ipython().events.callbacks['pre_run_cell'].clear()",
    ),
}

# What a copy would not have as it is: cells that make it, and what a death says of it.
NOT_COPIED = {
    "thread": (
        "import threading; going = threading.Event(); threading.Thread(target=going.wait,"
        " daemon=True, name='mine').start()",
        "thread mine",
    ),
    "thread-of-_thread": (
        "import _thread, time\ndef wait(): time.sleep(60)\n_thread.start_new_thread(wait, ());",
        "thread ",
    ),
    "native-thread": (
        "import faulthandler, os; faulthandler.dump_traceback_later(60,"
        " file=open(os.devnull, 'w'))",
        "a native thread",
    ),
    "idle-pool": (
        "import concurrent.futures; pool = concurrent.futures.ThreadPoolExecutor(1)\n"
        "pool.submit(abs, 1).result();",
        "thread ThreadPoolExecutor",
    ),
    "timer-thread": ("import threading; threading.Timer(60, print).start()", "thread Thread-"),
    "child": ("import subprocess; child = subprocess.Popen(['sleep', '60'])", "child process"),
    "zombie": (
        "import subprocess, os; ended = subprocess.Popen(['true'])\n"
        "os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT);",
        "child process",
    ),
    "socket": ("import socket; pair = socket.socketpair()", "socket "),
    "listening-socket": (
        "import socket; server = socket.socket(socket.AF_UNIX); server.bind('s'); server.listen()",
        "that listens on s",
    ),
    "pipe": ("import os; pipe = os.pipe()", "pipe "),
    "named-pipe": ("import os; os.mkfifo('fifo'); fifo = os.open('fifo', os.O_RDWR)", "pipe "),
    "terminal": ("import os; ends = os.openpty()", "terminal "),
    "event-counter": ("import os; counter = os.eventfd(5)", "eventfd "),
    "event-queue": (
        "import os, select; queue = select.epoll(); queue.register(os.eventfd(0))",
        "eventpoll ",
    ),
    "socket-after-many-files": (
        "import os, socket; files = [open(os.devnull) for _ in range(60)]; late = socket.socket()",
        "socket ",
    ),
    "task": ("import asyncio; task = asyncio.create_task(asyncio.Event().wait())", "asyncio task"),
    "call-later": (
        "import asyncio; later = asyncio.get_running_loop().call_later(60, print)",
        "a timer of asyncio",
    ),
    "interval-timer": (
        "import signal; signal.signal(signal.SIGALRM, print); signal.setitimer(0, 60);",
        "signal.ITIMER_REAL",
    ),
    "pending-signal": (
        "import signal, os; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})\n"
        "os.kill(os.getpid(), signal.SIGUSR1)",
        "the pending signal SIGUSR1",
    ),
    "flock": (
        "import fcntl; file = open('l', 'w'); fcntl.flock(file, fcntl.LOCK_EX);",
        "the lock on",
    ),
    "record-lock": (
        "import fcntl; file = open('r', 'w'); fcntl.lockf(file, fcntl.LOCK_EX);",
        "the lock on",
    ),
    "sqlite-transaction": (
        "import sqlite3; base = sqlite3.connect('t.db'); base.execute('create table t (n)')\n"
        "base.execute('begin immediate');",
        "the lock on",
    ),
    "shared-memory": (
        "import multiprocessing.shared_memory as m; block = m.SharedMemory(create=True, size=9,"
        " name='rmi_kinds'); block.unlink()\n"
        "from multiprocessing import resource_tracker as r; r._resource_tracker._stop()",
        "shared memory",
    ),
    "shared-mapping": ("import mmap; shared = mmap.mmap(-1, 9)", "shared memory"),
    "lock-of-processes": ("import multiprocessing; lock = multiprocessing.Lock()", "shared memory"),
    "memory-that-forks-lack": (
        "import mmap; m = mmap.mmap(-1, 9, mmap.MAP_PRIVATE); m.madvise(mmap.MADV_DONTFORK)",
        "memory with MADV_DONTFORK",
    ),
    "memory-that-forks-wipe": (
        "import mmap; m = mmap.mmap(-1, 9, mmap.MAP_PRIVATE); m[:] = b'123456789'; m.madvise(18)",
        "memory with MADV_WIPEONFORK",
    ),
    "function-at-forks": (
        "import os; x = 1\ndef change():\n    global x; x = 2\n"
        "os.register_at_fork(after_in_child=change)",
        "change registered with os.register_at_fork",
    ),
    "method-at-forks": (
        "import os; seen = []; os.register_at_fork(before=lambda: None,"
        " after_in_parent=seen.clear)",
        "<lambda> registered with os.register_at_fork",
    ),
    "one-position": (
        "import os; open('d', 'w').write('abc'); one = os.open('d', 0); other = os.dup(one)",
        "two descriptors with one position",
    ),
    "redirected-output": (
        "import os; to = open('o', 'w'); os.dup2(to.fileno(), 1);",
        "descriptor 1 redirected",
    ),
    "redirected-input": (
        "import os; open('i', 'w').close(); into = open('i'); os.dup2(into.fileno(), 0);",
        "descriptor 0 redirected",
    ),
    "too-large": ("held = bytearray(200_000_000); held[::4096] = held[::4096]", "more than 200 MB"),
}
QUICK = ["thread-of-_thread", "one-position"]  # for the suite that runs all the time
