"""Exits with code 0 if the process in this container can serve. Asks /readyz on its metrics port, 9400.

Of the standard library's smallest parts: `python3 -I -S` runs it in some 20 ms.
"""

import socket
import sys

TIMEOUT_S = 4.5
PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 9400

with socket.create_connection(("127.0.0.1", PORT), TIMEOUT_S) as connection:
    connection.settimeout(TIMEOUT_S)
    connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
    answer = b""
    while received := connection.recv(4096):
        answer += received
status, _, body = answer.partition(b"\r\n\r\n")
if status.split(b" ")[1:2] != [b"200"]:
    sys.exit(body.decode("ascii", "replace").strip() or "no answer")
