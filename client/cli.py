"""The console script, also `python -m rmi_agent.client.cli`; its commands are in `commands/`."""

from . import quick_imports
from .commands import main

quick_imports.import_jsonschema()
__all__ = ["main"]

if __name__ == "__main__":
    main()
