"""What the containers of the functions and of the Jobs have in common."""

from __future__ import annotations

from typing import Any

# The uid of the images' user; a number, since Kubernetes cannot tell a name from root.
UID = 65532


def variable(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Return a variable of a container; ``entry`` has its value, or where it comes from."""
    return {"name": name} | entry


def mount(name: str, path: str) -> dict[str, Any]:
    """Return the place of a volume in a container: only the folder tmp may be written."""
    return {"name": name, "mountPath": path, "readOnly": name != "tmp"}
