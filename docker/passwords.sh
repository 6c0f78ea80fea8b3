#!/usr/bin/env bash
# Makes docker/.env of docker/.env.example, with a new password wherever one is missing. What is there stays.
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
