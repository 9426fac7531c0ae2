#!/bin/sh
# Installs what the slow tests need from outside Python: fault injection, a browser, a slow client.
# What cannot be installed is named, and its tests are skipped with the reason.
set -u

missing() {
    for pair in strace:strace mkfs.xfs:xfsprogs mkfs.ext4:e2fsprogs slowhttptest:slowhttptest \
        chromium:chromium npm:npm; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || printf '%s ' "${pair#*:}"
    done
    # Without a font for them a browser draws boxes where an answer is in Chinese.
    fc-list 2>/dev/null | grep -qi 'noto.*cjk' || printf 'fonts-noto-cjk '
}

packages=$(missing)
if [ -n "$packages" ]; then
    # shellcheck disable=SC2086
    sh "$(dirname "$0")/debian.sh" $packages || true
fi
packages=$(missing)
[ -z "$packages" ] || echo "note: without ${packages}some of these tests are skipped"
[ -d .venv/node_modules/axe-core ] ||
    npm install --silent --prefix .venv --no-save --no-package-lock axe-core@4.14.1 >/dev/null 2>&1 ||
    echo "note: without axe-core the page's accessibility is not tested"
