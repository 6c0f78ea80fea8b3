"""Email notices from a person's home cell: a settlement's last legs queue them, and they are sent later."""
