#!/bin/sh
# Sets up a virtual environment with everything in it, on Linux and macOS.
set -eu
cd "$(dirname "$0")"
python3 -m venv .venv
.venv/bin/pip install -e .
[ -f .env ] || cp .env.example .env
echo "Ready. Try: .venv/bin/rmi-agent run hello_world.py"
