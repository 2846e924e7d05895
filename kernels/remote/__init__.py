"""Kernels that a kernelspec's own provisioner puts on another machine.

Project files are sent there, and a heartbeat tells whether they are alive.
"""

from .file_sync import NotSent, Shipment
from .process import RemoteProcess

__all__ = [
    "NotSent",
    "RemoteProcess",
    "Shipment",
]
