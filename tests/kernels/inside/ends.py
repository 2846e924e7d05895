"""Rows of the table of scripts: what happens after the last line of a script."""

from __future__ import annotations

from tests.kernels.inside.samples import Sample

CLEANER = (("cleaner.py", "import atexit, threading\natexit.register(print, 'cleaned')\n"),)

ENDS = {
    "end_of_what_threading_registers": Sample(
        """
        import threading
        ended = threading.Event()
        threading._register_atexit(ended.set)
        threading.Thread(target=ended.wait).start()
        print('main')
        """
    ),
    "end_in_order": Sample(
        """
        import atexit, concurrent.futures.thread, threading, time
        atexit.register(print, 'exit handler')
        threading._register_atexit(print, 'last before the pool')
        pool = concurrent.futures.ThreadPoolExecutor(1)
        pool.submit(lambda: (time.sleep(0.2), print('pool')))
        threading._register_atexit(print, 'first')
        threading.Thread(target=lambda: (time.sleep(0.4), print('thread'))).start()
        print('main')
        """
    ),
    "end_of_main_seen_by_a_thread": Sample(
        """
        import threading, time
        def watch():
            threading.main_thread().join()
            print(threading.main_thread().is_alive())
        threading.Thread(target=watch).start()
        def poll():
            while threading.main_thread().is_alive(): time.sleep(0.01)
        threading.Thread(target=poll).start()
        print(threading.main_thread().is_alive())
        """
    ),
    "end_registers_too_late": Sample(
        """
        import threading, time
        def late():
            threading.main_thread().join()
            try: threading._register_atexit(print, 'never')
            except RuntimeError as error: print(error)
        threading.Thread(target=late).start()
        """
    ),
    "end_submits_too_late": Sample(
        """
        import atexit, concurrent.futures
        pool = concurrent.futures.ThreadPoolExecutor(1)
        @atexit.register
        def late():
            try: pool.submit(print, 'never')
            except RuntimeError as error: print(error)
        """
    ),
    "end_handler_registers_another": Sample(
        "import atexit\n@atexit.register\ndef f(): print('f'); atexit.register(print, 'never')"
    ),
    "end_handlers_run_and_cleared": Sample(
        "import atexit\natexit.register(print, 'a'); atexit._run_exitfuncs(); print('main')\n"
        "atexit.register(print, 'b'); atexit._clear(); print(atexit._ncallbacks())"
    ),
    "end_of_a_neighbour": Sample("import cleaner; print('main')", neighbours=CLEANER),
    "end_of_what_a_library_registers_for_us": Sample(
        """
        import atexit, contextlib
        with contextlib.ExitStack() as stack:
            stack.callback(atexit.register, print, 'for us')
        print('main')
        """
    ),
    "end_with_a_folder_in_use": Sample(
        """
        import atexit, os, tempfile
        atexit.register(lambda: print('after', os.path.isdir(folder.name)))
        folder = tempfile.TemporaryDirectory()
        atexit.register(lambda: print('before', os.path.isdir(folder.name)))
        """
    ),
    "end_closes_log_handlers": Sample(
        """
        import atexit, logging
        atexit.register(print, 'exit handler')
        class Handler(logging.Handler):
            def flush(self): print('flushed')
            def close(self): print('closed'); super().close()
        logging.getLogger().addHandler(Handler())
        """
    ),
    "end_stops_a_listener": Sample(
        """
        import atexit, logging.handlers, queue
        lines = queue.Queue()
        listener = logging.handlers.QueueListener(lines, logging.StreamHandler())
        listener.start()
        atexit.register(listener.stop)
        logging.getLogger().addHandler(logging.handlers.QueueHandler(lines))
        logging.warning('heard')
        """
    ),
    "process_pool_left_open": Sample(
        """
        from concurrent.futures import ProcessPoolExecutor
        def f(x): return x * 10
        if __name__ == '__main__':
            pool = ProcessPoolExecutor(2); print(list(pool.map(f, range(3))))
        """
    ),
    "multiprocessing_pool_left_open": Sample(
        """
        import multiprocessing as mp
        def f(x): return x * x
        if __name__ == '__main__':
            pool = mp.get_context('fork').Pool(2); print(pool.map(f, [1, 2, 3]))
        """
    ),
    "multiprocessing_child_left": Sample(
        """
        import multiprocessing as mp, time
        def f(): time.sleep(0.2); print('child', flush=True)
        if __name__ == '__main__':
            mp.get_context('fork').Process(target=f).start(); print('main', flush=True)
        """
    ),
    "multiprocessing_daemon_left": Sample(
        """
        import multiprocessing as mp, time
        if __name__ == '__main__':
            mp.get_context('fork').Process(target=time.sleep, args=(60,), daemon=True).start()
        """
    ),
    "multiprocessing_child_has_exit_handlers": Sample(
        """
        import atexit, multiprocessing as mp
        atexit.register(print, 'parent', flush=True)
        def f(): print('child', flush=True)
        if __name__ == '__main__':
            child = mp.get_context('fork').Process(target=f); child.start(); child.join()
        """
    ),
    "end_with_stdout_closed": Sample("import os\nprint('out', end='')\nos.close(1)"),
    "end_with_stderr_closed": Sample("import os, sys\nsys.stderr.write('err')\nos.close(2)"),
    "end_with_stdout_closed_and_nothing_to_say": Sample("import os\nos.close(1)\nos._exit(4)"),
    "end_without_builtins": Sample(
        "import builtins\nprint(1)\nbuiltins.len = builtins.isinstance = lambda *_: 1 / 0"
    ),
    "end_with_broken_builtins_and_an_error": Sample(
        "import builtins\nbuiltins.len = builtins.isinstance = None\nlen([])"
    ),
    "end_without_modules": Sample("import sys\nprint(1)\nsys.modules.clear()"),
    "end_deletes_globals": Sample(
        "class C:\n    def __del__(self): print('deleted')\nc = C()",
        differs="a script's globals remain for the next cell",
    ),
}
