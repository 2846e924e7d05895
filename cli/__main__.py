"""`python -m rmi_agent.cli` is `rmi-agent`."""

from .entry import main

main()
