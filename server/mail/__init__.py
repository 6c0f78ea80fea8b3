"""Notices to people, by mail from their home cell: queued by a settlement's last legs, sent when there is time."""
