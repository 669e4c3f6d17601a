"""Each of these breaks one thing in a manifest, and the check has to name it. Run by
`cargo xtask manifests check`."""

import copy
import pathlib
import unittest

import validate

ROOT = pathlib.Path(__file__).parent
POD = ["spec", "template", "spec"]
CONTAINER = [*POD, "containers", 0]


def faults(where, change):
    objects = copy.deepcopy(validate.build(ROOT / where))
    change(objects)
    return list(validate.faults(where, objects))


def at(document, path):
    for key in path:
        document = document[key]
    return document


def put(key, path, value):
    """Sets a field of an object; None removes it."""
    def change(objects):
        parent = at(objects[key], path[:-1])
        if value is None:
            del parent[path[-1]]
        else:
            parent[path[-1]] = value
    return change


def toml(old, new):
    def change(objects):
        data = objects["ConfigMap", "tidegate"]["data"]
        assert old in data["tidegate.toml"], old
        data["tidegate.toml"] = data["tidegate.toml"].replace(old, new)
    return change


SET, DAEMONS = ("StatefulSet", "tidegate"), ("DaemonSet", "tidegate")
NODES, POLICY = ("Service", "tidegate-nodes"), ("NetworkPolicy", "tidegate")
ROLE, BINDING = ("Role", "tidegate"), ("RoleBinding", "tidegate")
BUDGET = ("PodDisruptionBudget", "tidegate")

# Where, what is broken, what has to be said.
BROKEN = [
    ("statefulset", put(NODES, ["spec", "publishNotReadyAddresses"], False), "hides nodes"),
    ("statefulset", put(NODES, ["spec", "clusterIP"], None), "is not headless"),
    ("statefulset", put(NODES, ["spec", "selector"], {"app": "x"}), "Service tidegate-nodes selects no pod"),
    ("statefulset", toml("tidegate-nodes.tidegate.svc:7883", "others.tidegate.svc:7883"), "names no Service"),
    ("statefulset", toml("tidegate-nodes.tidegate.svc:7883", "tidegate-nodes.tidegate.svc:7884"), "another port"),
    ("statefulset", toml("tidegate-nodes.tidegate.svc", "tidegate-nodes.default.svc"), "another namespace"),
    ("statefulset", toml('bind = "0.0.0.0:7883"', 'bind = "0.0.0.0:7999"'), "no port 'cluster'"),
    ("statefulset", toml("/etc/tidegate/cluster/secret", "/etc/tidegate/elsewhere/secret"), "cluster.secret_file is on no volume"),
    ("statefulset", toml("drain_seconds = 90", "drain_seconds = 300"), "terminationGracePeriodSeconds must be above 305"),
    ("statefulset", put(SET, ["spec", "podManagementPolicy"], None), "must be Parallel"),
    ("statefulset", put(SET, ["spec", "minReadySeconds"], 0), "minReadySeconds must be"),
    ("statefulset", put(SET, ["spec", "serviceName"], "tidegate"), "serviceName is not the Service"),
    ("statefulset", put(SET, ["spec", "volumeClaimTemplates"], []), "node.data_dir is on no volume"),
    ("statefulset", put(SET, [*CONTAINER, "startupProbe", "httpGet", "path"], "/readyz"), "startupProbe kills pods"),
    ("statefulset", put(SET, [*CONTAINER, "livenessProbe", "httpGet", "path"], "/readyz"), "livenessProbe kills pods"),
    ("statefulset", put(SET, [*CONTAINER, "readinessProbe", "httpGet", "path"], "/livez"), "readinessProbe must ask"),
    ("statefulset", put(SET, [*CONTAINER, "env", 2, "value"], "$(POD_IP):1883"), "TIDEGATE__CLUSTER__ADVERTISE is not"),
    ("statefulset", put(SET, [*CONTAINER, "env", 1, "name"], "OTHER_IP"), "POD_IP must stand before"),
    ("statefulset", put(SET, [*POD, "automountServiceAccountToken"], False), "wants automountServiceAccountToken"),
    ("statefulset", put(SET, [*POD, "serviceAccountName"], "default"), "there is no ServiceAccount 'default'"),
    ("statefulset", put(ROLE, ["rules", 1, "resourceNames"], ["another"]), "may not get configmaps tidegate-cluster"),
    ("statefulset", put(ROLE, ["rules", 1, "verbs"], ["get"]), "may not update configmaps"),
    ("statefulset", put(ROLE, ["rules", 0, "verbs"], ["create", "delete"]), "may delete configmaps (any)"),
    ("statefulset", put(ROLE, ["rules", 0, "resources"], ["configmaps", "secrets"]), "may create secrets"),
    ("statefulset", put(BINDING, ["subjects", 0, "name"], "default"), "may not create configmaps"),
    ("statefulset", put(BUDGET, ["spec", "maxUnavailable"], 2), "no PodDisruptionBudget"),
    ("statefulset", put(BUDGET, ["spec", "selector", "matchLabels"], {"app": "x"}), "PodDisruptionBudget tidegate selects no pod"),
    ("statefulset", put(POLICY, ["spec", "egress", 0, "ports", 0, "port"], "mqtt"), "reach each other (egress)"),
    ("statefulset", put(POLICY, ["spec", "ingress"], []), "reach each other (ingress)"),
    ("statefulset", put(SET, ["spec", "replica"], 3), "Additional properties are not allowed"),
    ("daemonset", put(DAEMONS, ["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"], 2), "one node at a time"),
    ("daemonset", put(DAEMONS, ["spec", "updateStrategy", "rollingUpdate"], {"maxUnavail": 1}), "'maxUnavail' was unexpected"),
    ("daemonset", put(DAEMONS, [*POD, "terminationGracePeriodSeconds"], 60), "must be above 95"),
    ("daemonset", put(DAEMONS, [*CONTAINER, "securityContext", "capabilities", "add"], ["SYS_ADMIN"]), "capabilities.add has more"),
    ("daemonset", put(DAEMONS, [*CONTAINER, "ports", 1, "name"], "peers"), "port 'cluster' is none of the container's"),
    ("daemonset", put(("Service", "tidegate"), ["spec", "externalTrafficPolicy"], None), "externalTrafficPolicy is not set"),
    ("single", put(SET, ["spec", "serviceName"], "nobody"), "serviceName names no Service"),
]


class ABrokenManifestIsFound(unittest.TestCase):
    def test_what_is_shipped_has_no_fault(self):
        for where in validate.PLACES:
            self.assertEqual(faults(where, lambda objects: None), [], where)

    def test_each_break_is_named(self):
        for where, change, said in BROKEN:
            with self.subTest(said):
                found = faults(where, change)
                self.assertTrue(any(said in fault for fault in found), found)

    def test_a_patch_of_a_service_keeps_its_other_ports(self):
        base = [{"port": 1, "name": "a"}, {"port": 2, "name": "b"}]
        merged = validate.merge(base, [{"port": 2, "nodePort": 3}], "ports")
        self.assertEqual(merged, [{"port": 1, "name": "a"}, {"port": 2, "name": "b", "nodePort": 3}])


if __name__ == "__main__":
    unittest.main()
