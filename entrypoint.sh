#!/bin/sh
# Start the node, or any other command: `entrypoint.sh`, `entrypoint.sh sh`; `entrypoint.sh --help` tells more. The same file serves the image
# and a checkout.
# Which profile the node runs is decided by ASTROMESH_PROFILE, or else by ASTROMESH_ROLE and ASTROMESH_MESH_ENABLED;
# app/config/settings.py resolves them to one YAML file, so that `python -m app` alone gives the same node.
set -eu

case ${1-} in
"" | -*) ;;
*) exec "$@" ;;
esac

home=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
python=$home/.venv/bin/python
[ -x "$python" ] || python=/opt/venv/bin/python
if ! [ -x "$python" ]; then
    echo "entrypoint: there is no Python in $home/.venv or /opt/venv; run 'make setup' in $home first" >&2
    exit 78
fi

# -P keeps the working directory, which may be anywhere, off the import path.
PYTHONPATH=$home${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH
exec "$python" -P -m app "$@"
