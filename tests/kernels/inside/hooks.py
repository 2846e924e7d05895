"""Rows of the table of scripts: the interpreter's hooks, threads, stacks and descriptors."""

from __future__ import annotations

import sys

from tests.kernels.inside.samples import Sample

EXTENSIONS = "it also names the extension modules that the kernel has loaded"

HOOKS = {
    # -- hooks
    "breakpoint": Sample("x = 1\nbreakpoint()\nprint(x)", stdin="p x\nx = 5\nw\nu\nc\n"),
    "breakpoint_at_the_end": Sample(
        "x = 1\nbreakpoint()\nprint(x)",
        # Since 3.13, it goes on into exit handlers of the standard library's.
        stdin="n\nn\nn\nn\n" if sys.version_info < (3, 13) else "n\nn\nc\n",
    ),
    "breakpoint_without_stdin": Sample("x = 1\nbreakpoint()\nprint(x)"),
    "breakpoint_quit": Sample("def f():\n    breakpoint()\n    print(1)\nf()", stdin="w\nq\n"),
    "breakpoint_off": Sample(
        "import os\nos.environ['PYTHONBREAKPOINT'] = '0'\nbreakpoint()\nprint('on')"
    ),
    "pdb_set_trace": Sample("import pdb\nx = 1\npdb.set_trace()\nprint(x)", stdin="p x\nc\n"),
    "pdb_post_mortem": Sample(
        "import pdb\ndef f(x): return 1 / x\ntry: f(0)\nexcept Exception: pdb.post_mortem()",
        stdin="p x\nu\nw\nq\n",
    ),
    "displayhook_of_an_interpreter": Sample(
        "import code\ncode.InteractiveInterpreter().runsource('40+2')"
    ),
    "displayhook_of_single": Sample(
        "import builtins\nexec(compile('1+1', '<s>', 'single'))\nprint(builtins._)"
    ),
    "hooks_are_the_interpreters": Sample(
        """
        import sys, threading
        for name in 'breakpointhook', 'displayhook', 'excepthook', 'unraisablehook':
            print(getattr(sys, name) is getattr(sys, f'__{name}__'))
        print(threading.excepthook is threading.__excepthook__, sys.get_asyncgen_hooks())
        print(sys.gettrace(), sys.getprofile(), hasattr(sys, 'ps1'), hasattr(sys, 'ps2'))
        """
    ),
    "stand_ins_look_like_the_originals": Sample(
        """
        import atexit, bdb, gc, inspect, sys, threading, traceback
        for function in (
            atexit.register, atexit.unregister, bdb.Bdb.get_stack, gc.freeze, gc.get_freeze_count,
            gc.unfreeze, inspect.getouterframes, sys.getrecursionlimit, sys.setrecursionlimit,
            threading.active_count, threading.enumerate, traceback.walk_stack,
        ):
            print(function.__module__, function.__qualname__, bool(function.__doc__))
            try: print(inspect.signature(function))
            except ValueError: pass
        """
    ),
    "completion_of_names": Sample(
        "import rlcompleter\nown_name = 1\nprint(rlcompleter.Completer().complete('own', 0))\n"
        "completer = rlcompleter.Completer()\ncompleter.complete('', 0)\n"
        "print(completer.global_matches('st'))"
    ),
    "builtins": Sample("import builtins\nprint(dir(builtins))"),
    "annotations": Sample(
        "print(globals().get('__annotations__'))\nx: int = 1\nprint(__annotations__)"
    ),
    "async_generator_left_open": Sample(
        """
        import asyncio
        async def numbers():
            try: yield 1
            finally: print('closed')
        async def main():
            async for number in numbers(): print(number); break
        asyncio.run(main())
        def outside_a_loop():
            first = numbers().__anext__()
            try: first.send(None)
            except StopIteration as number: print(number.value)
        outside_a_loop()
        """
    ),
    "garbage_collector": Sample(
        """
        import gc
        print(gc.isenabled(), gc.callbacks, gc.unfreeze(), gc.get_freeze_count())
        gc.freeze(); print(gc.get_freeze_count() > 0)
        gc.unfreeze(); print(gc.get_freeze_count(), gc.get_threshold())
        """
    ),
    "matplotlib_is_not_interactive": Sample(
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]); print(plt.isinteractive())"
    ),
    # -- threads
    "threads": Sample(
        "import threading\nprint(len(threading.enumerate()), threading.active_count())"
    ),
    "threads_all_joined": Sample(
        """
        import threading
        threading.Thread(target=print, args=('thread',)).start()
        for thread in threading.enumerate():
            if thread is not threading.main_thread(): thread.join()
        print('end')
        """
    ),
    "threads_counted_down": Sample(
        """
        import threading, time
        threading.Thread(target=time.sleep, args=(0.1,)).start()
        while threading.active_count() > 1: time.sleep(0.01)
        print('end')
        """
    ),
    "threads_of_the_interpreter": Sample("import sys\nprint(len(sys._current_frames()))"),
    # -- stacks
    "stack_printed": Sample("import traceback\ndef f(): traceback.print_stack()\nf()"),
    "stack_extracted": Sample(
        "import traceback\ndef f(): print(len(traceback.extract_stack()), traceback.format_stack())\nf()"
    ),
    "stack_in_an_exit_handler": Sample(
        "import atexit, traceback\n@atexit.register\ndef f(): traceback.print_stack()"
    ),
    "stack_in_a_log": Sample("import logging\nlogging.warning('here', stack_info=True)"),
    "stack_inspected": Sample("import inspect\ndef f(): print(len(inspect.stack()))\nf()"),
    "stack_of_frames": Sample("import inspect\nprint(inspect.currentframe().f_back)"),
    "stack_of_warnings": Sample("import warnings\nwarnings.warn('x', stacklevel=2)"),
    "stack_limit": Sample(
        """
        import sys
        def depth(n):
            try: return depth(n + 1)
            except RecursionError: return n
        print(sys.getrecursionlimit(), depth(1))
        for limit in 300, 0, 'x', 3000:
            try: sys.setrecursionlimit(limit)
            except Exception as error: print(repr(error))
            print(sys.getrecursionlimit())
        print(depth(1))
        """
    ),
    "stack_dumped": Sample("import faulthandler\nfaulthandler.dump_traceback()"),
    "stack_of_a_crash": Sample(
        "import faulthandler, os, signal\nfaulthandler.enable()\nos.kill(os.getpid(), signal.SIGABRT)",
        differs=EXTENSIONS,
    ),
    # -- descriptors
    "descriptors_limited": Sample(
        """
        import resource, tempfile
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        print(len([tempfile.TemporaryFile() for _ in range(40)]))
        """
    ),
    "descriptors_closed": Sample("import os\nos.closerange(3, 1024)\nprint('still here')"),
    "descriptors_from_three": Sample("print(open(__file__).fileno())"),
}
if sys.platform == "win32":
    for name in ("stack_of_a_crash", "descriptors_limited"):
        HOOKS.pop(name)
