#!/bin/sh
# Builds the Debian packages into build/deb, or where OUT says. The tree is copied, since dpkg wants a debian/ at its top.
# VERSION=1.2.3 builds another version than the changelog's (upgrades are tested so).
set -eu

cd "$(dirname "$0")/../.."
out=${OUT:-$PWD/build/deb}
command -v dh >/dev/null || {
    echo "deb: error: debhelper is not installed" >&2
    echo "deb: hint: apt-get install dpkg-dev debhelper dh-python" >&2
    exit 1
}
rm -rf "$out"
mkdir -p "$out/tinyport"
# What git knows, as it is now: neither caches nor whatever else lies around.
git ls-files -z -- tinyport packaging tools docs LICENSE README.md CHANGELOG.md pyproject.toml |
    xargs -0 cp -a --parents -t "$out/tinyport"
# The web page, when "make web" has built it: a package of it needs no Node.js.
if [ -e tinyport/proxy/page/index.html ]; then
    cp -a --parents -t "$out/tinyport" tinyport/proxy/page
fi
cd "$out/tinyport"
mv packaging/debian debian
if [ -n "${VERSION:-}" ]; then
    sed -i "1s/(.*)/($VERSION)/" debian/changelog
fi
dpkg-buildpackage --build=binary --no-sign --unsigned-changes >"$out/build.log" 2>&1 || {
    tail -n 40 "$out/build.log" >&2
    exit 1
}
cd "$out"
rm -rf tinyport
ls -- *.deb
