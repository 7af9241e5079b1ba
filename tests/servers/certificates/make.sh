#!/bin/sh
# Makes the certificates beside it anew. They are good from 2000 to 2100, whatever a machine's clock
# says, but for the one that is expired. The key is no secret: nothing but the tests trusts it.
set -eu
cd "$(dirname "$0")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cat > "$scratch/ca.cnf" <<END
[ca]
default_ca = tests
[tests]
database = $scratch/index
rand_serial = yes
new_certs_dir = $scratch
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
[req]
distinguished_name = name
[name]
END
: > "$scratch/index"
openssl ecparam -name prime256v1 -genkey -noout -out key.pem

# issue NAME SUBJECT EXTENSION END [OPTION...]
issue() {
    name=$1 subject=$2 extension=$3 end=$4
    shift 4
    printf '%b\n' "$extension" subjectKeyIdentifier=hash authorityKeyIdentifier=keyid \
        > "$scratch/extensions"
    openssl req -new -config "$scratch/ca.cnf" -key key.pem -subj "/CN=$subject" \
        -out "$scratch/request"
    openssl ca -batch -notext -config "$scratch/ca.cnf" -keyfile key.pem "$@" \
        -in "$scratch/request" -extfile "$scratch/extensions" \
        -startdate 20000101000000Z -enddate "$end" -out "$name.pem"
}
issue authority "Authority of the tests" \
    "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign" 21000101000000Z -selfsign
issue self-signed images.test subjectAltName=IP:127.0.0.1 21000101000000Z -selfsign
issue good images.test subjectAltName=IP:127.0.0.1 21000101000000Z -cert authority.pem
issue other-host images.test subjectAltName=DNS:other.test 21000101000000Z -cert authority.pem
issue expired images.test subjectAltName=IP:127.0.0.1 20010101000000Z -cert authority.pem
