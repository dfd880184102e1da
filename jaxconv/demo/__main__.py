"""A page on which you draw, and a trained net says what it sees.

python -m jaxconv.demo --workdir=runs/quickstart [--host=127.0.0.1] [--port=8000]

It comes with pip install -e ".[demo]". The net is that of the best epoch so far of a run on images. Nothing is written.
"""

import errno
import ipaddress
import os
import pathlib
import socket
import sys
import threading

from absl import app, flags

from jaxconv.errors import ConfigError, UserError
from jaxconv.platform import compatibility
from jaxconv.runs import interrupt

_CONNECTIONS = 32
"""More at a time are refused: each may hold an upload in memory."""


def main(argv: list[str]) -> None:
    """Serve the page until a signal comes. A UserError ends in its sentence on stderr and its exit status."""
    compatibility.quiet()
    try:
        interrupt.install()
        if len(argv) > 1:
            raise ConfigError(f"{argv[1]!r} does not belong to a flag: write --FLAG=VALUE.")
        if not flags.FLAGS.workdir:
            raise ConfigError("--workdir is missing: name the workdir of a run, such as --workdir=runs/quickstart.")
        serve(pathlib.Path(flags.FLAGS.workdir), flags.FLAGS.host, flags.FLAGS.port)
    except UserError as error:
        _say(error)
        os._exit(error.exit_status)
    except interrupt.Interrupted as stopped:
        os._exit(stopped.exit_status)  # there is nothing to save


def serve(workdir: pathlib.Path, host: str, port: int) -> None:
    """Serve the page of the best net so far of a run, until a signal comes.

    Args:
        workdir: the workdir of the run.
        host: the address to listen on, or a name of it.
        port: the port to listen on. 0: any that is free.

    Raises:
        UserError: there is no such net, it does not take images, or nothing can listen there.
        Interrupted: a signal came.
    """
    with listen(host, port) as listener:
        try:
            import uvicorn

            from jaxconv.demo import server
        except ModuleNotFoundError as error:
            raise UserError(
                f"The demo needs the package {error.name}: pip install -e '.[demo]', and start it again."
            ) from None
        from jaxconv.platform import devices
        from jaxconv.runs import trained

        devices.share_cores_with_xla()
        devices.keep_compiled_programs()
        address, port = listener.getsockname()[:2]
        ip = ipaddress.ip_address(address)
        hosts = {"localhost", "127.0.0.1", "[::1]", _in_url(host.lower())} if ip.is_loopback else None
        web = server.create_app(trained.load(workdir), workdir.resolve().name, hosts)
        config = uvicorn.Config(
            web,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            limit_concurrency=_CONNECTIONS,
        )
        name = "localhost" if ip.is_unspecified else _in_url(address)
        print(f"Open http://{name}:{port} (Ctrl-C stops it).", flush=True)
        # In a thread, uvicorn leaves the signals to this one.
        thread = threading.Thread(target=uvicorn.Server(config).run, args=([listener],), daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(timeout=1)  # on Windows, no signal ends a wait without a limit


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def listen(host: str, port: int) -> socket.socket:
    """Listen at an address.

    Raises:
        UserError: it is no address of this machine, or in use.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port={port} must be from 0 to 65535.")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address, family=family)
    except (OSError, UnicodeError) as error:  # a name that cannot be one is a UnicodeError
        if isinstance(error, UnicodeError | socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(f"--host={host} is not an address of this machine: leave it out, or name one.") from None
        raise UserError(
            f"--port={port} cannot be used ({os.strerror(error.errno or 0).lower()}): name another, or 0 for any that "
            "is free."
        ) from None
    # Its connections inherit this. asyncio sets it for its own sockets alone, and without it an answer waits 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _parse(argv: list[str]) -> list[str]:
    """Parse the flags. A wrong one ends in a sentence, as in jaxconv.flags."""
    try:
        return flags.FLAGS(argv)
    except SystemExit:  # absl has printed the help, and would end with the status of a failure
        sys.exit(0)
    except flags.Error as error:
        sentence = str(error)
        _say(ConfigError(sentence if sentence.endswith((".", "?")) else f"{sentence}."))
        sys.exit(ConfigError.exit_status)


def _say(error: UserError) -> None:
    print(f"jaxconv.demo: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "The workdir of a run on images.")
    flags.DEFINE_string("host", "127.0.0.1", "The address to listen on. 0.0.0.0 lets other machines use the page.")
    flags.DEFINE_integer("port", 8000, "The port to listen on. 0: any that is free.")
    app.run(main, flags_parser=_parse)
