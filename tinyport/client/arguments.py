"""What may be typed after ``tsh``: every command with its options, help and examples. Completion and the man page come
from it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from tinyport.client.grammar import Forward, RunCommandLine, SshCommandLine
from tinyport.core.session_joining import MODES, OBSERVER
from tinyport.host.console import CommandLine, Run, output_options

Commands = dict[str, Callable[["Build"], None]]


def common_options(*, top: bool) -> argparse.ArgumentParser:
    """-i, --proxy, --insecure, -d: before the command and after it."""
    missing: Any = None if top else argparse.SUPPRESS
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(
        "-i", dest="identity", metavar="IDENTITY", default=missing, help="identity file of tctl auth sign, for a login"
    )
    parent.add_argument("--proxy", metavar="HOST[:PORT]", default=missing, help="the cluster's proxy (port 3080)")
    parent.add_argument(
        "--insecure",
        action="store_true",
        default=False if top else missing,
        help="believe an unknown proxy without a check",
    )
    parent.add_argument(
        "-d", dest="debug", action="store_true", default=False if top else missing, help="show where an error came from"
    )
    return parent


class Build:
    """A parser being built; ``run_of`` gives what a command runs."""

    def __init__(self, parser: CommandLine, runs: dict[str, Run]) -> None:
        self.parser = parser
        self.runs = runs
        self.common = common_options(top=False)

    def add(
        self,
        name: str,
        help: str | None,
        *examples: str,
        parents: Sequence[argparse.ArgumentParser] = (),
        parser_class: type[CommandLine] | None = None,
        description: str | None = None,
    ) -> CommandLine:
        return self.parser.command(
            name,
            self.runs[name],
            help=help,
            description=description,
            examples=examples,
            parents=[self.common, *parents],
            parser_class=parser_class,
        )


def _login_options(parser: CommandLine) -> None:
    parser.add_argument(
        "--ca-pin", action="append", metavar="PIN", help="sha256:... of the cluster's TLS CA (tctl status shows it)"
    )


def signup(build: Build) -> None:
    parser = build.add(
        "signup",
        "accept an invitation from a terminal",
        "tsh signup 'https://port.example.com/invite#ID.SECRET'",
        description="Accept an invitation by choosing a password; off a terminal, the first line of standard input.",
    )
    parser.add_argument("url", metavar="URL", help="the link that tctl users add printed")
    _login_options(parser)


def login(build: Build) -> None:
    parser = build.add(
        "login",
        "log in: get a certificate for some hours",
        "tsh login --proxy port.example.com --user ana",
        "tsh login --ttl 2h",
        description="Log in. Without a terminal, the password is the first line of standard input.",
    )
    parser.add_argument(
        "--user", metavar="U", help="the cluster's name for you (TINYPORT_USER; default: your name here)"
    )
    parser.add_argument("--ttl", metavar="T", help='how long: "30m", "8h" (default and most: what your roles say)')
    _login_options(parser)
    parser.add_argument("--out", metavar="FILE", help="write an identity file and leave the profile alone")


def logout(build: Build) -> None:
    parser = build.add("logout", "forget the login, and take it out of ssh-agent", "tsh logout")
    parser.add_argument("--all", action="store_true", help="at every proxy")


def status(build: Build) -> None:
    build.add("status", "who you are, where, and until when", "tsh status", parents=[output_options()])


def ls(build: Build) -> None:
    parser = build.add(
        "ls", "list the nodes", "tsh ls", "tsh ls site=berlin -v", "tsh ls --search green", parents=[output_options()]
    )
    parser.add_argument("labels", metavar="k=v", nargs="*", help="only nodes with all these labels; * is a wildcard")
    parser.add_argument("-v", dest="verbose", action="store_true", help="UUIDs, addresses and versions, too")
    parser.add_argument("--search", metavar="TEXT", help="only nodes with TEXT in a name or label")
    parser.add_argument("--cluster", metavar="C", help='of another cluster that "tsh clusters" lists')


def ssh(build: Build) -> None:
    parser = build.add(
        "ssh",
        "a shell or a command on a node",
        "tsh ssh pi@greenhouse",
        "tsh ssh pi@greenhouse uptime",
        "tsh ssh -L 8080:localhost:80 -N pi@site=berlin",
        parser_class=SshCommandLine,
        description="Open a shell on a node, or run a command there and exit with its status (255: not reached).",
    )
    add = parser.add_argument
    add("-p", dest="port", metavar="P", help="taken and ignored: a node is found by its name")
    add("-l", dest="login", metavar="LOGIN", help="who to be on the node (TINYPORT_LOGIN)")
    add("-A", dest="forward_agent", action="store_true", help="forward the ssh-agent")
    # The X server's SECURITY extension, which would make -X less than -Y, is what hardly any program works with.
    add("-X", "-Y", dest="forward_x11", action="store_true", help="forward X11; programs there are trusted, as ssh -Y")
    for name, text in (
        ("-L", "forward a port or socket here to one there: [BIND:]PORT:HOST:HOSTPORT"),
        ("-R", "forward a port or socket there to one here: [BIND:]PORT:HOST:HOSTPORT"),
        ("-D", "a SOCKS server here: [BIND:]PORT"),
    ):
        add(name, dest="forwards", metavar="SPEC", action=Forward, default=[], help=text)
    add("-N", dest="no_command", action="store_true", help="no shell, no command: forwardings only")
    add("-t", dest="tty", action="store_const", const=True, default=None, help="a terminal even for a command")
    add("-T", dest="tty", action="store_const", const=False, help="no terminal")
    add("-o", dest="option", metavar="OPT", action="append", default=[], help="an option of ssh_config: Name=value")
    add("--cluster", metavar="C", help='go to another cluster that "tsh clusters" lists')
    add("target", nargs="?", metavar="[LOGIN@]NODE|UUID|k=v", help="the node")
    add("command", nargs="*", metavar="COMMAND", help="default: a login shell")


def run(build: Build) -> None:
    parser = build.add(
        "run",
        "run a command on many nodes at once",
        "tsh run site=berlin -- uptime",
        "tsh run --login root --parallel 50 --timeout 30m --output-dir out model=pi4 -- apt-get -y upgrade",
        "tsh run --format json greenhouse shed -- df -h",
        "tsh run --cluster partner.example site=berlin -- uptime",
        parents=[output_options()],
        parser_class=RunCommandLine,
        description="Run a command on all nodes with these labels, or of these names, at once. Nodes that are away are "
        "reported. The command gets no input and no terminal. Where roles ask for a one-time code, it is asked for "
        "once for up to 64 nodes. Exit status 0: it ended with 0 everywhere; 1: not everywhere; 255: it ran nowhere; "
        "130: Control-C ended it.",
    )
    add = parser.add_argument
    add("-l", "--login", metavar="LOGIN", help="who to be on the nodes (TINYPORT_LOGIN)")
    add("--cluster", metavar="C", help='on nodes of another cluster that "tsh clusters" lists')
    add("--parallel", type=int, default=20, metavar="N", help="on how many at a time (default 20)")
    add("--output-dir", metavar="DIR", help="NODE.out and NODE.err there, in place of lines here")
    add("--timeout", metavar="T", help='how long on each node ("30s", "10m"); then it is ended')
    add("words", nargs="*", metavar="k=v|NODE", help="labels that nodes must have, or names; then -- COMMAND")


def scp(build: Build) -> None:
    parser = build.add(
        "scp",
        "copy files to, from and between nodes",
        "tsh scp config.toml pi@greenhouse:/etc/app/",
        "tsh scp -r 'pi@greenhouse:logs/*.gz' .",
        "tsh scp --cluster partner.example pi@shed:state.db .",
    )
    parser.add_argument("--cluster", metavar="C", help='nodes are of another cluster that "tsh clusters" lists')
    parser.add_argument("-r", dest="recursive", action="store_true", help="folders, too")
    parser.add_argument("-p", dest="preserve", action="store_true", help="keep times and modes")
    parser.add_argument("-P", dest="port", metavar="P", help="taken and ignored: a node is found by its name")
    parser.add_argument("-q", dest="quiet", action="store_true", help="no progress")
    parser.add_argument("-o", dest="option", metavar="OPT", action="append", default=[], help="an option of ssh_config")
    parser.add_argument(
        "paths", metavar="SRC", nargs="+", help="[LOGIN@]NODE:PATH, or a path here; the last one is DST"
    )


def config(build: Build) -> None:
    parser = build.add(
        "config",
        "print an ssh_config block, and write the known hosts",
        "tsh config >> ~/.ssh/config",
        description="Print a block for ~/.ssh/config with which ssh, scp, rsync, git and Ansible reach NODE.CLUSTER.",
    )
    parser.add_argument("--cluster", metavar="NAME", help='of another cluster that "tsh clusters" lists')


def proxy(build: Build) -> None:
    group = build.parser.command(
        "proxy", help="a way to a node for other programs", examples=["tsh proxy ssh pi@greenhouse:22"]
    )
    parser = group.command(
        "ssh",
        build.runs["proxy ssh"],
        help="join standard input and output to a node, for ProxyCommand",
        examples=["ssh -o ProxyCommand='tsh proxy ssh %r@%h:%p' pi@greenhouse"],
        parents=[build.common],
    )
    parser.add_argument("target", metavar="LOGIN@NODE[:PORT]", help="ssh's %%r@%%h:%%p; the port is ignored")


def clusters(build: Build) -> None:
    build.add("clusters", "list the clusters you are logged in to", "tsh clusters", parents=[output_options()])


def sessions(build: Build) -> None:
    examples = ("tsh sessions", "tsh sessions kill 3fa9")
    parser = build.add("sessions", "list the live sessions, or end one", *examples, parents=[output_options()])
    parser.add_argument("action", nargs="?", choices=("ls", "kill"), default="ls", help="what to do (default: ls)")
    parser.add_argument("id", nargs="?", metavar="ID", help="of kill: the session's id, or how it begins")


def join(build: Build) -> None:
    parser = build.add(
        "join",
        "join a live session, to look on or to type, too",
        "tsh join 3fa9",
        "tsh join --mode peer 3fa9",
    )
    parser.add_argument("session", metavar="SESSION", help='its id, or how it begins ("tsh sessions" lists them)')
    parser.add_argument("--mode", choices=MODES, default=OBSERVER, help=f"how to be there (default: {OBSERVER})")
    parser.add_argument("-l", "--login", metavar="LOGIN", help="the login of your own connection to the node")


def play(build: Build) -> None:
    parser = build.add(
        "play",
        "play a recorded session, or one that is live",
        "tsh play 3fa9",
        "tsh play --speed 4 session.cast",
        "tsh play --follow 3fa9",
        description="Play a recording in this terminal. Keys: space pauses, left and right skip 5 seconds, [ and ] a "
        "minute, + and - change the speed, 0 goes to the start, G to what is live, q quits. Not on a terminal, all of "
        "it is written at once.",
    )
    add = parser.add_argument
    add("what", metavar="SESSION|FILE", help='a session ("tsh recordings ls" lists them), or a file of asciicast')
    add("--speed", type=float, default=1.0, metavar="N", help="2 is twice as fast")
    add("--idle-limit", metavar="T", help='longer waits are cut to this: "2s" (the default), or "none"')
    add("-f", "--follow", action="store_true", help="a live session, as it happens")
    add(
        "-o",
        dest="output",
        metavar="FILE",
        help="write it into a file, that asciinema plays, too (-: standard output)",
    )


def recordings(build: Build) -> None:
    from tinyport.host.console_recordings import add_filters

    group = build.parser.command("recordings", help="recorded sessions", examples=["tsh recordings ls"])
    ls = group.command(
        "ls",
        build.runs["recordings ls"],
        help="list them, the newest first",
        examples=["tsh recordings ls --since 7d", "tsh recordings ls --node greenhouse --text 'rm -rf'"],
        parents=[build.common, output_options()],
    )
    add_filters(ls)
    export = group.command(
        "export",
        build.runs["recordings export"],
        help="write one as a file that asciinema plays, too",
        examples=["tsh recordings export 3fa9 -o session.cast"],
        parents=[build.common],
    )
    export.add_argument("id", metavar="ID", help="the session's id, or how it begins")
    export.add_argument("-o", dest="output", metavar="FILE", default="-", help="default: standard output")


def mfa(build: Build) -> None:
    group = build.parser.command("mfa", help="your second factors: one-time codes", examples=["tsh mfa add phone"])

    def add(name: str, help: str, example: str, *parents: argparse.ArgumentParser) -> CommandLine:
        run = build.runs[f"mfa {name}"]
        return group.command(name, run, help=help, examples=[example], parents=[build.common, *parents])

    parser = add("add", "set up an authenticator app", "tsh mfa add phone")
    parser.add_argument("name", metavar="NAME", help="what you call it")
    add("ls", "list them", "tsh mfa ls", output_options())
    parser = add("rm", "remove one", "tsh mfa rm phone")
    parser.add_argument("name", metavar="NAME|ID", help="which")


def completion(build: Build) -> None:
    parser = build.add("completion", "print the completion script of a shell", 'eval "$(tsh completion bash)"')
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")


def version(build: Build) -> None:
    build.add("version", "print the version", "tsh version", parents=[output_options()])


def man(build: Build) -> None:
    # For packages: a person reads what they made of it.
    build.parser.command("man", build.runs["man"], help=None, description="print the manual page, as roff")


def complete(build: Build) -> None:
    # For completion scripts, which know the kinds.
    parser = build.add("complete", None, "tsh complete target pi@green", description="print what a word may become")
    parser.add_argument("kind", metavar="KIND")
    parser.add_argument("word", metavar="WORD", nargs="?", default="")


#: every command, in the order of the help
COMMANDS: Commands = {
    "signup": signup,
    "login": login,
    "logout": logout,
    "status": status,
    "ls": ls,
    "ssh": ssh,
    "scp": scp,
    "run": run,
    "config": config,
    "proxy": proxy,
    "sessions": sessions,
    "join": join,
    "play": play,
    "recordings": recordings,
    "clusters": clusters,
    "mfa": mfa,
    "completion": completion,
    "version": version,
    "man": man,
    "complete": complete,
}

#: what the manual page says beyond the commands
ENVIRONMENT = {
    "TINYPORT_HOME": "the folder of profiles, ~/.tsh by default",
    "TINYPORT_PROXY": "the proxy, where --proxy is not given",
    "TINYPORT_USER": "the cluster's name for you, where --user is not given",
    "TINYPORT_LOGIN": "who to be on a node, where the target names no login",
    "HTTPS_PROXY, NO_PROXY": "the HTTP proxy through which the cluster is reached, and hosts that need none",
    "SSH_AUTH_SOCK": "an ssh-agent, which a login is offered to until it expires",
    "NO_COLOR": "set to anything: no colours",
}
FILES = {
    "~/.tsh/keys/HOST_PORT/identity.json": "a login: keys, certificates, CAs. Whoever has it is you until it expires",
    "~/.tsh/keys/HOST_PORT/id, id.pub, id-cert.pub": "the same key and certificate for OpenSSH",
    "~/.tsh/known_hosts": "the clusters' host CAs for OpenSSH, written by tsh config",
}
SEE_ALSO = ("ssh(1)", "ssh_config(5)", "ssh-agent(1)")


def build_parser(runs: dict[str, Run], only: str | None = None) -> CommandLine:
    """The parser of tsh; with ``only``, of that one command (which costs less than all)."""
    parser = CommandLine(
        "tsh",
        description="Reach the machines of a tinyport cluster.",
        examples=("tsh login --proxy port.example.com", "tsh ls", "tsh ssh pi@greenhouse"),
        parents=[common_options(top=True)],
    )
    build = Build(parser, runs)
    for name, add in COMMANDS.items():
        if only is None or name == only:
            add(build)
    return parser


def command_of(words: Sequence[str]) -> str | None:
    """The command among the words of a command line, when it is one of ours."""
    takes_value = ("-i", "--proxy")
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word.startswith("-"):
            skip = word in takes_value
        else:
            return word if word in COMMANDS else None
    return None
