"""The errors of this layer: what each means to the caller, and who may see its text.

BadSettings                a setting, option or state file can't be used: commands print the text,
                           one line that names it, and exit with 2; for the user who ran it
AttachError                a stdio process can't attach to a server: it serves by itself, or fails
│                          calls with this text; for the user whose server it is
└─ NoResidentServer        none runs
UpstreamLost               resident/proxy.py: the server exited or is stuck during a call
AlreadyRunning             this user's background server runs: `start` prints the text, exits with 1
UnusableFile               a host's config can't be read or written: `install` changes nothing
└─ UneditableFile          it would lose something: `install` shows what to change by hand
ProbeFailed                a server's entry does not work: `install` and `doctor` say why
ProbeSkipped               only the host can try it, so nothing is known about it
StdoutPolluted             the stdio server of `doctor` wrote something else than the protocol
Refusal(ToolError)         refusals.py, as it needs FastMCP, which takes 1.5 s to import: a tool
                           call can't be carried out; for the model that called
PathNotAllowedError        a name is no file that the caller may have: becomes a `Refusal`
RootError                  the projects folder is gone: becomes a `PathNotAllowedError`
NotAFileError(OSError)     the same for a folder, pipe or device in place of a file
UnreadableError            a notebook can't be shown: the review page says so; for its viewers
RequestRefused             the HTTP answer to a request over a limit; for anybody, so the text has
                           no name, path or figure of somebody else
WorkerError                HTML, a chart or a picture could not be read, or took too long: a model
                           reads its name instead; the text says why
Overflow                   files/watched_tree.py, more files have changed than the system has kept:
                           the folders are searched instead
Flaw                       middleware/json_messages.py: why a message is bad; for its sender
"""

from __future__ import annotations


class BadSettings(Exception):
    """A setting has a value that can't be used; the text is one line naming the variable."""


class AttachError(Exception):
    """No server can be attached to; the text is one line with the cause and the next step."""


class NoResidentServer(AttachError):
    """No background server runs."""


class AlreadyRunning(Exception):
    """A background server runs already; the text says where."""


class UnusableFile(Exception):
    """A file can't be read or written; the text names it and says why, in one line."""


class UneditableFile(UnusableFile):
    """A file's layout can't be changed in place; the text names the file."""


class ProbeFailed(Exception):
    """An entry does not work; the text says why and what to do."""


class ProbeSkipped(Exception):
    """Only the host can try an entry; the text says why."""


class StdoutPolluted(Exception):
    """A server wrote something else than the protocol, or did not answer; the text says which."""


class PathNotAllowedError(Exception):
    """The path can't be used; the text, in the original project's words, says what to do."""


class RootError(Exception):
    """The root folder no longer exists or is no longer a folder; the text says why."""


class NotAFileError(OSError):
    """The path is a folder, FIFO, socket or device instead of a regular file."""


class UnreadableError(Exception):
    """A file that can't be shown as a notebook; the text tells a person why."""


class RequestRefused(Exception):
    """A request that is not served.

    Args:
        status: the HTTP status.
        text: what clients show to their model: the cause and the next step.
        retry_after: seconds until the same request may succeed; None if it never will.
    """

    def __init__(self, status: int, text: str, retry_after: int | None = None) -> None:
        super().__init__(text)
        self.status, self.retry_after = status, retry_after


class WorkerError(Exception):
    """The process that reads HTML, charts and pictures failed; the text says why."""
