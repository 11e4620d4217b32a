"""Cheap checks of uploaded files: what they are, and that reading them is safe."""

from rankpress.formats.facts import FileFacts, ShardIndex
from rankpress.formats.inspect import inspect_file
from rankpress.formats.limits import Limits
from rankpress.formats.manifest import read_manifest

__all__ = ["FileFacts", "Limits", "ShardIndex", "inspect_file", "read_manifest"]
