"""The commands of `scripts/cluster`, each a row of steps."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from operations.delivery import image, restart, watch
from operations.delivery.deployment import Deployment, Return
from operations.delivery.namespace import Removal
from operations.failure import Failed, Refused
from operations.ground import here, kind, kuberay, programs, tools
from operations.runner import Runner
from operations.steps import Step, carry_out
from operations.target import ENVIRONMENTS, HERE, NAME, ROOT, read_target
from operations.use import forward, look, smoke
from operations.work import Work

FAULT_LOG = ROOT / "build" / "cluster" / "fault.log"
TIMEOUT_S = 900.0
DEFECT = 70
"""What a fault of this program itself ends with."""
Options = argparse.Namespace


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one command. Whatever goes wrong ends in one message, never in a stack trace."""
    for number in (signal.SIGTERM, signal.SIGINT):  # a script's background job starts with SIGINT ignored
        signal.signal(number, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, _interrupt)
    try:
        options = _parser().parse_args(arguments)
        target = read_target(options.env, {"namespace": options.namespace, "context": options.context})
        if target.is_here and not options.dry_run and (fault := programs.needs_root()):
            words = sys.argv[1:] if arguments is None else arguments
            raise Refused(f"{fault}: {shlex.join(['sudo', 'scripts/cluster', *words])}")
        work = Work(target, Runner(dry=options.dry_run, verbose=options.verbose), options.timeout, yes=options.yes)
        carry_out(target, COMMANDS[options.command][1](work, options), dry=work.run.dry)
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # nobody reads what this says: nothing can be said about it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        os.dup2(sys.stdout.fileno(), sys.stderr.fileno())
        return 1
    except Exception as error:  # a fault of ours is told like any other, and kept for whoever mends it
        FAULT_LOG.parent.mkdir(parents=True, exist_ok=True)
        FAULT_LOG.write_text(traceback.format_exc())
        shown = FAULT_LOG.relative_to(ROOT)
        print(f"error: a fault of this program: {type(error).__name__}: {error}; see {shown}", file=sys.stderr)
        return DEFECT
    return 0


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _one(work: Work, options: Options, name: str, do: Callable[[Work], str]) -> list[Step]:
    return [Step(name, options.command, lambda: do(work))]


def _looks(name: str, do: Callable[[Work, Options], str]) -> Callable[[Work, Options], list[Step]]:
    """A command that changes nothing, so that nothing need be repeated where it fails."""
    return lambda work, options: [Step(name, "", lambda: do(work, options))]


def _image(work: Work) -> Step:
    return Step("image", "image", lambda: image.build(work))


def _smoke(work: Work) -> Step:
    return Step("smoke test", "smoke", lambda: smoke.smoke(work))


def _up(work: Work, options: Options) -> list[Step]:
    if work.target.is_here:
        return _one(work, options, "cluster", lambda work: here.up(work, options.nodes))
    if options.nodes > 1:
        raise Refused("kind makes a single node: --nodes 2 needs --here")
    return _one(work, options, "cluster", kind.up)


def _down(work: Work, options: Options) -> list[Step]:
    return _one(work, options, "cluster", here.down if work.target.is_here else kind.down)


def _all(work: Work, options: Options) -> list[Step]:
    """From nothing to a passing smoke test."""
    ground = [Step("tools", "check", lambda: tools.check(work))]
    ground += _up(work, options) if work.target.is_local else []
    ground.append(Step("KubeRay", "install", lambda: kuberay.install(work)))
    return [*ground, _image(work), *Deployment(work).steps("deploy"), _smoke(work)]


def _deploy(work: Work, options: Options) -> list[Step]:
    built = [_image(work)] if options.rebuild else []
    command = shlex.join(["deploy", "--release", str(options.release)]) if options.release else "deploy"
    return [*built, *Deployment(work, options.release).steps(command)]


def _upgrade(work: Work, options: Options) -> list[Step]:
    """A new image in place of one that serves: refused where nothing healthy would be left to go back to."""

    def serving() -> str:
        watch.healthy(work, f"there is no healthy service to upgrade; first {work.target.command('status')}")
        return "the release before serves until the new one is healthy; both need room"

    first = Step("what serves", "status", serving)
    return [first, _image(work), *Deployment(work).steps("deploy"), _smoke(work)]


def _reset(work: Work, options: Options) -> list[Step]:
    """Everything anew. The image is built first: if that fails, what is there goes on."""
    permission, *deleted = _remove(work, options)
    return [permission, _image(work), *deleted, *Deployment(work).steps("deploy"), _smoke(work)]


def _remove(work: Work, options: Options) -> list[Step]:
    removal = Removal(work)
    return [
        Step("permission", options.command, removal.permit),
        Step("service deleted", options.command, removal.service),
        Step("namespace deleted", options.command, removal.namespace),
    ]


def _access(work: Work, options: Options) -> str:
    ways = [(options.port, smoke.SERVICE, smoke.SERVICE_PORT)]
    ways += [(smoke.ISSUER_PORT, smoke.ISSUER, smoke.ISSUER_PORT)] if work.target.environment == "dev" else []
    ways += [(8265, f"{NAME}-head-svc", 8265)] if options.dashboard else []
    return forward.keep_open(work, ways)


def _restart(work: Work, options: Options) -> list[Step]:
    name = options.component
    return [Step("restart", f"restart {name}", lambda: restart.restart(work, name))]


COMMANDS: dict[str, tuple[str, Callable[[Work, Options], list[Step]]]] = {
    "all": ("from nothing to a passing smoke test: check, up, install, image, deploy, smoke", _all),
    "check": ("are the tools there, and new enough?", lambda w, o: _one(w, o, "tools", tools.check)),
    "up": ("make the cluster on this machine, with kind or without Docker", _up),
    "down": ("delete the cluster on this machine, with all that is in it", _down),
    "install": (f"install KubeRay {kuberay.VERSION}", lambda w, o: _one(w, o, "KubeRay", kuberay.install)),
    "image": ("build the image and bring it to the cluster", lambda w, o: [_image(w)]),
    "deploy": ("bring the newest image into the cluster, and wait until it serves", _deploy),
    "smoke": ("send a sample the whole way, and check what comes back", lambda w, o: [_smoke(w)]),
    "status": ("what runs, and why it is not ready", _looks("status", lambda w, o: look.status(w))),
    "logs": (
        "the newest lines of a component",
        _looks("logs", lambda w, o: look.logs(w, o.component, o.lines, o.follow)),
    ),
    "access": ("open the service on this machine's port 8080 until Ctrl-C", _looks("access", _access)),
    "token": ("a token of the development issuer", _looks("token", lambda w, o: smoke.show_token(w, o.user, o.admin))),
    "restart": ("new processes of the same release", _restart),
    "upgrade": ("build and deploy a new image beside the one that serves", _upgrade),
    "rollback": ("back to the release before, or to a named one", lambda w, o: [*Return(w, o.to).steps(), _smoke(w)]),
    "reset": ("build, then delete everything and deploy anew; never in prod", _reset),
    "remove": ("delete the service and its namespace; never in prod", _remove),
    "config": ("the settings as resolved", _looks("config", lambda w, o: look.config(w, manifests=o.manifests))),
}


def common_options() -> argparse.ArgumentParser:
    """The options of every command."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--env", choices=ENVIRONMENTS, default="dev", help="which environment (dev)")
    common.add_argument(
        "--context",
        default="",
        help="kubectl's name of the cluster (dev: the one that `up --here` made, while it is there, else that of kind)",
    )
    means = "the cluster on this Linux machine without Docker"
    common.add_argument("--here", action="store_const", dest="context", const=HERE + NAME, help=means)
    common.add_argument("--namespace", default="", help=f"({NAME})")
    common.add_argument("--dry-run", action="store_true", help="print the commands and run none")
    common.add_argument("--verbose", action="store_true", help="show the commands as they run, and what they say")
    common.add_argument("--yes", action="store_true", help="delete, and upgrade KubeRay, without asking")
    common.add_argument("--timeout", type=_seconds, default=TIMEOUT_S, help="seconds to become ready (900)")
    return common


def _parser() -> argparse.ArgumentParser:
    common = common_options()
    parser = argparse.ArgumentParser(prog="scripts/cluster", description="The service on Kubernetes.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    added = {
        name: commands.add_parser(name, help=says, description=says, parents=[common])
        for name, (says, _) in COMMANDS.items()
    }
    which = "release file, or mark of one in the cluster, as status shows it (the newest made on this machine)"
    for name in ("all", "up"):
        nodes = "how many nodes; 2 needs --here (1)"
        added[name].add_argument("--nodes", type=int, choices=range(1, here.MOST_NODES + 1), default=1, help=nodes)
    added["deploy"].add_argument("--release", default="", help=which)
    added["deploy"].add_argument("--rebuild", action="store_true", help="build the image first")
    added["logs"].add_argument("component", choices=look.COMPONENTS)
    added["logs"].add_argument("--lines", type=int, default=100)
    added["logs"].add_argument("--follow", action="store_true", help="until Ctrl-C")
    added["access"].add_argument("--port", type=int, default=8080, help="of this machine (8080)")
    added["access"].add_argument("--dashboard", action="store_true", help="Ray's dashboard too, on 8265")
    added["token"].add_argument("user", nargs="?", default="developer")
    added["token"].add_argument("--admin", action="store_true", help="an admin's token")
    added["restart"].add_argument("component", choices=restart.COMPONENTS)
    added["rollback"].add_argument("to", nargs="?", default="", help="mark of a release, as status shows it")
    added["config"].add_argument("--manifests", action="store_true", help="also all that would be applied")
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError("from 1 to 86400")
    return seconds
