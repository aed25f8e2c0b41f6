#!/usr/bin/env bash
# jupyter-book 1.0.4.post1 with sphinx-thebe 0.3.1: every page of a book that asks for
# nothing interactive holds the line `const THEBE_JS_URL = ...` twice.
#
# Natural guess: Thebe, which runs cells in the page, is loaded where a launch button
# asks for it, and a book made without any setting is without errors.
# Seen: "declared 2 times". A second `const` of one name is a SyntaxError: browsers
# report "Identifier 'THEBE_JS_URL' has already been declared" on each page, which fails
# every check that pages are free of errors.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install -q --disable-pip-version-check jupyter-book==1.0.4.post1 sphinx-thebe==0.3.1

mkdir book
echo "title: A book" > book/_config.yml
printf 'format: jb-book\nroot: page\n' > book/_toc.yml
printf '# A page\n\nSome words.\n' > book/page.md
env/bin/jupyter-book build -q book > log 2>&1 || { cat log; exit 1; }

page=book/_build/html/page.html
declared=$(grep -c 'const THEBE_JS_URL' "$page" || true)
echo "declared $declared times"
[ "$declared" = 2 ] || { echo "this has changed"; exit 1; }
