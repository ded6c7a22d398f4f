# Sourced by the other scripts: sets PYTHON to an interpreter of version 3.11 or newer, or says what is missing.
for PYTHON in python3.11 python3.12 python3.13 python3.14 python3 none; do
    [ "$PYTHON" = none ] && break
    "$PYTHON" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
done
if [ "$PYTHON" = none ]; then
    echo "ticker-service needs Python 3.11 or newer with its venv module; none was found on PATH" >&2
    exit 1
fi
