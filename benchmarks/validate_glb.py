"""The Khronos glTF validator over `.glb` files: ``python -m benchmarks.validate_glb FILE...``

Needs node and the npm package ``gltf-validator`` (``npm install gltf-validator``), found from the current folder or through NODE_PATH.
Exit code: 0 without errors and warnings, 1 with, 2 where it cannot run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_SCRIPT = (
    "const v=require('gltf-validator'),fs=require('fs');(async()=>{for(const f of process.argv.slice(1)){"
    "const r=await v.validateBytes(new Uint8Array(fs.readFileSync(f)));console.log(JSON.stringify(r.issues));}})()"
)


class Unavailable(RuntimeError):
    """Node or the validator is not installed."""


def validate(files: Sequence[str | os.PathLike[str]]) -> list[dict[str, Any]]:
    """The validator's issues per file: numErrors, numWarnings, numInfos, numHints, messages.

    Raises:
        Unavailable: node or its package ``gltf-validator`` is missing; the message says what to install.
    """
    node = shutil.which("node")
    if node is None:
        raise Unavailable("node is not installed: the Khronos validator runs on it (https://nodejs.org)")
    places = [str(Path.cwd() / "node_modules"), os.environ.get("NODE_PATH", "")]
    environment = {**os.environ, "NODE_PATH": os.pathsep.join(p for p in places if p)}
    probe = [node, "-e", "require('gltf-validator')"]
    if subprocess.run(probe, capture_output=True, timeout=60, env=environment).returncode:
        raise Unavailable(
            "npm package gltf-validator not found: `npm install gltf-validator`, here or where NODE_PATH points"
        )
    command = [node, "-e", _SCRIPT, *(str(Path(f).resolve()) for f in files)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, env=environment)
    return [json.loads(line) for line in result.stdout.splitlines()]


def main(files: Sequence[str]) -> int:
    if not files:
        print(__doc__)
        return 2
    try:
        reports = validate(files)
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 2
    for file, report in zip(files, reports):
        counts = ", ".join(
            f"{report['num' + kind]} {kind.lower()}" for kind in ("Errors", "Warnings", "Infos", "Hints")
        )
        print(f"{file}: {counts}")
        for message in report["messages"][:20]:
            print(f"  {message['code']} {message.get('pointer', '')}: {message['message']}")
    return int(any(r["numErrors"] or r["numWarnings"] for r in reports))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
