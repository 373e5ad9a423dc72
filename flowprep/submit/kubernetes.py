"""An Indexed Job of Kubernetes as a manifest that a person can read and edit."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flowprep.errors import ExitCode, RefusedError, UsageError
from flowprep.submit.job import NOTICE, Job, ask, pipeline
from flowprep.submit.volumes import NAME, Mounts, Volume, in_pods

MOST_TASKS = 10_000
RETRIES = 10  # of one task
USER = 1000  # where root submits: pods do not run as root
SETTINGS = "/etc/flowprep"  # folder of the pipeline file in the pods

HEAD = """\
# Optical flow for {output} with Kubernetes: written by "flowprep submit", made to be read and edited.
#   {command}
# The dataset's folder has to be there: one that a node makes would be root's, and no pod could write it.
# Needs Kubernetes 1.29 or later. A finished Job stays until it is removed; this file, sent again, then continues, and
# a pod with nothing left to do ends at once.
#   {remove}
"""

# Comments above the lines with these keys; {...} as in Kubernetes._comments.
COMMENTS = {
    "completions": "Tasks; of the unfinished shards each does its share. FLOWPREP_TASKS below is the same number.",
    "parallelism": "Pods at the same time.",
    "backoffLimitPerIndex": "How often one task may fail and be started again; a task fails alone.",
    "podReplacementPolicy": "A new pod only when the old one has ended, so that no two work on one task.",
    "podFailurePolicy": (
        "What the end of a pod means. Evicted, or its node lost: counts for nothing. Exit codes 2\n"
        "(usage), 65 (refused, or too many videos failed), 70 (a bug): no use in trying again. 74 (disk) and 75\n"
        "(unfinished): again."
    ),
    "terminationGracePeriodSeconds": "Seconds from SIGTERM to SIGKILL: {notice} more than --grace below.",
    "securityContext": "Whom the dataset belongs to; root is not allowed.",
    "image": "Made from docker/cpu.Dockerfile, or one like it.",
    "--workers": "One worker for each cpu of the requests below.",
    "env": "FLOWPREP_TASKS is completions above. FLOWPREP_CACHE: compiled kernels, in each pod's own folder.",
    "resources": "Of each pod. Without a limit on cpu it may use what its node has left.",
    "volumeMounts": "Videos and lists can only be read, and of all the rest only the dataset is there.",
}


class Readable(yaml.SafeDumper):
    """Lists stand to the right of their key, text of several lines stays text, and nothing is an alias of another."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 - the signature is yaml's
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - as above
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Readable.add_representer(str, _text)


@dataclass(frozen=True)
class Kubernetes:
    """Kubernetes, as ``flowprep submit --to k8s`` asks it."""

    image: str
    shared: tuple[Volume, ...]
    namespace: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.:/@-]*", self.image, re.ASCII):
            raise UsageError(
                f"--image {self.image!r}: name the image that the pods run, as registry.example.org/flowprep:1.0; "
                "docker/cpu.Dockerfile makes one."
            )
        if self.namespace and not re.fullmatch(NAME, self.namespace):
            raise UsageError(f"--namespace {self.namespace!r}: not a name that Kubernetes can have.")

    @property
    def most_tasks(self) -> int:
        return MOST_TASKS

    def check(self) -> None:
        if not shutil.which("kubectl"):
            raise RefusedError(
                "kubectl is not on the PATH, so that no job can be handed to Kubernetes from here. Install it, or "
                "write the file with --dry-run and apply it elsewhere."
            )

    def files(self, job: Job) -> dict[str, str]:
        config, mounts = in_pods(job.config, self.shared)
        settings = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": self._metadata(job),
            "data": {"pipeline.yaml": pipeline(config, "the tasks of the Job below")},
        }
        texts = [
            HEAD.format(
                output=job.config.output,
                command=self.command(job),
                remove=shlex.join(self._kubectl("delete", "-f", str(_manifest(job)))),
            ),
            "---\n",
            _dump(settings),
            "---\n",
            _commented(_dump(self._job(job, mounts)), self._comments()),
        ]
        return {_manifest(job).name: "".join(texts)}

    def has(self, job: Job) -> bool:
        names = (f"{kind}/{_name(job)}" for kind in ("job", "configmap"))
        return bool(ask(*self._kubectl("get", *names, "--ignore-not-found", "--output", "name")))

    def submit(self, job: Job) -> str:
        ask(*self._kubectl("create", "-f", str(_manifest(job))))
        return f"job.batch/{_name(job)}" + (f" in the namespace {self.namespace}" if self.namespace else "")

    def command(self, job: Job) -> str:
        # Not apply, which would change a Job of this name that is there already.
        steps = [["mkdir", "-p", job.config.output], self._kubectl("create", "-f", str(_manifest(job)))]
        return " && ".join(filter(None, [shlex.join(steps[0]), self.by_hand(job), shlex.join(steps[1])]))

    def by_hand(self, job: Job) -> str:
        """The dataset for the pods, where root submits: they are not root, and could not write what root has made."""
        user, group = _owner()
        return "" if os.getuid() == user else shlex.join(["chown", "-R", f"{user}:{group}", job.config.output])

    def _kubectl(self, *arguments: str) -> list[str]:
        return ["kubectl", *arguments, *(["--namespace", self.namespace] if self.namespace else [])]

    def _metadata(self, job: Job) -> dict[str, Any]:
        place = {"namespace": self.namespace} if self.namespace else {}
        return {"name": _name(job), **place, "labels": {"app.kubernetes.io/name": "flowprep"}}

    def _job(self, job: Job, mounts: Mounts) -> dict[str, Any]:
        metadata = self._metadata(job)
        user, group = _owner()
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": metadata,
            "spec": {
                "completionMode": "Indexed",
                "completions": job.tasks,
                "parallelism": job.at_once or job.tasks,
                "backoffLimitPerIndex": RETRIES,
                "podReplacementPolicy": "Failed",
                "podFailurePolicy": {
                    "rules": [
                        {
                            "action": "Ignore",
                            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                        },
                        _on_exit("FailIndex", ExitCode.USAGE, ExitCode.REFUSED, ExitCode.BUG),
                        _on_exit("Count", ExitCode.STORE, ExitCode.UNFINISHED),
                    ]
                },
                "template": {
                    "metadata": {"labels": metadata["labels"]},
                    "spec": {
                        "restartPolicy": "Never",
                        "terminationGracePeriodSeconds": job.grace + NOTICE,
                        "automountServiceAccountToken": False,
                        "securityContext": {
                            "runAsNonRoot": True,
                            "runAsUser": user,
                            "runAsGroup": group,
                            "seccompProfile": {"type": "RuntimeDefault"},
                        },
                        "containers": [self._container(job, mounts)],
                        "volumes": [
                            *mounts.volumes(),
                            {"name": "settings", "configMap": {"name": metadata["name"]}},
                            {"name": "scratch", "emptyDir": {}},
                        ],
                    },
                },
            },
        }

    def _container(self, job: Job, mounts: Mounts) -> dict[str, Any]:
        gpus = {"nvidia.com/gpu": job.gpus} if job.gpus else {}
        memory = {"memory": f"{job.memory}Mi"}
        processors = {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1"}}
        return {
            "name": "flowprep",
            "image": self.image,
            "args": [
                "extract",
                *("-c", f"{SETTINGS}/pipeline.yaml"),
                *("--executor", "batch"),
                *("--workers", "$(WORKERS)"),
                *("--grace", str(job.grace)),
            ],
            "env": [
                {"name": "FLOWPREP_TASKS", "value": str(job.tasks)},
                {"name": "FLOWPREP_CACHE", "value": "/tmp/flowprep"},
                {"name": "WORKERS", "valueFrom": processors},
            ],
            "resources": {"requests": {"cpu": job.workers, **memory}, "limits": {**memory, **gpus}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                *mounts.mounts(),
                {"name": "settings", "mountPath": SETTINGS, "readOnly": True},
                {"name": "scratch", "mountPath": "/tmp"},
            ],
        }

    def _comments(self) -> dict[str, str]:
        return {key: text.format(notice=NOTICE) for key, text in COMMENTS.items()}


def _manifest(job: Job) -> Path:
    return job.folder / f"{job.name}.yaml"


def _name(job: Job) -> str:
    """Of the Job and the ConfigMap: a label of DNS."""
    return re.sub(r"[^a-z0-9]+", "-", job.name.lower()).strip("-") or "flowprep"


def _owner() -> tuple[int, int]:
    """User and group of the pods."""
    return os.getuid() or USER, os.getgid() or USER


def _on_exit(action: str, *codes: int) -> dict[str, Any]:
    return {"action": action, "onExitCodes": {"containerName": "flowprep", "operator": "In", "values": list(codes)}}


def _dump(tree: Mapping[str, Any]) -> str:
    text: str = yaml.dump(tree, Dumper=Readable, sort_keys=False, allow_unicode=True, width=120)
    return text


def _commented(text: str, comments: Mapping[str, str]) -> str:
    """``text`` (YAML) with each comment above the first line that has its key, or its word in a list."""
    left = dict(comments)
    lines = []
    for line in text.splitlines():
        match = re.fullmatch(r"( *)(?:- )?([\w-]+)(:.*)?", line)
        if match and (comment := left.pop(match[2], "")):
            lines += [f"{match[1]}# {part}" for part in comment.splitlines()]
        lines.append(line)
    return "\n".join([*lines, ""])
