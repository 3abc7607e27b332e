"""Who may import what: CONTRIBUTING.md draws it, `.importlinter` says it again for the import graph as a whole."""

from __future__ import annotations

import ast
from collections.abc import Callable

import pytest

from tests.codebase.tree import PRODUCT, SERVICES, Module, modules_under, reaching, touches

Planter = Callable[..., Module]

AREAS = ("types", "storage", "extract", "transform", "analysis", "viz", "admin")
STUBS = tuple(f"millrace.{area}" for area in AREAS)
DRIVERS = (
    "adbc_driver_manager", "adbc_driver_postgresql", "bokeh", "cassandra", "deltalake", "duckdb", "ibis", "obstore", "sqlglot", "sqlite3",
    "statsmodels", "tornado",
)  # fmt: skip
SIGNALS = ("opentelemetry",)
DOMAIN_BANS = (
    *STUBS,
    *DRIVERS,
    *SIGNALS,
    "google",
    "grpc",
    "millrace.client",
    "millrace.server",
    "millrace.wire",
    "pandas",
    "polars",
)
EVERYWHERE = {"__version__", "failpoints"}
MAY_IMPORT = {
    # part of millrace -> the parts it may import, itself apart
    "errors": (),
    "failpoints": ("errors",),
    "arrow": ("errors",),
    "wire": ("arrow", "errors", *AREAS),
    "client": ("wire", "arrow", "errors", *AREAS),
    "engine": ("client", "wire", "arrow", "errors", *AREAS),
    "server": ("client", "wire", "arrow", "errors", *AREAS),
    "pipeline": ("wire", "arrow", "errors", *AREAS),
    "laptop": ("server", "pipeline", "client", "wire", "arrow", "errors", *AREAS),
    "cli": ("laptop", "pipeline", "client", "wire", "arrow", "errors", *AREAS),
}


@pytest.mark.parametrize("service", SERVICES)
def test_domain_stays_pure(service: str) -> None:
    for module in modules_under(f"svc_{service}/domain", f"svc_{service}/ports"):
        others = (
            f"svc_{service}.adapters",
            f"svc_{service}.convert",
            f"svc_{service}.servicers",
            f"svc_{service}.config",
        )
        banned = reaching(module, (*DOMAIN_BANS, *others))
        assert not banned, f"{banned}: declare the need in ports.py, meet it in adapters/"


def test_an_impure_domain_is_seen(planted: Planter) -> None:
    assert reaching(planted("import grpc"), DOMAIN_BANS)
    assert reaching(planted("from google.protobuf import any_pb2"), DOMAIN_BANS)
    assert reaching(planted("def f():\n    import duckdb"), DOMAIN_BANS)
    assert reaching(planted("from millrace.storage.v1 import storage_pb2"), DOMAIN_BANS)
    assert not reaching(
        planted("import pyarrow\nfrom millrace.errors import FixRequest\nfrom millrace.arrow import ipc"), DOMAIN_BANS
    )


@pytest.mark.parametrize("service", SERVICES)
def test_servicers_know_no_adapter_and_no_driver(service: str) -> None:
    for module in modules_under(f"svc_{service}/servicers", f"svc_{service}/convert"):
        banned = reaching(module, (f"svc_{service}.adapters", f"svc_{service}.config", *DRIVERS))
        assert not banned, f"{banned}: it comes in by the constructor, from __main__.py"


@pytest.mark.parametrize("service", SERVICES)
def test_adapters_know_no_servicer(service: str) -> None:
    for module in modules_under(f"svc_{service}/adapters"):
        assert not (banned := reaching(module, (f"svc_{service}.servicers", f"svc_{service}.config"))), banned


def test_a_servicer_that_reaches_an_adapter_is_seen(planted: Planter) -> None:
    module = planted("from svc_storage.adapters.delta import log", "svc_storage/servicers/planted.py")
    assert reaching(module, ("svc_storage.adapters",))


@pytest.mark.parametrize("service", SERVICES)
def test_services_meet_through_stubs(service: str) -> None:
    others = tuple(f"svc_{other}" for other in SERVICES if other != service)
    for module in modules_under(f"svc_{service}"):
        assert not (banned := reaching(module, others)), f"{banned}: call it through millrace.client or the stubs"


def test_the_shared_package_knows_no_service(planted: Planter) -> None:
    services = tuple(f"svc_{service}" for service in SERVICES)
    for module in modules_under("millrace"):
        assert not (banned := reaching(module, services)), (
            f"{banned}: services are started by module name, as processes"
        )
    assert reaching(planted("import svc_viz.config", "millrace/server/planted.py"), services)


def misplaced(module: Module) -> list[str]:
    """Imports of millrace that the part this module belongs to may not have."""
    part = module.name.split(".")[1] if "." in module.name else ""
    if part not in MAY_IMPORT:
        return []
    allowed = {part, *MAY_IMPORT[part]}
    return [
        f"{module}:{found.line} imports {found.name}"
        for found in module.imports
        if touches(found.name, "millrace")
        and "." in found.name
        and found.name.split(".")[1] not in allowed | EVERYWHERE
    ]


def test_the_parts_of_millrace_build_on_each_other_in_one_direction(planted: Planter) -> None:
    for module in modules_under("millrace"):
        assert not (found := misplaced(module)), found
    assert misplaced(planted("from millrace.server import bootstrap", "millrace/client/planted.py"))
    assert misplaced(planted("from millrace.wire import batch", "millrace/arrow/planted.py"))


def test_drivers_stay_in_adapters(planted: Planter) -> None:
    """What is installed as `millrace` drives nothing but Millrace itself; two exceptions are deferred (test_imports.py),
    the engine is what adapters of two services share."""
    exceptions = {"millrace.cli": ("bokeh",), "millrace.pipeline": ("sqlglot",), "millrace.engine": ("duckdb",)}
    for module in modules_under("millrace"):
        part = ".".join(module.name.split(".")[:2])
        drivers = tuple(driver for driver in DRIVERS if driver not in exceptions.get(part, ()))
        assert not (banned := reaching(module, drivers)), banned
    assert reaching(planted("import deltalake", "millrace/wire/planted.py"), DRIVERS)


def status_handling(module: Module) -> list[str]:
    """Where a servicer decides about status: that belongs to the interceptors."""
    calls = {"abort", "abort_with_status", "set_code", "set_details"}
    found = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in calls:
            found.append(f"{module}:{node.lineno} calls {node.func.attr}")
        if isinstance(node, ast.Attribute) and node.attr == "StatusCode":
            found.append(f"{module}:{node.lineno} names a StatusCode")
        if isinstance(node, ast.Try) and node.handlers:
            found.append(f"{module}:{node.lineno} catches")
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_servicers_raise_and_nothing_else(service: str) -> None:
    for module in modules_under(f"svc_{service}/servicers"):
        assert not (found := status_handling(module)), (
            f"{found}: raise millrace.errors; the errors interceptor does the rest"
        )


def test_a_servicer_that_aborts_is_seen(planted: Planter) -> None:
    source = """
        async def Get(self, request, context):
            try:
                return await self._tables.get(request.name)
            except KeyError:
                await context.abort(grpc.StatusCode.NOT_FOUND, "")
        """
    assert len(status_handling(planted(source, "svc_storage/servicers/planted.py"))) == 3


FOR_TESTS = {"svc_storage/adapters/disk.py": "where it journals its fsyncs, for the power losses of tests/chaos"}


def environment_reads(module: Module) -> list[str]:
    nodes = (
        node for node in ast.walk(module.tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    )
    return [f"{module}:{node.lineno}" for node in nodes if node.value.id == "os" and node.attr in {"environ", "getenv"}]


def test_only_config_reads_the_environment(planted: Planter) -> None:
    for module in modules_under(*PRODUCT[1:]):
        if not module.path.endswith(("/config.py", "/__main__.py")) and module.path not in FOR_TESTS:
            assert not (found := environment_reads(module)), f"{found}: read it in config.py, pass it in"
    assert environment_reads(planted("import os\nhome = os.environ['HOME']"))
