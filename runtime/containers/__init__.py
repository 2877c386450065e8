"""The system in containers, as one Compose project."""

from runtime.containers.system import ContainerRuntime

__all__ = ["ContainerRuntime"]
