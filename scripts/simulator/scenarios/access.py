"""What stands still: probes, pods without privileges, and doors that stay shut."""

from __future__ import annotations

from simulator.stage import Stage

APPLICATIONS = "/api/serve/applications/"
GUARDED = (("GET", APPLICATIONS), ("PUT", APPLICATIONS), ("GET", "/api/jobs/"), ("GET", "/nodes?view=summary"))
LOOK = """\
import json, os
status = dict(line.split(':', 1) for line in open('/proc/self/status') if ':' in line)
try:
    open('/written', 'w')
    written = True
except OSError:
    written = False
print(json.dumps({'uid': os.getuid(), 'capabilities': int(status['CapEff'], 16) | int(status['CapBnd'], 16),
    'no_new_privileges': int(status['NoNewPrivs']), 'root_written': written}))
"""


def probes(stage: Stage) -> None:
    """Every pod Ready by the operator's probes."""
    for kubelet in stage.running.pods:
        stage.note("pod", pod=kubelet.pod.name, ready=kubelet.ready, failed=kubelet.failed, said=kubelet.said)


def ray_token(stage: Stage) -> None:
    """The dashboard without Ray's token, with a wrong one, and with the right one."""
    for method, path in GUARDED:
        body = "{}" if method == "PUT" else None
        for word in ("", "wrong"):
            status, _ = stage.operator.call(stage.running, method, body, path=path, token=word)
            stage.note("without the token", method=method, path=path, word=word, status=status)
    status, _ = stage.operator.call(stage.running, "GET")
    stage.note("with the token", status=status)


def hardened(stage: Stage) -> None:
    """What a process of each container may do: root file system, capabilities, privileges, user."""
    for kubelet in stage.running.pods:
        for container in kubelet.pod.containers:
            done = kubelet.pod.execute(container, ["python", "-c", LOOK], 30)
            stage.note("may", pod=kubelet.pod.name, container=container["name"], said=done.stdout or done.stderr)
