"""The console script, also `python -m rmi_agent.server.cli`; its commands are in `commands/`."""

from . import quick_imports
from .commands import app, main

quick_imports.import_jsonschema()
__all__ = ["app", "main"]

if __name__ == "__main__":
    main()
