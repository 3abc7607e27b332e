"""`make infra-static`: every overlay of manifests/ and istio/ against schemas and rules, without a cluster.

Kubernetes' own kinds against its schemas, unknown fields refused; Istio's against the definitions of the version we want; the rules of
tools/infra_rules.py; what istio/generate.py would write; workflows; policy documents of AWS. Kustomize comes inside kubectl, and that
as a wheel; Istio's definitions are istio/definitions.json.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a program, from any folder

from istio.contracts import rpcs  # noqa: E402
from tools import infra_rules  # noqa: E402
from tools.infra_rules import Object, name_of  # noqa: E402
from tools.istio_definitions import DEFINITIONS  # noqa: E402

OVERLAYS = ("dev", "prod-s3", "prod-cassandra")
KUBERNETES = "1.34"


def build(folder: Path) -> list[Object]:
    """What a Kustomize folder makes. Raises RuntimeError where the folder is wrong."""
    command = [str(Path(sys.executable).parent / "kubectl"), "kustomize", str(folder)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode or answer.stderr:
        raise RuntimeError(f"{folder.name}: {answer.stderr.strip()}")
    return [one for one in yaml.safe_load_all(answer.stdout) if one]


@cache
def istio_schemas() -> dict[tuple[str, str], Any]:
    """(apiVersion, kind) -> its schema, closed: a field that it does not name is refused."""
    found = {}
    for name, spec in json.loads(DEFINITIONS.read_text())["schemas"].items():
        version, kind = name.split()
        found[version, kind] = {"type": "object", "properties": {"spec": closed(spec)}}
    return found


def closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items() if key not in ("description", "format")}
    if (
        isinstance(made.get("properties"), dict)
        and schema.get("type") == "object"
        and "additionalProperties" not in made
    ):
        made["additionalProperties"] = False
    if made.pop("nullable", False) and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    if made.pop("x-kubernetes-int-or-string", False):
        made.pop("type", None)
    return made


def schema_faults(objects: list[Object]) -> Iterator[str]:
    for one in objects:
        version, kind = str(one.get("apiVersion")), str(one.get("kind"))
        try:
            if ".istio.io/" not in version:
                kubernetes_validate.validate(one, KUBERNETES, strict=True)
            elif (version, kind) not in istio_schemas():
                yield f"{name_of(one)}: there is no {version} {kind}"
            else:
                jsonschema.Draft7Validator(istio_schemas()[version, kind]).validate(dict(one))
        except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as fault:
            place = ".".join(map(str, fault.path)) or "spec"
            yield f"{name_of(one)}: {place}: {str(fault.message).splitlines()[0][:200]}"
        except kubernetes_validate.SchemaNotFoundError:
            yield f"{name_of(one)}: Kubernetes {KUBERNETES} has no {version} {kind}"


@cache
def attempts() -> dict[str, int]:
    graph, policy = (yaml.safe_load((ROOT / "istio" / name).read_text()) for name in ("callgraph.yaml", "policy.yaml"))
    return {f"/{rpc.path}": rpc.policy["attempts"] for rpc in rpcs(graph, policy).values()}


def faults(objects: list[Object]) -> list[str]:
    """Everything that is wrong with the objects of one overlay."""
    found = list(schema_faults(objects))
    for rule in infra_rules.RULES:
        found += rule(objects)
    return [*found, *infra_rules.repeats_are_allowed(objects, attempts())]


def policies() -> Iterator[tuple[str, dict[str, Any]]]:
    """Policy documents of AWS: those that the documentation shows, and JSON files below pulumi/."""
    for page in sorted((ROOT / "docs").rglob("*.md")):
        for block in re.findall(r"```json\n(.*?)```", page.read_text(), re.DOTALL):
            if '"Statement"' in block:
                yield str(page.relative_to(ROOT)), json.loads(block)
    for file in sorted((ROOT / "pulumi").rglob("*.json")) if (ROOT / "pulumi").is_dir() else ():
        if '"Statement"' in (text := file.read_text()) and "site-packages" not in str(file):
            yield str(file.relative_to(ROOT)), json.loads(text)


def workflow_faults() -> list[str]:
    files = sorted(map(str, (ROOT / ".github" / "workflows").glob("*.y*ml")))
    if not files:
        return []
    command = [
        str(Path(sys.executable).parent / "check-jsonschema"),
        "--builtin-schema",
        "vendor.github-workflows",
        *files,
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.splitlines() if answer.returncode else []


def generated_faults() -> list[str]:
    command = [sys.executable, "istio/generate.py", "--check"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return answer.stderr.splitlines() if answer.returncode else []


def parts() -> Iterator[tuple[str, list[str]]]:
    """Each part of the check with its faults."""
    for where in ("manifests", "istio"):
        for overlay in OVERLAYS:
            yield f"{where}/overlays/{overlay}", faults(build(ROOT / where / "overlays" / overlay))
    yield "istio/generated", generated_faults()
    yield "workflows", workflow_faults()
    yield "policy documents", [fault for where, one in policies() for fault in infra_rules.iam_is_exact(one, where)]


def main() -> int:
    bad, started = 0, time.monotonic()
    for name, found in parts():
        bad += len(found)
        print(f"{name:<34} {time.monotonic() - started:5.1f} s  {'FAILED' if found else 'ok'}", flush=True)
        print("".join(f"    {line}\n" for line in found), end="", flush=True)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
