#!/bin/sh

[ "$1" = python3-asyncssh ] || exit 0

python3 - "$2" <<'EOF'
import sys

import asyncssh

assert asyncssh.__version__ == sys.argv[1], asyncssh.__version__
key = asyncssh.generate_private_key("ssh-ed25519")
assert asyncssh.import_private_key(key.export_private_key()).public_data == key.public_data
EOF
