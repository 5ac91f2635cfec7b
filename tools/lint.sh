#!/usr/bin/env bash
# Checks every shell script with shellcheck and every Python file with ruff (`make lint`).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

list_files() { # those that are committed or about to be; in an unpacked archive without git, all
  if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git ls-files -z --cached --others --exclude-standard
  else
    find . -path ./tools/venv -prune -o -type f -print0
  fi
}

shell_files=()
while IFS= read -r -d '' file; do
  if [ -L "${file}" ] || [ ! -f "${file}" ]; then continue; fi # links lead to files of the template
  case ${file##*/} in
    *.sh) shell_files+=("${file}") ;;
    *.*) ;;
    *) if head -n 1 "${file}" | grep -aqE '^#!.*\b(ba)?sh\b'; then shell_files+=("${file}"); fi ;;
  esac
done < <(list_files)

if command -v shellcheck >/dev/null; then
  shellcheck --external-sources --source-path=SCRIPTDIR "${shell_files[@]}"
  echo "shellcheck: ${#shell_files[@]} files, no findings"
else
  echo "shellcheck: not run, since it is not installed"
fi
python -m ruff check --quiet .
echo "ruff: no findings"
