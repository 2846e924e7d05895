"""What the clients of the chaos run have run: code that behaves, and code that does its worst."""

from __future__ import annotations

COUNT = "chaos = globals().get('chaos', 0) + 1; print(f'counter={chaos}')"
CELLS = {
    "print": "print('row\\n' * 200)",
    "picture": "from IPython.display import Image; Image(data=b'\\x89PNG' + bytes(50_000))",
    "error": "1 / 0",
    "sleep": "import time; time.sleep(0.5)",
    "child": "import subprocess; subprocess.Popen(['sleep', '3600']); None",
    "daemon": "import os, time\n"
    "if os.fork() == 0:\n    os.setsid()\n    os.closerange(0, 100)\n    time.sleep(3600)\n"
    "    os._exit(0)",
    "thread": "import threading; threading.Thread(target=print, args=('late',)).start()",
    "binary": "import os; os.write(1, os.urandom(100_000))",
    "question": "input('? ')",
    "nothing": "",
}
ENDS = {
    "exit": "import os; os._exit(3)",
    "quit": "exit()",
    "segfault": "import ctypes; ctypes.string_at(0)",
    "killed": "import os; os.kill(os.getpid(), 9)",
    "stopped": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "memory": "x = [bytearray(b'x' * 1_000_000) for _ in range(900)]; import time; time.sleep(9)",
    "forks": "import os, time\n"
    "for _ in range(25):\n    if os.fork() == 0:\n        time.sleep(600); os._exit(0)\n",
    "key": "get_ipython().kernel.session.key = b'x'",
    # The parent of a kernel that has no template would be the server.
    "orphan": "import os, signal\n"
    "if 'fork/zygote' in open(f'/proc/{os.getppid()}/cmdline').read():\n"
    "    os.kill(os.getppid(), signal.SIGKILL)",
    "stop_parent": "import os, signal\n"
    "if 'fork/zygote' in open(f'/proc/{os.getppid()}/cmdline').read():\n"
    "    os.kill(os.getppid(), signal.SIGSTOP)",
}
TIMEOUTS = {
    "loop": "while True: pass",
    "sleeper": "import time; time.sleep(60)",
    "deaf": "import time\nwhile True:\n    try: time.sleep(60)\n    except KeyboardInterrupt: pass",
    "c": "sum(range(10**11))",
    "await": "import asyncio; await asyncio.sleep(60)",
    "shell": "!sleep 60",
}
FLOODS = {
    "lines": "while True: print('f' * 1000)",
    "huge": "print('h' * 30_000_000)",
    "tiny": "for n in range(100_000): print(n, flush=True)",
    "returns": "import sys\nfor n in range(50_000): sys.stdout.write(f'\\r{n}%')",
    "return_storm": "import os; os.write(1, b'x' * 300_000 + b'\\ra' * 200_000)",
    "backspaces": "import os; os.write(1, b'ab\\b' * 200_000 + b'\\n')",
    "colours": "print('\\x1b[31mred\\x1b[0m ' * 300_000)",
    "json": "for _ in range(30): display({'application/json': [1] * 100_000}, raw=True)",
    "metadata": "display({'text/plain': 'x'}, raw=True, metadata={'m': ['y' * 100] * 50_000})",
    "stderr": "import sys; sys.stderr.write('e' * 80 + '\\n' * 100_000)",
    "child": "import subprocess; subprocess.run('yes | head -c 20000000', shell=True)",
    "updates": "h = display('a', display_id=True)\nfor n in range(5_000): h.update(n)",
    "exception": "raise ValueError('v' * 3_000_000)",
}
FILES = {
    "echo.py": "import sys\nprint(sys.argv[1:], repr(sys.stdin.read()))\n",
    "exits.py": "import sys\nsys.exit(int(sys.argv[1]))\n",
    "raises.py": "raise RuntimeError('of the file')\n",
    "slow.py": "import time\ntime.sleep(60)\n",
    "flood.py": "while True: print('f' * 1000)\n",
}
