"""The address of a scheduler: as given, or as it wrote it into a file; and whether it is safe to talk to it."""

from __future__ import annotations

import ipaddress
import json
import re
from pathlib import Path

from flowprep.config import ClusterConfig
from flowprep.errors import RefusedError, StoreError, UnfinishedError, UsageError


def scheduler_address(config: ClusterConfig) -> str:
    """``"tls://node1:8786"``: the scheduler that ``config`` names, by address or by file.

    Raises UsageError for what is no address, UnfinishedError if the file is not there (yet), RefusedError for a
    scheduler that others could reach and speak for.
    """
    address = config.scheduler or _read(Path(config.scheduler_file))
    if "://" not in address:
        address = f"{'tls' if config.tls_cert else 'tcp'}://{address}"
    match = re.fullmatch(r"(tcp|tls)://(\[[0-9A-Fa-f:.%]+\]|[\w.-]+):([0-9]{1,5})", address)
    if not match or not 0 < int(match[3]) < 2**16:
        where = "--scheduler" if config.scheduler else f"{config.scheduler_file}: scheduler"
        raise UsageError(f"{where} {address!r}: give tls://HOST:PORT, or tcp://127.0.0.1:PORT on this machine.")
    if match[1] == "tcp" and config.tls_cert:
        raise UsageError(f"{address} is an address without TLS: use tls://, or leave --tls-... out.")
    if match[1] == "tcp" and not config.insecure and not _is_loopback(match[2].strip("[]")):
        raise RefusedError(
            f"{address} is on another machine and without TLS: whoever reaches it can run code on every worker. "
            "Start scheduler and workers with --tls-ca-file, --tls-cert and --tls-key and use tls://..., "
            "or add --insecure if you trust everybody in that network."
        )
    return address


def _read(path: Path) -> str:
    try:
        address = json.loads(path.read_bytes())["address"]
    except FileNotFoundError:
        raise UnfinishedError(
            f"{path}: no such file. Start the scheduler with --scheduler-file {path}, then run the same command again."
        ) from None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}.") from None
    except (ValueError, LookupError, TypeError, RecursionError):
        address = None
    if not isinstance(address, str):
        raise UsageError(f"{path}: not a scheduler file: dask scheduler --scheduler-file writes one.")
    return address


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
