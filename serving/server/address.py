"""The address of a server: whether only this machine can reach it, and the sockets that listen on it."""

import errno
import ipaddress
import socket

from registry import ConfigError

_LAST_PORT = 65535
_BACKLOG = 2048
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def is_loopback(host: str) -> bool:
    """Whether a host leads to this machine alone, whoever resolves it.

    Example:
        >>> [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1", "0.0.0.0", "evil.example")]
        [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on a port of all addresses of a host; no other server can take it from then on.

    Args:
        host: A name or an address of this machine.
        port: 0 for any free port.

    Raises:
        ConfigError: If there is no such port, the host is not this machine, or the port is taken.
    """
    check_port(port)
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        cure = "give an address of this machine, such as 127.0.0.1"
        raise ConfigError("--host", f"{host} cannot be resolved: {reason}.", cure=cure) from error
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            # Of a host with several addresses, the first one chooses the free port.
            chosen = sockets[0].getsockname()[1] if sockets else port
            sockets.append(_listening(socket.socket(family, kind, protocol), (address[0], chosen, *address[2:])))
        except OSError as error:
            if error.errno in _ABSENT:  # a name may have an address in IPv6 on a machine that has none
                absent = error
                continue
            for each in sockets:
                each.close()
            raise _refused(host, port, error) from error
    if not sockets:
        assert absent is not None
        raise _refused(host, port, absent) from absent
    return sockets


def check_port(port: int) -> None:
    """Refuse what no port can be.

    Raises:
        ConfigError: If there is no such port.
    """
    if not 0 <= port <= _LAST_PORT:
        cure = "give another number; 0 takes any free port"
        raise ConfigError("--port", f"has to be from 0 to {_LAST_PORT}, got {port}.", cure=cure)


def _listening(sock: socket.socket, address: tuple[object, ...]) -> socket.socket:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)  # a port that is only bound can be bound again
    except OSError:
        sock.close()
        raise
    return sock


def _refused(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno in _ABSENT:
        cure = "give an address of this machine, such as 127.0.0.1"
        return ConfigError("--host", f"{host} is no address of this machine.", cure=cure)
    if error.errno == errno.EADDRINUSE:
        cure = "end the program that listens there, or give another port; 0 takes any free one"
        return ConfigError("--port", f"{port} of {host} is taken by another program.", cure=cure)
    cure = "give another port; most systems keep those below 1024 for administrators"
    return ConfigError("--port", f"cannot listen on {port} of {host}: {error.strerror}.", cure=cure)
