"""Holds the Kubernetes manifests against the API's schemas and against each other, and
prints what else is to be checked as JSON. Run by `cargo xtask manifests check`, which brings
the packages; validate_test.py shows that it finds what is wrong."""

import copy
import functools
import json
import pathlib
import sys
import tomllib

import kubernetes_validate
import yaml

# The oldest that has all that is used (lifecycle `sleep`), and a recent one.
VERSIONS = ["1.30", "1.34"]
# Lists of objects that a patch merges by this field.
KEYS = {"containers": ["name"], "volumes": ["name"], "ports": ["containerPort", "port"],
        "env": ["name"], "volumeMounts": ["mountPath"]}
# Each a kustomization that somebody may apply.
PLACES = ["base", "single", "daemonset", "daemonset/host-network", "daemonset/unprivileged",
          "statefulset", "statefulset/three-nodes"]


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
        out = copy.deepcopy(base)
        by = next(key for key in KEYS[name] if all(key in item for item in base + patch))
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


@functools.cache
def schema_fault(document, version):
    """What the API would say of an object; None: it would take it."""
    try:
        kubernetes_validate.validate(json.loads(document), version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    return None


def faults(where, objects):
    for (kind, name), document in objects.items():
        for version in VERSIONS:
            fault = schema_fault(json.dumps(document), version)
            if fault:
                yield f"{where}: {kind} {name}: {fault} (Kubernetes {version})"
        # What the schemas do not know.
        if kind == "Service" and document["spec"].get("type") in ("LoadBalancer", "NodePort"):
            if "externalTrafficPolicy" not in document["spec"]:
                yield f"{where}: Service {name}: spec.externalTrafficPolicy is not set"
        if kind in ("DaemonSet", "StatefulSet"):
            yield from workload(where, document, objects)


def workload(where, document, objects):
    """What is true of a broker's pods, alone or in a cluster."""
    kind, name = document["kind"], document["metadata"]["name"]
    here = f"{where}: {kind} {name}"
    pod = document["spec"]["template"]["spec"]
    config = tomllib.loads(objects["ConfigMap", name]["data"]["tidegate.toml"])
    container = pod["containers"][0]
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = pause + config["node"].get("drain_seconds", 25)
    if pod["terminationGracePeriodSeconds"] <= needed:
        yield f"{here}: terminationGracePeriodSeconds must be above {needed}"
    context = container["securityContext"]
    allowed = {"BPF", "PERFMON", "NET_ADMIN"}
    if context["capabilities"]["drop"] != ["ALL"]:
        yield f"{here}: capabilities.drop must be [ALL]"
    if not set(context["capabilities"].get("add") or []) <= allowed:
        yield f"{here}: capabilities.add has more than {sorted(allowed)}"
    if context["allowPrivilegeEscalation"] or not context["readOnlyRootFilesystem"]:
        yield f"{here}: securityContext is too wide"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    probes = [container[f"{probe}Probe"]["httpGet"]["port"] for probe in ("startup", "readiness", "liveness")]
    labels = document["spec"]["template"]["metadata"]["labels"]
    services = [o for (kind, _), o in objects.items() if kind == "Service"]
    targets = [port["targetPort"] for service in services for port in service["spec"]["ports"]]
    for port in [*probes, *targets]:
        if port not in ports:
            yield f"{where}: port {port!r} is none of the container's: {sorted(ports)}"
    for other in objects.values():
        selector = other["spec"]["selector"] if other["kind"] == "Service" else None
        if other["kind"] == "PodDisruptionBudget":
            selector = other["spec"]["selector"]["matchLabels"]
        if other["kind"] == "NetworkPolicy":
            selector = other["spec"]["podSelector"]["matchLabels"]
        if selector is not None and not selector.items() <= labels.items():
            yield f"{where}: {other['kind']} {other['metadata']['name']} selects no pod"
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    claims = {claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", [])}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    for path, volume in mounts.items():
        if volume not in volumes and volume not in claims:
            yield f"{here}: {path} is mounted from {volume!r}, which is no volume"
    if kind == "StatefulSet":
        if mounts.get(config["node"]["data_dir"]) not in claims:
            yield f"{here}: node.data_dir is on no volume of volumeClaimTemplates"
        if ("Service", document["spec"]["serviceName"]) not in objects:
            yield f"{here}: serviceName names no Service"
    if "cluster" in config:
        yield from cluster(here, document, objects, config, mounts, volumes, ports)


def cluster(here, document, objects, config, mounts, volumes, ports):
    """What makes pods one cluster."""
    kind, spec = document["kind"], document["spec"]
    pod = spec["template"]["spec"]
    container = pod["containers"][0]
    said = config["cluster"]
    port = int(said["bind"].rsplit(":", 1)[1])
    if ports.get("cluster") != port:
        yield f"{here}: cluster.bind has port {port}, and no port 'cluster' of the container is that"
    scheme, service, _ = said["discovery"].split(":")
    headless = objects.get(("Service", service.split(".")[0]))
    if scheme != "dns" or headless is None:
        yield f"{here}: cluster.discovery names no Service"
    else:
        if headless["spec"].get("clusterIP") != "None":
            yield f"{here}: the Service of cluster.discovery is not headless"
        if not headless["spec"].get("publishNotReadyAddresses"):
            yield f"{here}: the Service of cluster.discovery hides nodes that are not ready"
        if said["discovery"].rsplit(":", 1)[1] != str(port):
            yield f"{here}: cluster.discovery has another port than cluster.bind"
        if service.split(".")[1:2] != [headless["metadata"]["namespace"]]:
            yield f"{here}: cluster.discovery names another namespace than the Service's"
        if kind == "StatefulSet" and spec["serviceName"] != headless["metadata"]["name"]:
            yield f"{here}: serviceName is not the Service of cluster.discovery"
    if said["bootstrap"] == "kubernetes":
        yield from rights(here, pod, objects, said["config_map"])
    environment = {variable["name"]: variable for variable in container["env"]}
    names = list(environment)
    advertise = environment.get("TIDEGATE__CLUSTER__ADVERTISE", {}).get("value")
    if advertise != f"$(POD_IP):{port}":
        yield f"{here}: TIDEGATE__CLUSTER__ADVERTISE is not the pod's address and port {port}"
    elif "POD_IP" not in names[: names.index("TIDEGATE__CLUSTER__ADVERTISE")]:
        yield f"{here}: POD_IP must stand before what is made of it"
    secret = mounts.get(str(pathlib.PurePosixPath(said["secret_file"]).parent))
    if "secret" not in volumes.get(secret, {}):
        yield f"{here}: cluster.secret_file is on no volume of a Secret"
    paths = {p: container[f"{p}Probe"]["httpGet"]["path"] for p in ("startup", "liveness", "readiness")}
    for probe in ("startup", "liveness"):
        if paths[probe] != "/livez":
            yield f"{here}: {probe}Probe kills pods that wait for others: use /livez"
    if paths["readiness"] != "/readyz":
        yield f"{here}: readinessProbe must ask /readyz, all that holds a rollout back"
    if spec.get("minReadySeconds", 0) < 10:
        yield f"{here}: minReadySeconds must be 10 or more"
    if kind == "DaemonSet":
        update = spec["updateStrategy"]
        rolling = update.get("rollingUpdate", {})
        if update["type"] != "RollingUpdate" or rolling.get("maxUnavailable") != 1:
            yield f"{here}: updateStrategy must take one node at a time (maxUnavailable: 1)"
    else:
        if spec.get("podManagementPolicy") != "Parallel":
            yield f"{here}: podManagementPolicy must be Parallel: no pod is ready before a majority is there"
        budgets = [o for (k, _), o in objects.items() if k == "PodDisruptionBudget"]
        if not any(budget["spec"].get("maxUnavailable") == 1 for budget in budgets):
            yield f"{here}: no PodDisruptionBudget with maxUnavailable: 1"
    for (other, _), policy in objects.items():
        if other != "NetworkPolicy":
            continue
        own = {"podSelector": policy["spec"]["podSelector"]}
        for way, side in (("ingress", "from"), ("egress", "to")):
            rules = policy["spec"].get(way, [])
            if not any(own in rule.get(side, []) and {"port": "cluster"} in rule["ports"] for rule in rules):
                yield f"{here}: the NetworkPolicy does not let nodes reach each other ({way})"


def rights(here, pod, objects, config_map):
    """That a pod may do with the ConfigMap of its bootstrap what it does, and no more."""
    account = pod.get("serviceAccountName")
    if ("ServiceAccount", account) not in objects:
        yield f"{here}: there is no ServiceAccount {account!r}"
    if pod.get("automountServiceAccountToken") is not True:
        yield f"{here}: bootstrap = \"kubernetes\" wants automountServiceAccountToken: true"
    bound = [
        o["roleRef"]["name"]
        for (kind, _), o in objects.items()
        if kind == "RoleBinding" and any(
            s["kind"] == "ServiceAccount" and s["name"] == account and
            s["namespace"] == o["metadata"]["namespace"] for s in o["subjects"])
    ]
    roles = [objects["Role", name] for name in bound if ("Role", name) in objects]
    found = {
        (resource, verb, tuple(rule.get("resourceNames", ["(any)"])))
        for role in roles for rule in role["rules"]
        for resource in rule["resources"] for verb in rule["verbs"]
    }
    wanted = {("configmaps", "create", ("(any)",)),
              *(("configmaps", verb, (config_map,)) for verb in ("get", "update"))}
    for resource, verb, names in sorted(wanted - found):
        yield f"{here}: its ServiceAccount may not {verb} {resource} {names[0]}"
    for resource, verb, names in sorted(found - wanted):
        yield f"{here}: its ServiceAccount may {verb} {resource} {', '.join(names)}, which nothing needs"


def configs(root):
    """Each config, and what its pods add to it by the environment."""
    for where in PLACES:
        objects = build(root / where)
        for (kind, name), document in objects.items():
            if kind not in ("DaemonSet", "StatefulSet"):
                continue
            container = document["spec"]["template"]["spec"]["containers"][0]
            variables = {
                v["name"]: v["value"].replace("$(POD_IP)", "10.0.0.1")
                for v in container["env"] if "value" in v
            }
            toml = objects["ConfigMap", name]["data"]["tidegate.toml"]
            yield {"name": where, "toml": toml, "variables": variables}


def main():
    root = pathlib.Path(sys.argv[1])
    for path in sorted((root / "monitoring").glob("*.yaml")):
        documents(path)
    found = []
    for where in PLACES:
        found += faults(where, build(root / where))
    print(json.dumps({"faults": found, "configs": list(configs(root))}))


if __name__ == "__main__":
    main()
