#!/usr/bin/env bash
# Makes docker/.env from docker/.env.example, with new passwords for missing ones. Existing passwords stay.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
umask 077
touch .env
while IFS= read -r line; do
    name=${line%%=*}
    if [[ $line == *= ]] && ! grep --quiet "^$name=." .env; then
        echo "$line$(openssl rand -hex 24)" >> .env
    elif [[ $line == [A-Z]*=* ]] && ! grep --quiet "^$name=" .env; then
        echo "$line" >> .env
    fi
done < .env.example
