"""Metrics of a cell's proofs: whether its log is signed, witnessed and unchanged."""

from collections.abc import Iterable

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from cells.cell import Cell


def proof_metrics(cell: Cell) -> Iterable[Metric]:
    """Read on the cell's event loop."""
    checkpoint_signer, cosigning, witness = cell.checkpoint_signer, cell.cosigning, cell.witness
    broken = int(checkpoint_signer is not None and bool(checkpoint_signer.broken))
    yield GaugeMetricFamily("cellbook_log_broken", "1 if the stored log differs from what was signed.", value=broken)
    changed = cell.log_watch.problems if cell.log_watch is not None else 0
    yield GaugeMetricFamily("cellbook_log_changed", "Rows of the log that differ from what was written.", value=changed)
    lost = int(cell.time.lost)
    yield GaugeMetricFamily("cellbook_data_lost", "1 if the log is shorter than others have seen it.", value=lost)
    unsigned_s = checkpoint_signer.unsigned_s if checkpoint_signer is not None else 0.0
    yield GaugeMetricFamily(
        "cellbook_unsigned_seconds", "Age of the oldest event that no checkpoint covers; 0: none.", value=unsigned_s
    )
    silent = GaugeMetricFamily(
        "cellbook_witness_silent", "1 if a witness has not signed the last checkpoint.", labels=["peer"]
    )
    for peer, problem in (cosigning.problems if cosigning is not None else {}).items():
        silent.add_metric([peer], int(bool(problem)))
    yield silent
    refused = CounterMetricFamily(
        "cellbook_witness_refused", "Checkpoints of a peer whose log differs from before.", labels=["peer"]
    )
    for peer, count in (witness.refused if witness is not None else {}).items():
        refused.add_metric([peer], count)
    yield refused


def trouble(cell: Cell) -> str:
    """Problems of the log that this process knows, in ASCII; empty: none."""
    found = []
    if cell.time.lost:
        found.append("it is shorter than others have seen it, and the cell accepts no commands (DATA_LOST)")
    if cell.checkpoint_signer is not None and cell.checkpoint_signer.broken:
        found.append(f"it is not what was signed: {cell.checkpoint_signer.broken}")
    if cell.log_watch is not None and cell.log_watch.problems:
        found.append(f"{cell.log_watch.problems} rows are not what was written")
    for peer, position in cell.time.disputed.items():
        found.append(f"{peer} has seen position {position} of it, which it does not have")
    return "; ".join(found).encode("ascii", "replace").decode()
