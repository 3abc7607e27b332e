"""Runs pulumi/__main__.py without an engine, a provider or an account, and keeps every resource that it registers.

Assertions are made on what was kept, after the run: inside `Output.apply` they race with it. Kustomize folders are rendered by kubectl and
go through the program's own transforms, so that what is looked at is what would be sent."""

from __future__ import annotations

import functools
import importlib
import json
import runpy
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import pulumi

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "pulumi"
DIGEST = "sha256:" + "5" * 64
_SIGNATURE, _SECRET = pulumi.runtime.rpc._special_sig_key, pulumi.runtime.rpc._special_secret_sig
DIRECTORY = "kubernetes:kustomize/v2:Directory"
STACKS: dict[str, tuple[str, dict[str, str]]] = {
    "dev": ("dev", {}),
    "prod": ("prod", {}),
    "prod-cassandra": ("prod", {"millrace:store": "cassandra"}),
}
"""Name in tests → stack file, what is set on top of it."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One resource. `props`: its inputs as the provider spells them; `custom` False: a component of ours."""

    type: str
    name: str
    props: Mapping[str, Any]
    custom: bool = True
    protect: bool = False
    parent: str = ""
    provider: str = ""


@dataclass
class Run:
    resources: list[Recorded] = field(default_factory=list)
    outputs: dict[str, set[str]] = field(default_factory=dict)
    """URN → names of the outputs that a component registered."""

    def of(self, kind: str) -> list[Recorded]:
        return [one for one in self.resources if one.type == kind]

    def one(self, kind: str, name: str) -> Recorded:
        (found,) = [one for one in self.of(kind) if one.name == name]
        return found


def _opened(value: Any) -> Any:
    """Without the envelopes around secrets."""
    if isinstance(value, Mapping):
        if value.get(_SIGNATURE) == _SECRET:
            return _opened(value["value"])
        return {key: _opened(one) for key, one in value.items()}
    return [_opened(one) for one in value] if isinstance(value, list) else value


class Mocks(pulumi.runtime.Mocks):
    """What a cloud would answer: inputs, and the few outputs that the program goes on with."""

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        arn = f"arn:aws:{args.typ.split(':')[1].split('/')[0]}:us-east-1:222222222222:{args.name}"
        made = {"arn": arn, **_MADE.get(args.typ, lambda _: {})(args.name)}
        return f"{args.name}-id", {**args.inputs, **made}

    def call(self, args: pulumi.runtime.MockCallArgs) -> tuple[dict[str, Any], None]:
        raise AssertionError(f"the program asks the cloud for {args.token}: then a preview depends on it")


_MADE: dict[str, Any] = {
    "aws:eks/cluster:Cluster": lambda name: {
        "endpoint": "https://cluster.example",
        "certificateAuthority": {"data": "Q0E="},
        "identities": [{"oidcs": [{"issuer": "https://oidc.example/id/ABC"}]}],
    },
    "aws:kms/key:Key": lambda name: {
        "keyId": f"{name}-key",
        "arn": f"arn:aws:kms:us-east-1:222222222222:key/{name}",
    },
    "aws:iam/openIdConnectProvider:OpenIdConnectProvider": lambda name: {
        "arn": "arn:aws:iam::222222222222:oidc-provider/oidc.example/id/ABC"
    },
    "aws:ec2/launchTemplate:LaunchTemplate": lambda name: {"latestVersion": 1},
    "aws:ecr/repository:Repository": lambda name: {
        "repositoryUrl": f"222222222222.dkr.ecr.us-east-1.amazonaws.com/{name}"
    },
    "random:index/randomPassword:RandomPassword": lambda name: {"result": f"a-secret-of-{name}"},
    "tls:index/privateKey:PrivateKey": lambda name: {"privateKeyPem": "PRIVATE"},
    "tls:index/selfSignedCert:SelfSignedCert": lambda name: {"certPem": "CERTIFICATE"},
}


class Monitor(pulumi.runtime.mocks.MockMonitor):
    """Sees what mocks are not told: `protect`, parent, and the outputs of components."""

    def __init__(self, run: Run) -> None:
        super().__init__(Mocks())
        self._run = run
        self.folders: list[tuple[Recorded, list[Any]]] = []

    def RegisterResource(self, request: Any) -> Any:
        answer = super().RegisterResource(request)
        if request.type != "pulumi:pulumi:Stack":
            kept = Recorded(
                request.type,
                request.name,
                _opened(pulumi.runtime.rpc.deserialize_properties(request.object)),
                request.custom,
                request.protect,
                request.parent,
                request.provider,
            )
            self._run.resources.append(kept)
            if request.type == DIRECTORY:
                self.folders.append((kept, pulumi.runtime.mocks._resolve_callbacks(request.transforms)))
        return answer

    def RegisterResourceOutputs(self, request: Any) -> Any:
        self._run.outputs[request.urn] = {*request.outputs.fields} if hasattr(request.outputs, "fields") else set()
        return super().RegisterResourceOutputs(request)


def settings_of(stack_file: str, over: Mapping[str, str]) -> dict[str, str]:
    """A stack's file as Pulumi gives it to the program: texts, or JSON."""
    said = yaml.safe_load((PROGRAM / f"Pulumi.{stack_file}.yaml").read_text())["config"]
    told = {"millrace:image-digest": DIGEST, **over}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in {**said, **told}.items()}


@functools.cache
def run(stack: str) -> Run:
    stack_file, over = STACKS[stack]
    return run_with(stack_file, settings_of(stack_file, over))


def run_with(stack: str, config: Mapping[str, str]) -> Run:
    """Raises what the program raises."""
    made = Run()
    monitor = Monitor(made)
    pulumi.runtime.set_mocks(Mocks(), "millrace", stack, preview=False, monitor=monitor)
    pulumi.runtime.set_all_config(dict(config))
    _execute()
    for folder, transforms in monitor.folders:
        made.resources += _rendered(folder, transforms)
    return made


@pulumi.runtime.test
def _execute() -> None:
    # As Pulumi does: the program's folder first, and the current one.
    sys.path.insert(0, str(PROGRAM))
    try:
        runpy.run_path(str(PROGRAM / "__main__.py"), run_name="__main__")
    finally:
        sys.path.remove(str(PROGRAM))


def _rendered(folder: Recorded, transforms: list[Any]) -> list[Recorded]:
    return [_sent(thing, folder, transforms) for thing in render(folder.props["directory"])]


def _sent(thing: dict[str, Any], folder: Recorded, transforms: list[Any]) -> Recorded:
    group = thing["apiVersion"] if "/" in thing["apiVersion"] else f"core/{thing['apiVersion']}"
    kind, name = f"kubernetes:{group}:{thing['kind']}", thing["metadata"]["name"]
    props: Any = thing
    for transform in transforms:
        asked = pulumi.ResourceTransformArgs(True, kind, name, props, pulumi.ResourceOptions())
        answer = transform(asked)
        props = answer.props if answer else props
    where = thing["metadata"].get("namespace", "")
    return Recorded(kind, f"{where}/{name}" if where else name, props, parent=folder.name, provider=folder.provider)


@functools.cache
def _yaml(folder: str) -> str:
    kubectl = Path(sys.executable).parent / "kubectl"
    answer = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def render(folder: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(_yaml(folder)))


def objects(of: Run) -> list[dict[str, Any]]:
    """What would be sent to the cluster, as Kubernetes writes it: our own objects and the overlay's. Charts and folders are not objects."""
    kinds = [one for one in of.resources if one.type.startswith("kubernetes:") and "kind" in one.props]
    return [_whole_numbers(dict(one.props)) for one in kinds]


def _whole_numbers(value: Any) -> Any:
    """Pulumi's wire knows only floats."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _whole_numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(one) for one in value]
    return value


def rules() -> Any:
    """The policy pack's module; it names no package, as Pulumi runs it."""
    sys.path.insert(0, str(PROGRAM / "policy"))
    try:
        return importlib.import_module("rules")
    finally:
        sys.path.remove(str(PROGRAM / "policy"))


def checked(one: Recorded) -> list[str]:
    """Names of the rules that a resource breaks, with what they say."""
    pack = rules()
    asked = pack.Resource(one.type, one.props, one.protect)
    return [f"{name}: {one.name}: {wrong}" for name, (rule, _) in pack.RULES.items() for wrong in rule(asked)]


if __name__ == "__main__":
    # program.py FOLDER: one YAML file per stack, for a server-side dry run.
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for stack in STACKS:
        (folder / f"{stack}.yaml").write_text(yaml.safe_dump_all(objects(run(stack)), sort_keys=False))
