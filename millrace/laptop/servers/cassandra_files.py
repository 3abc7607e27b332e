"""What a Cassandra node reads before it starts: its jars (fetched once), its flags, its configuration, a certificate."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from millrace.laptop.failure import UpFailed

VERSION = "5.0.9"
FETCH_LIMIT_S = 900
STORE_PASSWORD = "millrace"
"""Of the keystore in a node's own folder: Java wants one. The folder's mode is what protects the key."""

_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>dev.millrace</groupId><artifactId>servers</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.cassandra</groupId><artifactId>cassandra-all</artifactId><version>{VERSION}</version></dependency>
  </dependencies>
</project>
"""
_EXPORTS = (
    "java.base/jdk.internal.misc", "java.base/java.lang.ref", "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry", "java.rmi/sun.rmi.server", "java.sql/java.sql", "jdk.unsupported/sun.misc",
    "jdk.compiler/com.sun.tools.javac.file", "jdk.attach/sun.tools.attach",
)  # fmt: skip
_OPENS = (
    *(f"java.base/{name}" for name in (
        "java.lang", "java.lang.module", "java.lang.reflect", "java.io", "java.nio", "java.util", "sun.nio.ch", "jdk.internal.loader",
        "jdk.internal.ref", "jdk.internal.reflect", "jdk.internal.math", "jdk.internal.module", "jdk.internal.util.jar",
    )),
    "jdk.management/com.sun.management.internal", "jdk.compiler/com.sun.tools.javac",
)  # fmt: skip
_LOGBACK = """<configuration>
  <appender name="FILE" class="ch.qos.logback.core.FileAppender">
    <file>{log}</file><encoder><pattern>%-5level [%thread] %date{{ISO8601}} %logger{{0}} - %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="FILE"/></root>
</configuration>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`heap`: Java's -Xmx. `commitlog_sync`: `batch` or `periodic`, which loses acknowledged writes of a single node. `auth`: users and
    passwords (`cassandra`/`cassandra` at first). `tls`: clients must speak it. `settings`: more lines of cassandra.yaml."""

    heap: str = "512m"
    commitlog_sync: str = "batch"
    auth: bool = False
    tls: bool = False
    cluster_name: str = "millrace"
    settings: tuple[tuple[str, object], ...] = ()


def has_java() -> bool:
    """Java 17, which Cassandra 5 wants."""
    return 'version "17' in _java()


def check_java() -> None:
    """Raises UpFailed without Java 17."""
    if not has_java():
        said = _java().partition("\n")[0]
        raise UpFailed(
            f"Cassandra needs Java 17, and {'this is ' + said if said else 'there is none here'}",
            hint="`apt-get install openjdk-17-jre-headless`, or have its java on the PATH",
        )


def _java() -> str:
    """What the java on the PATH says of itself; empty without one."""
    java = shutil.which("java")
    return subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr if java else ""


def cached_jars() -> Path:
    """Where the jars lie, fetched or not: `$XDG_CACHE_HOME/millrace`, outside any tree."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "millrace" / f"cassandra-{VERSION}"


def fetch_jars(say: Callable[[str], None] = lambda text: None) -> Path:
    """The folder of the jars, fetched by Maven as it is set up here when they are missing. Blocking, a minute the first time.

    Raises UpFailed without Maven, or when it fails."""
    folder = cached_jars()
    if folder.is_dir():
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        raise UpFailed(f"the jars of Cassandra {VERSION} are not here", hint="install Maven (`apt-get install maven`)")
    say(f"fetching Cassandra {VERSION} (about 70 MB, once)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetching-") as temporary:
        pom, found = Path(temporary) / "pom.xml", Path(temporary) / "jars"
        pom.write_text(_POM)
        command = [maven, "-B", "-q", "-f", str(pom), "dependency:copy-dependencies", "-DincludeScope=runtime"]
        answer = subprocess.run(
            [*command, f"-DoutputDirectory={found}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=FETCH_LIMIT_S, check=False,
        )  # fmt: skip
        if answer.returncode or not any(found.glob("cassandra-all-*.jar")):
            raise UpFailed(f"Maven could not fetch Cassandra {VERSION}: {answer.stdout[-500:].strip()}")
        try:
            found.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was faster otherwise
                raise
    return folder


def java_command(jars: Path, folder: Path, heap: str) -> Sequence[str]:
    """Runs one node in the foreground. `folder` holds its `conf/`."""
    (jamm,) = jars.glob("jamm-*.jar")
    return [
        *("java", "-ea", f"-Xms{heap}", f"-Xmx{heap}", "-XX:+UseG1GC", "-XX:+ParallelRefProcEnabled"),
        *("-XX:MaxTenuringThreshold=1", "-XX:MaxGCPauseMillis=300", "-Xss512k", "-Djdk.attach.allowAttachSelf=true"),
        *(f"--add-exports={name}=ALL-UNNAMED" for name in _EXPORTS),
        *(f"--add-opens={name}=ALL-UNNAMED" for name in _OPENS),
        *("-Dio.netty.tryReflectionSetAccessible=true", "-Dcassandra.skip_wait_for_gossip_to_settle=0"),
        *(
            "-Dcassandra.superuser_setup_delay_ms=0",
            "-Dcassandra.ring_delay_ms=1000",
            "-Dcassandra.migration_delay_ms=1000",
            "-Dcassandra.schema_pull_interval_ms=1000",
            f"-javaagent:{jamm}",
        ),
        *(f"-Dcassandra.config=file://{folder}/conf/cassandra.yaml", f"-Dcassandra.storagedir={folder}"),
        *(f"-Dcassandra.logdir={folder}", f"-Dlogback.configurationFile={folder}/conf/logback.xml"),
        *("-Dcassandra-foreground=true", "-Djava.net.preferIPv4Stack=true"),
        *("-cp", f"{folder}/conf:{jars}/*", "org.apache.cassandra.service.CassandraDaemon"),
    ]


def write_configuration(
    folder: Path, *, address: str, seed: str, storage_port: int, cql_port: int, options: Options
) -> None:
    """Fills `folder/conf`."""
    conf = folder / "conf"
    conf.mkdir(parents=True, exist_ok=True, mode=0o700)
    (conf / "logback.xml").write_text(_LOGBACK.format(log=folder / "system.log"))
    seeds = {"class_name": "org.apache.cassandra.locator.SimpleSeedProvider"}
    settings: dict[str, object] = {
        "cluster_name": options.cluster_name,
        "num_tokens": 16,
        "allocate_tokens_for_local_replication_factor": 3,
        "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
        "endpoint_snitch": "SimpleSnitch",
        "seed_provider": [{**seeds, "parameters": [{"seeds": f"{seed}:{storage_port}"}]}],
        "listen_address": address,
        "rpc_address": address,
        "storage_port": storage_port,
        "native_transport_port": cql_port,
        "data_file_directories": [str(folder / "data")],
        "commitlog_directory": str(folder / "commitlog"),
        "saved_caches_directory": str(folder / "saved_caches"),
        "hints_directory": str(folder / "hints"),
        **_sync(options.commitlog_sync),
        **(_auth() if options.auth else {}),
        **(_tls(folder) if options.tls else {}),
        **dict(options.settings),
    }
    (conf / "cassandra.yaml").write_text(json.dumps(settings, indent=1))  # JSON is YAML


def make_certificate(folder: Path, addresses: Sequence[str]) -> Path:
    """A key pair for the node in `folder`, signed by itself; what clients trust, as PEM. Raises UpFailed."""
    store, pem = folder / "node.p12", folder / "node.pem"
    names = ",".join(["dns:localhost", *(f"ip:{address}" for address in addresses)])
    keytool = ("keytool", "-keystore", str(store), "-storetype", "PKCS12", "-storepass", STORE_PASSWORD)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for command in (
        (*keytool, "-genkeypair", "-alias", "node", "-keyalg", "RSA", "-validity", "3650", "-dname", "CN=millrace test node",
         "-ext", f"SAN={names}", "-ext", "BC=ca:true"),
        (*keytool, "-exportcert", "-alias", "node", "-rfc", "-file", str(pem)),
    ):  # fmt: skip
        answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if answer.returncode:
            raise UpFailed(f"keytool failed: {answer.stdout.strip()[-300:]}")
    return pem


def _sync(how: str) -> dict[str, object]:
    if how == "batch":
        return {"commitlog_sync": "batch"}
    if how == "group":
        return {"commitlog_sync": "group", "commitlog_sync_group_window": "2ms"}
    return {"commitlog_sync": "periodic", "commitlog_sync_period": "10000ms"}


def _auth() -> dict[str, object]:
    return {
        "authenticator": "PasswordAuthenticator",
        "authorizer": "CassandraAuthorizer",
        "role_manager": "CassandraRoleManager",
    }


def _tls(folder: Path) -> dict[str, object]:
    store = {"keystore": str(folder / "node.p12"), "keystore_password": STORE_PASSWORD, "store_type": "PKCS12"}
    return {"client_encryption_options": {"enabled": True, "optional": False, "require_client_auth": False, **store}}
