"""Kernels that a kernelspec's own provisioner starts on another machine.

The project's files are sent there, and a heartbeat tells whether a kernel is alive.
"""

from .file_sync import Shipment
from .heartbeat import Heartbeat
from .process import RemoteProcess

__all__ = [
    "Heartbeat",
    "RemoteProcess",
    "Shipment",
]
