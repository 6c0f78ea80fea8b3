"""The parts of a cell that serve proofs."""

from dataclasses import dataclass

from cells.audit.export.exporter import Exporter
from cells.audit.proofs.prover import Prover
from cells.audit.witness.cosignatures import Cosignatures
from cells.audit.witness.cosigner import Witness


@dataclass(frozen=True, slots=True, kw_only=True)
class Proofs:
    prover: Prover
    exporter: Exporter
    witness: Witness
    cosignatures: Cosignatures
