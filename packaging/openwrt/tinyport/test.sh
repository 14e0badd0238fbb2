#!/bin/sh
# The packages feed runs this where a package has been installed: its name, then its version.

[ "$1" = tinyport ] || exit 0

tinyport version | grep -F "$2" || exit 1

# Whatever a node loads is in the packages that this one depends on.
python3 - <<'EOF' || exit 1
import tinyport.link.enrolment
import tinyport.node.forward.forward
import tinyport.node.keeper.process
import tinyport.node.launcher
import tinyport.node.session.process
import tinyport.node.sftp.sftp
import tinyport.node.worker.worker
EOF

settings=$(mktemp)
printf '[tinyport]\nserver = "port.example.com:443"\n[node]\nlisten = []\n' >"$settings"
tinyport check-config "$settings"
status=$?
rm -f "$settings"
exit "$status"
