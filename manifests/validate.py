"""Holds the Kubernetes manifests against the API's schemas, and prints what else is to
be checked as JSON. Run by `cargo xtask manifests check`, which brings the packages."""

import copy
import json
import pathlib
import sys

import kubernetes_validate
import yaml

# The oldest that has all that is used (lifecycle `sleep`), and a recent one.
VERSIONS = ["1.30", "1.34"]
# Lists of objects that a patch merges by this field.
KEYS = {"containers": "name", "volumes": "name", "ports": "containerPort", "env": "name",
        "volumeMounts": "mountPath"}


def documents(path):
    return [d for d in yaml.safe_load_all(path.read_text()) if d is not None]


def merge(base, patch, name=""):
    """A strategic merge, as kustomize does it for what we use."""
    if isinstance(base, dict) and isinstance(patch, dict):
        out = copy.deepcopy(base)
        for key, value in patch.items():
            if value is None:
                out.pop(key, None)
            else:
                out[key] = merge(out[key], value, key) if key in out else copy.deepcopy(value)
        return out
    if isinstance(base, list) and isinstance(patch, list) and name in KEYS:
        out, by = copy.deepcopy(base), KEYS[name]
        for item in patch:
            at = next((n for n, old in enumerate(out) if old[by] == item[by]), None)
            if at is None:
                out.append(copy.deepcopy(item))
            else:
                out[at] = merge(out[at], item)
        return out
    return copy.deepcopy(patch)


def build(directory):
    """The objects of a kustomization, by (kind, name)."""
    kustomization = documents(directory / "kustomization.yaml")[0]
    objects = {}
    for resource in kustomization.get("resources", []):
        path = directory / resource
        if path.is_dir():
            objects.update(build(path))
        else:
            for document in documents(path):
                objects[document["kind"], document["metadata"]["name"]] = document
    for patch in kustomization.get("patches", []):
        for document in documents(directory / patch["path"]):
            key = document["kind"], document["metadata"]["name"]
            if key not in objects:
                raise SystemExit(f"{directory}/{patch['path']}: there is no {key} to patch")
            objects[key] = merge(objects[key], document)
    return objects


def faults(where, objects):
    for (kind, name), document in objects.items():
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                path = ".".join(map(str, error.path))
                yield f"{where}: {kind} {name}: {path}: {error.message} (Kubernetes {version})"
        # What the schemas do not know.
        if kind == "Service" and document["spec"].get("type") in ("LoadBalancer", "NodePort"):
            if "externalTrafficPolicy" not in document["spec"]:
                yield f"{where}: Service {name}: spec.externalTrafficPolicy is not set"
        if kind == "DaemonSet":
            yield from daemonset(where, name, document, objects)


def daemonset(where, name, document, objects):
    pod = document["spec"]["template"]["spec"]
    config = objects["ConfigMap", name]["data"]["tidegate.toml"]
    numbers = dict(line.split(" = ") for line in config.splitlines() if "_seconds = " in line)
    container = pod["containers"][0]
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = pause + int(numbers.get("drain_seconds", 25))
    if pod["terminationGracePeriodSeconds"] <= needed:
        yield f"{where}: DaemonSet {name}: terminationGracePeriodSeconds must be above {needed}"
    context = container["securityContext"]
    allowed = {"BPF", "PERFMON", "NET_ADMIN"}
    if context["capabilities"]["drop"] != ["ALL"]:
        yield f"{where}: DaemonSet {name}: capabilities.drop must be [ALL]"
    if not set(context["capabilities"].get("add") or []) <= allowed:
        yield f"{where}: DaemonSet {name}: capabilities.add has more than {sorted(allowed)}"
    if context["allowPrivilegeEscalation"] or not context["readOnlyRootFilesystem"]:
        yield f"{where}: DaemonSet {name}: securityContext is too wide"
    ports = {port["name"] for port in container["ports"]}
    probes = [container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "readiness", "liveness")]
    services = [o for (kind, _), o in objects.items() if kind == "Service"]
    targets = [port["targetPort"] for service in services for port in service["spec"]["ports"]]
    for port in [*probes, *targets]:
        if port not in ports:
            yield f"{where}: port {port!r} is none of the container's: {sorted(ports)}"
    labels = document["spec"]["template"]["metadata"]["labels"]
    for service in services:
        if not service["spec"]["selector"].items() <= labels.items():
            yield f"{where}: Service {service['metadata']['name']} selects no pod"


def main():
    root = pathlib.Path(sys.argv[1])
    for path in sorted((root / "monitoring").glob("*.yaml")):
        documents(path)
    found = []
    for where in ["daemonset", "daemonset/host-network", "daemonset/unprivileged"]:
        found += faults(where, build(root / where))
    configs = [
        {"name": where, "toml": o["data"]["tidegate.toml"]}
        for where in ["daemonset"]
        for (kind, _), o in build(root / where).items()
        if kind == "ConfigMap"
    ]
    print(json.dumps({"faults": found, "configs": configs}))


main()
