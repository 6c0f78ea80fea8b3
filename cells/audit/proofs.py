"""The parts of a cell that serve proofs."""

from dataclasses import dataclass

from cells.audit.cosignatures import Cosignatures
from cells.audit.exporter import Exporter
from cells.audit.prover import Prover
from cells.audit.witness import Witness


@dataclass(frozen=True, slots=True, kw_only=True)
class Proofs:
    prover: Prover
    exporter: Exporter
    witness: Witness
    cosignatures: Cosignatures
