#!/bin/sh
# Builds the proxy's web page from web/ into tinyport/proxy/page. With --if-possible a machine without Node.js is no error.
set -eu

cd "$(dirname "$0")/../web"
OLDEST=18

lacking() {
    if [ "${1:-}" = --if-possible ]; then
        echo "web: the page is not built: $2. Everything else works without it; \"make web\" builds it, with Node.js $OLDEST or newer" >&2
        exit 0
    fi
    echo "web: error: $2" >&2
    echo "web: hint: install Node.js $OLDEST or newer with npm (apt-get install nodejs npm); a released wheel has the page in it" >&2
    exit 1
}

command -v node >/dev/null || lacking "${1:-}" "Node.js is not installed"
command -v npm >/dev/null || lacking "${1:-}" "npm is not installed"
version=$(node -p 'process.versions.node')
[ "${version%%.*}" -ge "$OLDEST" ] || lacking "${1:-}" "Node.js $version is too old"

# Downloads fail now and then; three tries are cheaper than a person's.
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
    try=1
    until npm ci --ignore-scripts --no-audit --no-fund --loglevel=error; do
        if [ "$try" -ge 3 ]; then
            lacking "${1:-}" "npm could not install what the page is built with; is there a network?"
        fi
        try=$((try + 1))
        sleep "$try"
    done
    touch node_modules/.package-lock.json
fi
npm run --silent build
echo "web: the page is in tinyport/proxy/page: $(cd ../tinyport/proxy/page && find . -type f | wc -l) files"
