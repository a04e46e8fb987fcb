#!/usr/bin/env bash
# Cut data sets into files of at most 35 MB, for a machine that takes only small files, and join them there.
#   data/parts.sh cut DATA PARTS [NAME ...]   DATA/NAME ... (default: all of DATA) into PARTS/part00, part01, ...
#   data/parts.sh join PARTS DATA             and back; refused unless every part is there and whole
set -euo pipefail
case "${1:-}" in
cut)
  data=$2 parts=$3; shift 3
  mkdir -p "$parts"
  # shellcheck disable=SC2046
  tar -C "$data" -cz $([ $# -gt 0 ] && echo "$@" || ls "$data") | split -d -b ${PART_SIZE:-35M} - "$parts/part"
  (cd "$parts" && sha256sum part?? >SHA256SUMS)
  ls -l "$parts"
  ;;
join)
  (cd "$2" && sha256sum --quiet -c SHA256SUMS)
  mkdir -p "$3"
  cat "$2"/part?? | tar -C "$3" -xz
  ;;
*)
  sed -n '2,4s/^# *//p' "$0"; exit 2
  ;;
esac
