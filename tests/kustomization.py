"""What `kubectl kustomize FOLDER` makes of a folder: the parts that `deploy/kubernetes` uses.

These are resources, components, a ConfigMap of settings, images, JSON patches and a namespace. The
ConfigMap keeps its plain name; Kustomize would append a digest of its content. An unknown field is
an error, so nothing is left out silently.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

Object = dict[str, Any]
KNOWN = {
    "apiVersion", "kind", "namespace", "resources", "components", "configMapGenerator", "images",
    "patches",
}  # fmt: skip
# Kinds without a namespace.
OF_THE_CLUSTER = {"Namespace"}


def load(path: Path) -> list[Object]:
    """Reads the documents of a YAML file."""
    return list(YAML(typ="safe", pure=True).load_all(path.read_text()))


def compose(folder: Path) -> list[Object]:
    """Returns all objects of a folder with a `kustomization.yaml`."""
    return _apply(folder, [])


def _apply(folder: Path, objects: list[Object]) -> list[Object]:
    (told,) = load(folder / "kustomization.yaml")
    assert set(told) <= KNOWN, set(told) - KNOWN
    for name in told.get("resources", ()):
        path = folder / name
        objects += compose(path) if path.is_dir() else load(path)
    for one in told.get("configMapGenerator", ()):
        _generate(one, folder, objects)
    for name in told.get("components", ()):
        objects = _apply(folder / name, objects)
    for patch in told.get("patches", ()):
        _patch(patch, objects)
    for image in told.get("images", ()):
        _rename(image, objects)
    for one in objects:
        if "namespace" in told and one["kind"] not in OF_THE_CLUSTER:
            one["metadata"]["namespace"] = told["namespace"]
    return objects


def _generate(told: Object, folder: Path, objects: list[Object]) -> None:
    files = [(folder / name).read_text().splitlines() for name in told.get("envs", ())]
    lines = [line for lines in files for line in lines if line and line[0] != "#"]
    data = dict(line.split("=", 1) for line in [*lines, *told.get("literals", ())])
    if told.get("behavior", "create") == "merge":
        (there,) = [one for one in objects if one["metadata"]["name"] == told["name"]]
        there["data"] |= data
        return
    metadata = {"name": told["name"]}
    objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def _patch(told: Object, objects: list[Object]) -> None:
    target = (told["target"]["kind"], told["target"]["name"])
    (there,) = [one for one in objects if (one["kind"], one["metadata"]["name"]) == target]
    for change in YAML(typ="safe", pure=True).load(told["patch"]):
        *way, last = [
            part.replace("~1", "/").replace("~0", "~") for part in change["path"].split("/")[1:]
        ]
        node: Any = there
        for part in way:
            node = node[int(part)] if isinstance(node, list) else node[part]
        if change["op"] == "remove":
            del node[last]
        elif isinstance(node, list):
            assert (change["op"], last) == ("add", "-")
            node.append(change["value"])
        else:
            assert change["op"] == "add" or last in node, change
            node[last] = change["value"]


def _rename(told: Object, objects: list[Object]) -> None:
    for pod in map(pod_of, objects):
        for container in pod["spec"]["containers"] if pod else ():
            name, _, tag = container["image"].partition(":")
            if name == told["name"]:
                name, tag = told.get("newName", name), told.get("newTag", tag)
                container["image"] = f"{name}:{tag}" if tag else name


def pod_of(one: Object) -> Object | None:
    """Returns the template of the pods that an object starts."""
    template: Object | None = one.get("spec", {}).get("template")
    return template
