"""ExtractService: its RPCs by what they are about."""

from __future__ import annotations

from millrace.extract.v1 import extract_pb2_grpc
from svc_extract.domain.ingest import Ingest
from svc_extract.domain.runs import Runs
from svc_extract.domain.sources import Sources
from svc_extract.ports import Clock
from svc_extract.servicers.ingest import IngestRpcs
from svc_extract.servicers.runs import RunRpcs
from svc_extract.servicers.sources import SourceRpcs


class ExtractServicer(SourceRpcs, RunRpcs, IngestRpcs, extract_pb2_grpc.ExtractServiceServicer):
    def __init__(self, sources: Sources, runs: Runs, ingest: Ingest, clock: Clock) -> None:
        SourceRpcs.__init__(self, sources)
        RunRpcs.__init__(self, runs, clock)
        IngestRpcs.__init__(self, ingest, clock)
