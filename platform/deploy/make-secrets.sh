#!/bin/sh
# Makes the secrets of compose.yaml, each once: passwords that nobody has to know, mode 0600. Put
# HF_TOKEN and the like into secrets/assay afterwards. Containers run as user 1000, who must own them.
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p secrets
word() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
made() { [ -s "secrets/$1" ]; }

made ray_token || word > secrets/ray_token
made postgres_password || word > secrets/postgres_password
made pgpass || printf 'postgres:5432:assay:assay:%s\n' "$(cat secrets/postgres_password)" > secrets/pgpass
made assay || printf 'AWS_ACCESS_KEY_ID=assay\nAWS_SECRET_ACCESS_KEY=%s\nAWS_REGION=us-east-1\n' "$(word)" > secrets/assay
if ! made objects; then
    key=$(sed -n 's/^AWS_SECRET_ACCESS_KEY=//p' secrets/assay)
    printf '{"identities": [{"name": "assay", "credentials": [{"accessKey": "assay", "secretKey": "%s"}], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}\n' "$key" > secrets/objects
fi
if [ "$(id -u)" = 0 ]; then
    chown 1000:1000 secrets/assay secrets/ray_token secrets/pgpass
fi
