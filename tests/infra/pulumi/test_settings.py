"""A stack's file that says too little, or something wrong, is refused by the key's name; nothing is made."""

from __future__ import annotations

import json

import pytest

from tests.infra.pulumi import program

KEYS = ("account", "owner", "store", "host", "issuer", "admin-role", "api-cidrs", "gateway-cidrs", "network", "nodes")
WRONG = {
    "account": "12",
    "owner": "nobody",
    "store": "oracle",
    "host": "https://x",
    "issuer": "http://issuer.example.org",
    "image-digest": "latest",
    "kubernetes": "1.30",
    "admin-role": "admin",
    "api-cidrs": '["0.0.0.0/0"]',
    "gateway-cidrs": '["everybody"]',
    "network": json.dumps({"cidr": "10.0.0.0/24", "zones": ["eu-central-1a", "eu-central-1b"], "gateways": 1}),
    "nodes": json.dumps({"type": "m7i.large", "least": 3, "most": 2, "disk-gib": 50}),
}


def refused(config: dict[str, str]) -> str:
    with pytest.raises(Exception, match=r"millrace:|aws:") as caught:
        program.run_with("prod", config)
    return str(caught.value)


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_named(key: str) -> None:
    config = program.settings_of("prod", {})
    del config[f"millrace:{key}"]
    assert refused(config).startswith(f"millrace:{key}")


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_value_is_named(key: str) -> None:
    assert refused(program.settings_of("prod", {f"millrace:{key}": WRONG[key]})).startswith(f"millrace:{key}")


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({"zones": ["eu-west-1a", "eu-west-1b"]}, "zones"),
        ({"gateways": 4}, "gateways"),
        ({"gateways": "3"}, "gateways"),
        ({"cidr": "10.0.0.1/16"}, "cidr"),
    ],
)
def test_a_wrong_member_is_named(said: dict[str, object], wrong: str) -> None:
    good = {"cidr": "10.0.0.0/16", "zones": ["eu-central-1a", "eu-central-1b"], "gateways": 1}
    config = program.settings_of("prod", {"millrace:network": json.dumps({**good, **said})})
    assert refused(config).startswith(f"millrace:network {wrong}")


def test_the_region_is_demanded() -> None:
    config = program.settings_of("prod", {})
    del config["aws:region"]
    assert refused(config).startswith("aws:region")


def test_keyspaces_is_refused_with_the_reason() -> None:
    """The same as storage's check at its start (svc_storage/adapters/cassandra/checks.py)."""
    said = refused(program.settings_of("prod", {"millrace:store": "keyspaces"}))
    checks = (program.ROOT / "svc_storage/adapters/cassandra/checks.py").read_text()
    for limit in ("at most 1 MB", "cannot be given an id"):
        assert limit in said
        assert limit in checks


def test_cassandra_wants_three_zones() -> None:
    network = json.dumps({"cidr": "10.0.0.0/16", "zones": ["eu-central-1a", "eu-central-1b"], "gateways": 1})
    config = program.settings_of("prod", {"millrace:store": "cassandra", "millrace:network": network})
    assert "three zones" in refused(config)
