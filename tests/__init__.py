"""The tests, in folders that mirror the code's."""

from rmi_agent.server.quick_imports import import_jsonschema

import_jsonschema()  # as our programs do
