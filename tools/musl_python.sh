#!/bin/sh
# A Python on musl, the C library of OpenWrt and Alpine, for the node's tests:
#
#   sh tools/musl_python.sh FOLDER          (on Debian; some minutes; "make test-musl" does it below build/)
#   FOLDER/env/bin/python -m pytest tests/core tests/host tests/link tests/node
#
# Sources are the distribution's (apt checks them), the compiler is this machine's with musl's headers, libraries are the
# wheels that their makers offer for musl. Nothing is installed outside FOLDER.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
out=${1:?usage: musl_python.sh FOLDER}
mirror=${TINYPORT_TEST_MIRROR:-http://deb.debian.org/debian}
jobs=${JOBS:-2}
mkdir -p "$out/sources" "$out/lists/partial" "$out/cache/archives/partial" "$out/include" "$out/logs"
out=$(cd "$out" && pwd)

say() { echo "musl: $*"; }

# Say what failed, and the end of a log.
fail() {
    tail -n 30 "$out/logs/$2" >&2
    echo "musl: error: $1; see $out/logs/$2" >&2
    exit 1
}

# Run the rest with its output in a log; print the log's end when it fails.
quietly() {
    log=$1
    shift
    "$@" >"$out/logs/$log" 2>&1 || fail "$1 failed" "$log"
}

for program in gcc make tclsh xz dpkg-deb; do
    command -v "$program" >/dev/null || {
        echo "musl: error: $program is not installed" >&2
        echo "musl: hint: apt-get install gcc make tcl xz-utils dpkg" >&2
        exit 1
    }
done

# ---------------------------------------------------------------- sources

# deb-src lines of our own: this machine's package lists stay as they are.
echo "deb $mirror trixie main" >"$out/sources.list"
for suite in trixie bookworm; do
    echo "deb-src $mirror $suite main"
    echo "deb-src $mirror-security $suite-security main"
done >>"$out/sources.list"
get() {
    (cd "$out/sources" && apt-get -q -o Dir::Etc::SourceList="$out/sources.list" -o Dir::Etc::SourceParts=/nonexistent \
        -o Dir::State::Lists="$out/lists" -o Dir::Cache="$out/cache" "$@")
}
# Of a package the upstream archive alone is wanted; Debian's patches may be missing on a mirror that lags.
archive() { find "$out/sources" -name "$1_*.orig.tar.*" ! -name '*.asc' ! -name '*-www*' | sort | tail -n 1; }
if [ ! -e "$out/sources/.ready" ]; then
    say sources
    quietly lists get update
    quietly musl get download musl musl-dev musl-tools
    for package in zlib/trixie libffi/bookworm sqlite3/trixie openssl/bookworm python3.13/trixie; do
        get source --download-only -y "$package" >"$out/logs/source-${package%/*}" 2>&1 || true
        [ -n "$(archive "${package%/*}")" ] || fail "no source of $package" "source-${package%/*}"
    done
    touch "$out/sources/.ready"
fi
unpack() {
    rm -rf "$out/build/$1" && mkdir -p "$out/build/$1"
    tar -xf "$(archive "$1")" -C "$out/build/$1" --strip-components=1
    cd "$out/build/$1"
}

# ---------------------------------------------------------------- compiler and libraries

# trixie's musl, unpacked and not installed: OpenWrt 24.10 has that version, and bookworm's knows no packed relocations,
# which the libraries in today's wheels have.
machine=$(uname -m)
if [ ! -e "$out/musl/usr/bin/musl-gcc" ]; then
    for package in "$out"/sources/musl*.deb; do dpkg-deb --extract "$package" "$out/musl"; done
fi
loader=$(echo "$out"/musl/usr/lib/ld-musl-*.so.1)
sed -e "s|/usr/\(lib\|include\)/$machine-linux-musl|$out/musl&|g" -e "s|/lib/ld-musl-[^ ]*|$loader|" \
    "$out/musl/usr/lib/$machine-linux-musl/musl-gcc.specs" >"$out/musl/specs"
# The kernel's headers, which a libc does not have.
for headers in linux asm-generic mtd; do ln -sfn "/usr/include/$headers" "$out/include/$headers"; done
ln -sfn "/usr/include/$(gcc -print-multiarch)/asm" "$out/include/asm"
# Python's configure asks the compiler for Debian's name of the platform, which is glibc's.
cat >"$out/musl/cc" <<END
#!/bin/sh
[ "\$*" != --print-multiarch ] || exec echo $machine-linux-musl
exec gcc "\$@" -specs $out/musl/specs -idirafter $out/include
END
chmod +x "$out/musl/cc"
export CC="$out/musl/cc" CXX="$out/musl/cc"
# For tests, not for speed: what takes the time is the compiler.
export CFLAGS="-O1 -fPIC" OPT="-O1" CPPFLAGS="-I$out/usr/include" LDFLAGS="-L$out/usr/lib -L$out/usr/lib64"
export PKG_CONFIG_LIBDIR="$out/usr/lib/pkgconfig"

# Static, so that only the interpreter and musl's loader are needed to run it.
if [ ! -e "$out/usr/lib/libz.a" ]; then
    say zlib
    unpack zlib
    quietly zlib sh -c "./configure --static --prefix=$out/usr && make -j$jobs libz.a && make install"
fi
if [ ! -e "$out/usr/include/ffi.h" ]; then
    say libffi
    unpack libffi
    quietly libffi sh -c "./configure --disable-shared --disable-docs --prefix=$out/usr && make -j$jobs && make install"
fi
if [ ! -e "$out/usr/include/sqlite3.h" ]; then
    say sqlite
    unpack sqlite3
    quietly sqlite sh -c "./configure --disable-shared --disable-tcl --prefix=$out/usr && make -j1 libsqlite3.la &&
        install -D -m 644 .libs/libsqlite3.a $out/usr/lib/libsqlite3.a && install -m 644 sqlite3.h sqlite3ext.h $out/usr/include"
fi
if [ ! -e "$out/usr/include/openssl/ssl.h" ]; then
    say OpenSSL
    unpack openssl
    quietly openssl sh -c "./Configure linux-$(uname -m) no-shared no-tests no-engine no-dso no-async no-legacy no-dtls \
        no-aria no-camellia no-seed no-idea no-gost no-sm2 no-sm3 no-sm4 no-cms no-ts no-ct no-cmp no-srp --prefix=$out/usr --libdir=lib &&
        make -j$jobs build_libs && make install_dev"
fi

# ---------------------------------------------------------------- the interpreter

if [ ! -x "$out/usr/bin/python3.13" ]; then
    say Python
    unpack python3.13
    quietly python sh -c "./configure --prefix=$out/usr --with-openssl=$out/usr --without-ensurepip --disable-test-modules \
        --without-static-libpython && make -j$jobs && make install COMPILEALL_OPTS='-r 0'"
fi
"$out/usr/bin/python3.13" -c 'import ctypes, ssl, sqlite3, zlib'

# ---------------------------------------------------------------- what the tests need

if [ ! -e "$out/env/.ready" ]; then
    say environment
    "$out/usr/bin/python3.13" -m venv --without-pip "$out/env"
    # Wheels alone: a library built here would not be the one that others have.
    quietly pip "$here/.venv/bin/python" -m pip --python "$out/env/bin/python" install --only-binary :all: \
        -e "${here}[server,test]"
    touch "$out/env/.ready"
fi
say "$("$loader" 2>&1 | sed -n 2p), $("$out/env/bin/python" -V): $out/env/bin/python"
