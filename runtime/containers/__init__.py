"""Containers of a Compose project."""

from runtime.containers.system import ContainerRuntime

__all__ = ["ContainerRuntime"]
