"""Who this node is, and which store its data directory is. A node's id is random per start; a store's id is written once and shared by
all nodes that use the directory, so no node identity lives there."""

import errno
import os
import re
import secrets
from pathlib import Path

from app.errors import ConfigError, Problem


def new_node_id() -> str:
    return secrets.token_hex(8)


def store_id(data_dir: Path) -> str:
    """The id of the store in ``data_dir`` (12 hex digits), made on first use, the same for several nodes that start at once.

    Raises ConfigError where the directory cannot be written, or holds an id that is none.
    """
    path = data_dir / "store_id"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        draft = data_dir / f".store_id-{secrets.token_hex(4)}"
        with draft.open("w") as file:
            file.write(secrets.token_hex(6))
            file.flush()
            os.fsync(file.fileno())  # a power cut must not leave an empty id under the name
        try:
            os.link(draft, path)  # fails when it is there already: the first one wins
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        found = path.read_text().strip()
    except OSError as error:
        user = f"{os.getuid()}:{os.getgid()}"
        remedy = "name a directory that can be written by ASTROMESH_DATA_DIR"
        if error.errno in (errno.EACCES, errno.EPERM):
            remedy = f"ASTROMESH_DATA_DIR must belong to this user: `chown -R {user} {data_dir}`, or run as the user that owns it"
        raise ConfigError([Problem(str(data_dir), f"cannot be written by user {user}: {error.strerror}", remedy=remedy)]) from error
    if not re.fullmatch(r"[0-9a-f]{12}", found):
        raise ConfigError(
            [Problem(str(path), f"holds {found[:40]!r}, which is no store id", remedy="restore it from a backup of this directory")]
        )
    return found
