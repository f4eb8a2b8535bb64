"""The commands of `scripts/cluster`, each a list of steps."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from operations import access, deploy, here, image, kind, kuberay, readiness, status, tools
from operations.deploy import Deployment, Removal, Rollback
from operations.runner import Runner
from operations.steps import Aborted, Step, StepFailed, carry_out
from operations.target import ENVIRONMENTS, HERE, NAME, ROOT, read_target

FAULT_LOG = ROOT / "build" / "cluster" / "fault.log"
TIMEOUT_S = 900.0
DEFECT = 70
"""The exit status after a fault of this program itself."""
Options = argparse.Namespace


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Every error is one message, never a stack trace. Signal handlers are restored at the end."""
    interrupting = [signal.SIGTERM, signal.SIGINT]  # a script's background job starts with SIGINT ignored
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
        interrupting.append(signal.SIGHUP)
    before = {number: signal.signal(number, _interrupt) for number in interrupting}
    try:
        return _run(arguments)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(arguments)
        target = read_target(options.env, {"namespace": options.namespace, "context": options.context})
        if target.is_here and not options.dry_run and (fault := tools.needs_root()):
            words = sys.argv[1:] if arguments is None else arguments
            raise Aborted(f"{fault}: {shlex.join(['sudo', 'scripts/cluster', *words])}")
        run = Runner(target, options.dry_run, options.verbose, options.timeout, options.yes)
        carry_out(target.command, COMMANDS[options.command][1](run, options), dry=run.dry)
    except StepFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the output has no reader, so a message would have none either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        os.dup2(sys.stdout.fileno(), sys.stderr.fileno())
        return 1
    except Exception as error:  # a fault of this program: one line for the user, the trace for whoever fixes it
        FAULT_LOG.parent.mkdir(parents=True, exist_ok=True)
        FAULT_LOG.write_text(traceback.format_exc())
        shown = FAULT_LOG.relative_to(ROOT)
        print(f"error: a fault of this program: {type(error).__name__}: {error}; see {shown}", file=sys.stderr)
        return DEFECT
    return 0


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _changing(name: str, do: Callable[[Runner], str]) -> Callable[[Runner, Options], list[Step]]:
    """A command of one step, which can be repeated."""
    return lambda run, options: [Step(name, options.command, lambda: do(run))]


def _reading(name: str, do: Callable[[Runner, Options], str]) -> Callable[[Runner, Options], list[Step]]:
    """A command that changes nothing, so that an error suggests no command to repeat."""
    return lambda run, options: [Step(name, "", lambda: do(run, options))]


def _image(run: Runner) -> Step:
    return Step("image", "image", lambda: image.build(run))


def _smoke(run: Runner) -> Step:
    return Step("smoke test", "smoke", lambda: access.smoke(run))


def _up(run: Runner, options: Options) -> list[Step]:
    if not run.target.is_here and options.nodes > 1:
        raise Aborted("kind makes a single node: --nodes 2 needs --here")
    up = (lambda run: here.up(run, options.nodes)) if run.target.is_here else kind.up
    return _changing("cluster", up)(run, options)


def _down(run: Runner, options: Options) -> list[Step]:
    return _changing("cluster", here.down if run.target.is_here else kind.down)(run, options)


def _all(run: Runner, options: Options) -> list[Step]:
    steps = [Step("tools", "check", lambda: tools.check(run))]
    steps += _up(run, options) if run.target.is_local else []
    steps.append(Step("KubeRay", "install", lambda: kuberay.install(run)))
    return [*steps, _image(run), *Deployment(run).steps("deploy"), _smoke(run)]


def _deploy(run: Runner, options: Options) -> list[Step]:
    built = [_image(run)] if options.rebuild else []
    command = shlex.join(["deploy", "--release", str(options.release)]) if options.release else "deploy"
    return [*built, *Deployment(run, options.release).steps(command)]


def _upgrade(run: Runner, options: Options) -> list[Step]:
    """A new image beside the serving one. Refused if nothing healthy would be left to go back to."""

    def serving() -> str:
        readiness.healthy(run, f"there is no healthy service to upgrade; first {run.target.command('status')}")
        return "the release before serves until the new one is healthy; both need room"

    first = Step("what serves", "status", serving)
    return [first, _image(run), *Deployment(run).steps("deploy"), _smoke(run)]


def _reset(run: Runner, options: Options) -> list[Step]:
    """Everything anew. The image is built before anything is deleted: if the build fails, the old service goes on."""
    permission, *deleted = _remove(run, options)
    return [permission, _image(run), *deleted, *Deployment(run).steps("deploy"), _smoke(run)]


def _remove(run: Runner, options: Options) -> list[Step]:
    return Removal(run).steps(options.command)


def _restart(run: Runner, options: Options) -> list[Step]:
    name = options.component
    return [Step("restart", f"restart {name}", lambda: deploy.restart(run, name))]


COMMANDS: dict[str, tuple[str, Callable[[Runner, Options], list[Step]]]] = {
    "all": ("from nothing to a passing smoke test: check, up, install, image, deploy, smoke", _all),
    "check": ("are the tools installed, and new enough?", _changing("tools", tools.check)),
    "up": ("make the cluster on this machine, with kind or without Docker", _up),
    "down": ("delete the cluster on this machine, with all that is in it", _down),
    "install": (f"install KubeRay {kuberay.VERSION}", _changing("KubeRay", kuberay.install)),
    "image": ("build the image and bring it to the cluster", lambda run, options: [_image(run)]),
    "deploy": ("bring the newest image into the cluster, and wait until it serves", _deploy),
    "smoke": ("send a sample through the whole service, and check the result", lambda run, options: [_smoke(run)]),
    "status": ("what runs, and why it is not ready", _reading("status", lambda run, o: status.status(run))),
    "logs": (
        "the newest lines of a component",
        _reading("logs", lambda run, o: status.logs(run, o.component, o.lines, o.follow)),
    ),
    "access": (
        "open the service on this machine's port 8080 until Ctrl-C",
        _reading("access", lambda run, o: access.access(run, o.port, dashboard=o.dashboard)),
    ),
    "token": (
        "a token of the development issuer",
        _reading("token", lambda run, o: access.show_token(run, o.user, o.admin)),
    ),
    "restart": ("new processes of the same release", _restart),
    "upgrade": ("build and deploy a new image beside the one that serves", _upgrade),
    "rollback": ("back to the release before, or to a named one", lambda r, o: [*Rollback(r, o.to).steps(), _smoke(r)]),
    "reset": ("build, then delete everything and deploy anew; never in prod", _reset),
    "remove": ("delete the service and its namespace; never in prod", _remove),
    "config": ("the settings as resolved", _reading("config", lambda r, o: status.config(r, manifests=o.manifests))),
}


def common_options() -> argparse.ArgumentParser:
    """The options of every command."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--env", choices=ENVIRONMENTS, default="dev", help="which environment (dev)")
    common.add_argument(
        "--context",
        default="",
        help="kubectl's name of the cluster (dev: the one that `up --here` made, if it exists, else that of kind)",
    )
    means = "the cluster on this Linux machine without Docker"
    common.add_argument("--here", action="store_const", dest="context", const=HERE + NAME, help=means)
    common.add_argument("--namespace", default="", help=f"({NAME})")
    common.add_argument("--dry-run", action="store_true", help="print the commands and run none")
    common.add_argument("--verbose", action="store_true", help="show the commands as they run, and their output")
    common.add_argument("--yes", action="store_true", help="delete, and upgrade KubeRay, without asking")
    common.add_argument("--timeout", type=_seconds, default=TIMEOUT_S, help="seconds to become ready (900)")
    return common


def _parser() -> argparse.ArgumentParser:
    common = common_options()
    parser = argparse.ArgumentParser(prog="scripts/cluster", description="The service on Kubernetes.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    added = {
        name: commands.add_parser(name, help=text, description=text, parents=[common])
        for name, (text, _) in COMMANDS.items()
    }
    which = "release file, or mark of one in the cluster, as status shows it (the newest made on this machine)"
    for name in ("all", "up"):
        nodes = "how many nodes; 2 needs --here (1)"
        added[name].add_argument("--nodes", type=int, choices=range(1, here.MOST_NODES + 1), default=1, help=nodes)
    added["deploy"].add_argument("--release", default="", help=which)
    added["deploy"].add_argument("--rebuild", action="store_true", help="build the image first")
    added["logs"].add_argument("component", choices=status.COMPONENTS)
    added["logs"].add_argument("--lines", type=int, default=100)
    added["logs"].add_argument("--follow", action="store_true", help="until Ctrl-C")
    added["access"].add_argument("--port", type=int, default=8080, help="of this machine (8080)")
    added["access"].add_argument("--dashboard", action="store_true", help="Ray's dashboard too, on 8265")
    added["token"].add_argument("user", nargs="?", default="developer")
    added["token"].add_argument("--admin", action="store_true", help="an admin's token")
    added["restart"].add_argument("component", choices=deploy.COMPONENTS)
    added["rollback"].add_argument("to", nargs="?", default="", help="mark of a release, as status shows it")
    added["config"].add_argument("--manifests", action="store_true", help="also all that would be applied")
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError("from 1 to 86400")
    return seconds
