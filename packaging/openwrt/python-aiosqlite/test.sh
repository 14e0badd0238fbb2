#!/bin/sh

[ "$1" = python3-aiosqlite ] || exit 0

python3 - "$2" <<'EOF'
import asyncio
import sys

import aiosqlite

assert aiosqlite.__version__ == sys.argv[1], aiosqlite.__version__


async def main():
    async with aiosqlite.connect(":memory:") as database:
        async with database.execute("SELECT 1 + 1") as cursor:
            assert await cursor.fetchone() == (2,)


asyncio.run(main())
EOF
