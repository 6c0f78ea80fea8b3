#!/usr/bin/env bash
# Base images for machines without a registry: Debian by debootstrap, as root.
#
#   docker/offline/base.sh
#   docker build -f docker/Dockerfile --network host \
#       --build-arg BASE_IMAGE=cellbook-offline --build-arg BUILD_IMAGE=cellbook-offline-build -t cellbook .
#   docker build -f docker/offline/postgres.Dockerfile --network host -t postgres:18 docker/offline
#   docker build -f docker/offline/prometheus.Dockerfile --network host -t prom/prometheus:v3.5.0 docker/offline
set -euo pipefail
suite=${SUITE:-bookworm}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

debootstrap --variant=minbase --include=python3,ca-certificates "$suite" "$folder/base" > "$folder/log" || { tail "$folder/log"; exit 1; }
rm -rf "$folder"/base/var/cache/apt/archives/*.deb "$folder"/base/var/lib/apt/lists/*
# If this machine trusts its own authority for fetching packages, so do the images.
cp /etc/ssl/certs/ca-certificates.crt "$folder/base/etc/ssl/certs/ca-certificates.crt"
printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' > "$folder/base/etc/pip.conf"
tar -C "$folder/base" -c . | docker import - cellbook-offline
docker build --network host -t cellbook-offline-build - <<'END'
FROM cellbook-offline
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*
END
