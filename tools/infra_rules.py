"""What the cluster's objects must keep beyond their schemas. Each rule yields one line per fault, beginning with the object's name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Object = Mapping[str, Any]
Rule = Callable[[list[Object]], Iterator[str]]
Attempts = Mapping[str, int]
"""`/package.Service/Method` -> how often it may be repeated."""


def name_of(one: Object) -> str:
    return f"{one.get('kind')}/{one.get('metadata', {}).get('name')}"


def of_kind(objects: Iterable[Object], kind: str) -> Iterator[Object]:
    return (one for one in objects if one.get("kind") == kind)


def pods_are_confined(objects: list[Object]) -> Iterator[str]:
    for one in of_kind(objects, "Deployment"):
        pod = one["spec"]["template"]["spec"]
        outer = pod.get("securityContext", {})
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            own = container.get("securityContext", {})
            where = f"{name_of(one)}: container {container['name']}"
            if own.get("readOnlyRootFilesystem") is not True:
                yield f"{where}: writable root: readOnlyRootFilesystem must be true"
            if own.get("runAsNonRoot", outer.get("runAsNonRoot")) is not True:
                yield f"{where}: runAsNonRoot must be true"
            if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities", {}).get("drop") != ["ALL"]:
                yield f"{where}: allowPrivilegeEscalation must be false, and all capabilities dropped"
        if outer.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name_of(one)}: seccompProfile must be RuntimeDefault, for the whole pod"
        if pod.get("automountServiceAccountToken") is not False:
            yield f"{name_of(one)}: automountServiceAccountToken must be false"


def deployments_have_budgets(objects: list[Object]) -> Iterator[str]:
    budgets = [one["spec"]["selector"]["matchLabels"].items() for one in of_kind(objects, "PodDisruptionBudget")]
    for one in of_kind(objects, "Deployment"):
        labels = one["spec"]["template"]["metadata"]["labels"].items()
        if sum(wanted <= labels for wanted in budgets) != 1:
            yield f"{name_of(one)}: missing PDB: exactly one PodDisruptionBudget must select its pods"


def mutual_tls_is_strict(objects: list[Object]) -> Iterator[str]:
    for one in of_kind(objects, "PeerAuthentication"):
        said = [one["spec"].get("mtls", {}), *one["spec"].get("portLevelMtls", {}).values()]
        modes = [entry.get("mode") for entry in said]
        yield from (f"{name_of(one)}: mode {mode}: only STRICT" for mode in modes if mode != "STRICT")
    for one in of_kind(objects, "DestinationRule"):
        policy = one["spec"].get("trafficPolicy", {})
        if policy.get("tls", {}).get("mode") != "ISTIO_MUTUAL":
            yield f"{name_of(one)}: tls.mode must be ISTIO_MUTUAL: another would go out in plaintext, or be refused"
        if "retryBudget" in policy and "connectionPool" not in policy:
            yield f"{name_of(one)}: retryBudget without connectionPool is silently ignored"


def callers_are_named(objects: list[Object]) -> Iterator[str]:
    for one in of_kind(objects, "AuthorizationPolicy"):
        for rule in one["spec"].get("rules", ()):
            sources = [entry["source"] for entry in rule.get("from", ())]
            for source in sources:
                wild = [who for who in source.get("principals", ()) if "*" in who]
                wild += [who for who in source.get("requestPrincipals", ()) if "*" in who.removesuffix("/*")]
                yield from (f"{name_of(one)}: wildcard principal {who!r}" for who in wild)
            if not sources or not all(
                source.get("principals") or source.get("requestPrincipals") for source in sources
            ):
                yield f"{name_of(one)}: a rule that names no principal lets everybody in"


def repeats_are_allowed(objects: list[Object], attempts: Attempts) -> Iterator[str]:
    for one in of_kind(objects, "VirtualService"):
        for route in one["spec"].get("http", ()):
            if "directResponse" in route or "redirect" in route:
                continue
            where = f"{name_of(one)}: route {route.get('name')}"
            if "timeout" in route or "perTryTimeout" in route.get("retries", {}):
                yield f"{where}: no timeouts in routes: they cut streams"
            said = route.get("retries", {}).get("attempts")
            if said is None:
                yield f"{where}: a route that says no retries inherits two"
                continue
            paths = [match.get("uri", {}).get("exact", "anything") for match in route.get("match", [{}])]
            for path in paths:
                if said > attempts.get(path, 0):
                    yield f"{where}: retries {path} {said} times, allowed are {attempts.get(path, 0)}"


def iam_is_exact(document: Mapping[str, Any], where: str) -> Iterator[str]:
    """Of one policy document of AWS."""
    statements = document.get("Statement", [])
    for statement in statements if isinstance(statements, list) else [statements]:
        if statement.get("Effect") != "Allow":
            continue
        for key in ("Action", "NotAction", "Resource", "NotResource"):
            values = statement.get(key, [])
            for value in [values] if isinstance(values, str) else values:
                if key.startswith("Not") or value == "*" or (key == "Action" and value.endswith(":*")):
                    yield f"{where}: IAM {key} {value!r} is too wide"


RULES: tuple[Rule, ...] = (pods_are_confined, deployments_have_budgets, mutual_tls_is_strict, callers_are_named)
