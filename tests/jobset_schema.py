"""JSON schemas of the Kubernetes and JobSet (v1alpha2) fields that `launch/jobset.yaml` uses.

Other fields are refused, so that a misspelt one is found: the API server would drop it silently.
"""


def record(required: dict, optional: dict | None = None) -> dict:
    """JSON schema of an object that has these fields and no other."""
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


def array(items: dict) -> dict:
    """JSON schema of a list that is not empty."""
    return {"type": "array", "items": items, "minItems": 1}


def one_of(*values: str) -> dict:
    """JSON schema of a choice."""
    return {"enum": list(values)}


TEXT, COUNT, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
NAME = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}
QUANTITY = {"anyOf": [COUNT, {"type": "string", "pattern": "^[0-9]+(Ki|Mi|Gi|Ti|m)?$"}]}
META = record({"name": NAME})
ON_EXIT_CODES = record(
    {"operator": one_of("In", "NotIn"), "values": array({"type": "integer", "minimum": 1})},
    {"containerName": NAME},
)
ON_POD_CONDITIONS = array(record({"type": TEXT, "status": one_of("True", "False", "Unknown")}))
POD_FAILURE_RULE = {
    "oneOf": [
        record({"action": one_of("FailJob", "Ignore", "Count"), name: requirement})
        for name, requirement in (
            ("onExitCodes", ON_EXIT_CODES),
            ("onPodConditions", ON_POD_CONDITIONS),
        )
    ]
}
CONTAINER = record(
    {
        "name": NAME,
        "image": TEXT,
        "command": array(TEXT),
        "args": array(TEXT),
        "env": array(record({"name": TEXT, "value": TEXT})),
        "ports": array(record({"name": NAME, "containerPort": COUNT})),
        "resources": record(
            {
                part: {"type": "object", "additionalProperties": QUANTITY}
                for part in ("limits", "requests")
            }
        ),
        "volumeMounts": array(record({"name": NAME, "mountPath": TEXT})),
    }
)
VOLUME = {
    "oneOf": [
        record({"name": NAME, "persistentVolumeClaim": record({"claimName": NAME})}),
        record({"name": NAME, "emptyDir": record({"medium": TEXT, "sizeLimit": QUANTITY})}),
    ]
}
POD_SPEC = record(
    {
        # The only one that allows a podFailurePolicy.
        "restartPolicy": {"const": "Never"},
        "serviceAccountName": NAME,
        "terminationGracePeriodSeconds": COUNT,
        "tolerations": array(
            record({"key": TEXT, "operator": one_of("Exists"), "effect": one_of("NoSchedule")})
        ),
        "containers": array(CONTAINER),
        "volumes": array(VOLUME),
    }
)
JOB_SPEC = record(
    {
        "completionMode": one_of("Indexed", "NonIndexed"),
        "completions": COUNT,
        "parallelism": COUNT,
        "backoffLimit": COUNT,
        "podFailurePolicy": record({"rules": array(POD_FAILURE_RULE)}),
        "template": record({"spec": POD_SPEC}),
    }
)
FAILURE_RULE = record(
    {
        "name": {"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
        "action": one_of("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"),
        "onJobFailureReasons": array(
            one_of(
                "BackoffLimitExceeded",
                "DeadlineExceeded",
                "FailedIndexes",
                "MaxFailedIndexesExceeded",
                "PodFailurePolicy",
            )
        ),
    }
)
JOBSET_SPEC = record(
    {
        "network": record({"enableDNSHostnames": FLAG, "publishNotReadyAddresses": FLAG}),
        "failurePolicy": record(
            {
                "maxRestarts": COUNT,
                "restartStrategy": one_of("Recreate", "BlockingRecreate"),
                "rules": array(FAILURE_RULE),
            }
        ),
        "replicatedJobs": array(
            record({"name": NAME, "replicas": COUNT, "template": record({"spec": JOB_SPEC})})
        ),
    }
)
RULE = record({part: {"type": "array"} for part in ("apiGroups", "resources", "verbs")})
CLAIM_SPEC = record(
    {
        "storageClassName": NAME,
        "accessModes": array(one_of("ReadWriteOnce", "ReadWriteMany")),
        "resources": record({"requests": record({"storage": QUANTITY})}),
    }
)


def resource(version: str, **fields: dict) -> dict:
    """JSON schema of a resource but for its kind."""
    about = {"apiVersion": {"const": version}, "kind": TEXT, "metadata": META}
    return record(about | fields)


RESOURCES = {
    "ServiceAccount": resource("v1"),
    "Role": resource("rbac.authorization.k8s.io/v1", rules=array(RULE)),
    "RoleBinding": resource(
        "rbac.authorization.k8s.io/v1",
        subjects=array(record({"kind": one_of("ServiceAccount"), "name": NAME})),
        roleRef=record({"apiGroup": TEXT, "kind": one_of("Role"), "name": NAME}),
    ),
    "PersistentVolumeClaim": resource("v1", spec=CLAIM_SPEC),
    "JobSet": resource("jobset.x-k8s.io/v1alpha2", spec=JOBSET_SPEC),
}
