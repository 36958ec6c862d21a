"""What a node needs to have everything that /openapi.json describes: an agent, and a channel of either kind, whose answers go nowhere."""

import hashlib
import hmac
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.nodes import ROOT

SERVED = ["agents", "inference", "memory", "tools", "channels", "rag"]
KEY = {"Authorization": "Bearer sk-test"}
VERIFY_TOKEN = "the-token-of-the-handshake"
_SECRET = "a secret of the tests alone"
_CHANNELS = f"""\
channels:
  crm: {{type: webhook, secret: {_SECRET}, callback_url: "http://127.0.0.1:9/", default_agent: assistant}}
  whatsapp:
    verify_token: {VERIFY_TOKEN}
    access_token: nobody-s
    phone_number_id: "1"
    app_secret: nobody-knows-it
    api_base_url: http://127.0.0.1:9
    default_agent: assistant
"""


def environ(folder: Path) -> Mapping[str, str]:
    """The variables of a node with keys, whose configuration is written below ``folder``."""
    config = folder / "config"
    shutil.copytree(ROOT / "config", config)
    (config / "channels.yaml").write_text(_CHANNELS)
    keys = {"ASTROMESH_API_KEYS": "node:sk-node,test:sk-test", "ASTROMESH_MESH_KEY": "mesh-key-of-the-tests"}
    return {"ASTROMESH_CONFIG_DIR": str(config), **keys}


def signed(raw: bytes) -> dict[str, str]:
    """The headers of a delivery to the channel crm."""
    return {"X-Hub-Signature-256": "sha256=" + hmac.new(_SECRET.encode(), raw, hashlib.sha256).hexdigest()}
