#!/usr/bin/env bash
# Makes docker/keys with the image: a CA, a certificate for each process, token keys, keys that seal names and addresses,
# and keys that sign checkpoints, whose public halves are in checkpoint.pub, for the auditor. For development.
# Otherwise have your own authority sign the same names (docs/security.md), and give each machine only its own files.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
mkdir -p keys
hosts=(localhost 127.0.0.1 router us-east us-east-standby eu-west ap-tokyo)
docker run --rm --user 0 --network none --volume "$PWD/keys:/keys" "${CELLBOOK_IMAGE:-cellbook}" sh -euc '
    umask 077
    cellbook keys dev /keys "$@"
    for cell in us-east eu-west ap-tokyo; do
        test -f "/keys/$cell.vault.key" || python3 -c "import secrets; print(secrets.token_hex(32))" > "/keys/$cell.vault.key"
        test -f "/keys/$cell.checkpoint.key" || cellbook audit new-key "$cell" "/keys/$cell.checkpoint.key"
    done >> /keys/checkpoint.pub
    chown -R 10001:10001 /keys' -- "${hosts[@]/#/--host=}"
