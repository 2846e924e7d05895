"""The templates of this process: one for each interpreter, environment and list of preloads.

Starts, replaces and ends them, and remembers which fail. A template belongs to one process: a child
that is forked has none of its parent's. Knows nothing of Jupyter.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections import Counter, OrderedDict, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ..errors import CannotFork, PreloadConflict
from .forked_process import ForkedProcess
from .own_sockets import after_fork, close_inherited
from .request import Key, Request
from .template import Template

RETRY = 30.0  # seconds until one is tried again for an environment that somebody may have repaired
MAX_FAILURES = 2  # times in a row a template may exit before its first kernel; then we give up
MAX_TEMPLATES = 8  # that fork at the same time; the least recently used makes room
MAX_EXTRA = 4  # of them, for environments other than the default ones
UNUSED = 1_800.0  # seconds after which those are retired
MAX_EXTRA_BYTES = 500_000_000  # of all of those; the one used last is kept even if it has more
USED = 60.0  # seconds in which a template is not retired for its memory
CLOSE_TIMEOUT = 2.0  # max seconds for all templates together to exit by themselves


class Templates:
    """The templates of this process, for all of its threads.

    Nothing here is awaited from another thread: a forked process may go on with its parent's event
    loop, and whichever of them is faster reads the call that was to wake the other.
    """

    def __init__(self) -> None:
        self._start_empty()
        after_fork(self._forget_parents)

    def _start_empty(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()  # nothing waits for a template while it is held
        # bubblewrap is set to end with its parent, which to Linux is the thread that started it:
        # this thread stays.
        self._spawner = ThreadPoolExecutor(1, "templates")
        self._living: OrderedDict[Key, Template] = OrderedDict()  # least recently used first
        self._retired: list[Template] = []
        self._unfit: defaultdict[Key, set[str]] = defaultdict(set)  # modules not to preload
        # Why kernels can't be formed ahead, and since when that is known.
        self._unable: dict[Key, tuple[str, float]] = {}
        self._failures: Counter[Key] = Counter()  # in a row, of templates that forked nothing

    def _forget_parents(self) -> None:
        """Start anew in a process that was forked: none of the templates is its own."""
        close_inherited()
        for each in (*self._living.values(), *self._retired):
            each.process.poll()  # it is nobody's child here, so `subprocess` forgets it
        self._start_empty()

    def _locked(self) -> threading.Lock:
        """The lock of this process's templates."""
        if self._pid != os.getpid():  # forked by a library that runs none of Python's hooks
            self._forget_parents()
        return self._lock

    def close(self, **env: str) -> None:
        """End the templates with these variables in their environment (or all) and their kernels.

        Waits in the caller's thread, so that a stopped template blocks no request for a kernel.
        """
        with self._locked():
            closing = self._take_out(env)
        until = time.monotonic() + CLOSE_TIMEOUT
        for template in closing:
            template.end(max(0.0, until - time.monotonic()))

    def _take_out(self, env: dict[str, str]) -> list[Template]:
        """Forget the templates with these variables, and close their lines."""
        keys = [key for key, each in self._living.items() if env.items() <= each.env.items()]
        closed = [self._living.pop(key) for key in keys]
        closed += [t for t in self._retired if t.ended or env.items() <= t.env.items()]
        self._retired = [each for each in self._retired if each not in closed]
        for known in (self._unfit, self._unable, self._failures):
            for key in [key for key in known if env.items() <= dict(key[2]).items()]:
                self._forget(key)
        for each in closed:
            each.line.close()
        return closed

    def _forget(self, key: Key) -> None:
        """Forget what is known of templates that have failed."""
        for known in (self._unfit, self._unable, self._failures):
            known.pop(key, None)

    async def fork(self, request: Request) -> ForkedProcess:
        """Fork a kernel from the matching template, which is started or replaced if necessary.

        If the user has other versions of preloaded modules, uses one that preloads nothing.

        Raises:
            CannotFork: no template can fork it, or not yet.
        """
        try:
            return await self._fork(request)
        except PreloadConflict:
            return await self._fork(replace(request, preload=()))

    async def _fork(self, request: Request) -> ForkedProcess:
        for _ in range(2):
            with self._locked():
                template = self._template_for(request)
            if not (template.ready or request.wait):
                raise CannotFork("their template is still importing")
            try:
                forked = await template.fork(request)
                if request.sockets and not (template.ready or self._is_ready(template)):
                    forked.template_is_ready = functools.partial(self._is_ready, template)
                forked.kernel_info = template.kernel_info or {}
                return forked
            except PreloadConflict:
                raise
            except CannotFork:
                with self._locked():
                    if template.is_usable():
                        raise
        raise CannotFork("its template has ended")

    def _is_ready(self, template: Template) -> bool:
        with self._locked():
            template.is_usable()  # which reads its reports
        return template.ready

    def _template_for(self, request: Request) -> Template:
        key = request.key
        template = self._living.pop(key, None)
        if template is not None and not template.is_usable():
            if template.unfit:
                self._unfit[key] |= template.unfit
            elif template.unable:
                self._unable[key] = template.unable, time.monotonic()
            elif not template.stale:
                self._failures[key] = 0 if template.forked else self._failures[key] + 1
            self._retire(template)
            template = None
            if self._failures[key] >= MAX_FAILURES:
                self._unable[key] = "its template does not start", time.monotonic()
        why, since = self._unable.get(key, ("", 0.0))
        if why and request.is_extra and time.monotonic() > since + RETRY:
            self._forget(key)
        elif why:
            raise CannotFork(f"they can't be formed ahead ({why})")
        self._make_room(request)
        if template is None:
            wanted = [name for name in request.preload if name not in self._unfit[key]]
            try:
                template = self._start(request, wanted)
            except OSError as error:
                raise CannotFork(f"its template can't be started: {error}") from error
        self._living[key] = template
        template.used = time.monotonic()
        return template

    def _make_room(self, request: Request) -> None:
        """Retire the least recently used templates, so that there may be one for a request."""
        extra = [key for key, each in self._living.items() if each.is_extra]
        if request.is_extra and len(extra) >= MAX_EXTRA:
            self._retire(self._living.pop(extra[0]))
        while len(self._living) >= MAX_TEMPLATES:
            self._retire(self._living.popitem(last=False)[1])

    @property
    def has_extra(self) -> bool:
        """Whether there are templates for environments other than the default ones."""
        with self._locked():
            return any(each.is_extra for each in self._living.values())

    def retire_unused(self, unused: float = UNUSED, most_bytes: int = MAX_EXTRA_BYTES) -> None:
        """Retire templates of other environments than the default ones.

        Those go that nobody has used for long, and those used least recently while all together
        take too much memory. Measures them, so call it in a thread.
        """
        with self._locked():
            extra = [(key, each) for key, each in self._living.items() if each.is_extra]
        left, unwanted = most_bytes, []
        for number, (key, template) in enumerate(reversed(extra)):
            left -= template.memory()
            is_excess = left < 0 and number > 0
            unwanted.append((key, template, min(unused, USED) if is_excess else unused))
        with self._locked():
            for key, template, limit in unwanted:
                is_unused = template.used < time.monotonic() - limit  # now, when nobody asks it
                if is_unused and self._living.get(key) is template:
                    self._retire(self._living.pop(key))

    def _start(self, request: Request, preload: list[str]) -> Template:
        if request.apart:
            return self._spawner.submit(Template, request, preload).result()
        return Template(request, preload)

    def _retire(self, template: Template) -> None:
        template.retire()
        self._retired.append(template)
        for old in [each for each in self._retired if each.ended]:
            old.line.close()
            self._retired.remove(old)


TEMPLATES = Templates()
