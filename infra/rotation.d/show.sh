# shellcheck shell=bash
# Answers, as tables for people or as JSON. Names and tags are somebody's input: control characters become `?`.

choose_colours() {
  red='' green='' yellow='' bold='' plain=''
  if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
    red=$'\e[31m' green=$'\e[32m' yellow=$'\e[33m' bold=$'\e[1m' plain=$'\e[0m'
  fi
}

has_terminal() {
  { : </dev/tty; } 2>/dev/null
}

# Lines of cells, separated by tabs, as columns. mawk formats no text of more than 8 KB with sprintf, and would end.
table() {
  awk -F '\t' '
    {
      for (i = 1; i <= NF; i++) {
        cell[NR, i] = $i
        if (i < NF && length($i) > width[i]) width[i] = length($i)
        while (length(blanks) < width[i] + 2) blanks = blanks "                "
      }
      cells[NR] = NF
    }
    END {
      for (row = 1; row <= NR; row++) {
        line = ""
        for (i = 1; i < cells[row]; i++) line = line cell[row, i] substr(blanks, 1, width[i] + 2 - length(cell[row, i]))
        line = line cell[row, cells[row]]
        print line
      }
    }'
}

# The answer through a jq filter that makes cells.
cells() {
  printf '%s' "$answer" | jq -r --arg now "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "
    def clean: tostring | gsub(\"[[:cntrl:]]\"; \"?\");
    def row: map(if . == null or . == \"\" then \"-\" else clean end) | join(\"\t\");
    $1"
}

# shellcheck disable=SC2016 # The variables are jq's.
show_status() {
  printf '%s%s%s\n' "$bold" "$(cells '"\(.secret | clean)  (\(.kind))"')" "$plain"
  cells '
    .policy as $policy | [
      ["rotation", (if .rotation.enabled then "on" else "OFF" end) + "; last \(.rotation.last // "never"), next \(.rotation.next // "on demand")"],
      (if .rotation.hoursOverdue > 0 then ["OVERDUE", "by \(.rotation.hoursOverdue) hours"] else empty end),
      ["function", .rotation.function],
      ["open", (.rotation.open // "no rotation")],
      (if .rotation.unfinished then ["UNFINISHED", "run \(.rotation.unfinished) again"] else empty end),
      (if .previousAcceptedUntil then ["overlap", "until \(.previousAcceptedUntil), \(.overlapSecondsLeft) s left"] else empty end),
      (if .problem then ["PROBLEM", "\(.problem.error): \(.problem.message)"] else empty end),
      (if .lastFailure == null then ["last failure", "none"]
       elif .lastFailure | type == "object" then
         ["last failure", (.lastFailure | "\(.at // "") \(.step // "") \(.error // ""): \(.message // .problem // "")")]
       else ["last failure", .lastFailure] end)
    ] | .[] | row' | table
  printf '\n'
  cells '["VERSION", "LABELS", "CREATED", "DAYS"], (.versions[] | [.version, (.stages | join(" ")), .created, .ageDays]) | row' |
    table
  if [ -n "$(cells '.keys // [] | .[] | .id')" ]; then
    printf '\n'
    cells '["KEY", "STATE", "CREATED", "PROMOTED", "COMPROMISED"], (.keys[] | [.id, .state, .created, .promoted, .compromised]) | row' |
      table
  fi
  printf '\n'
  cells '["SETTING", "VALUE", "FROM"], (.policy | to_entries[] | [.key, .value.value, .value.from]) | row' | table
}

show_findings() {
  local state check detail repair
  cells '.findings[] | [(if .ok then "ok" else "BAD" end), .check, .detail, .repair // ""] | row' |
    while IFS=$'\t' read -r state check detail repair; do
      if [ "$state" = ok ]; then
        printf '%sok %s  %s: %s\n' "$green" "$plain" "$check" "$detail"
      else
        printf '%sBAD%s  %s: %s\n     repair: %s\n' "$red" "$plain" "$check" "$detail" "$repair"
      fi
    done
  cells '.notChecked // [] | .[] | "not checked: \(clean)"'
}

# shellcheck disable=SC2016 # The variables are jq's.
show_report() {
  cells '
    def day: if . == null then null else .[0:10] end;
    ["SECRET", "KIND", "LAST ROTATED", "NEXT ROTATION", "OVERLAP", "DELIVERY", "OWNER", "CONTACT"],
    (.secrets[] | [.secret, .kind, (([.lastRotated] + [.byHand[].done] | map(values) | max) | day),
      (([.nextRotation] + [.byHand[].due] | map(values) | min) | day), .overlap, .delivery, .owner, .contact]) | row' | table
  cells '
    (.secrets[] | .secret as $secret | (
      (.problems[] | ["\($secret): \(.detail)", .repair]),
      (.byHand[] | select(.isDue) | ["\($secret): due by hand: \(.member // "the whole text"), last \(.done // "never recorded")",
        "rotation put \($secret) \(.member // "")"])
    )) | "\n\(.[0] | clean)\n     repair: \(.[1] | clean)"'
  cells '
    if .reads == null then empty
    elif .reads.unknown then "\nwho read what is not known: \(.reads.unknown | clean)"
    else "\nwho read what in the last \(.reads.days) days: \(.reads.rows | length) lines, with --json or --html" end'
}

# Every member of an answer, a line each.
show_members() {
  cells '
    del(.action, .instances) | to_entries[] | [.key, (.value |
      if type == "array" then (map(if type == "object" then tojson else tostring end) | join(", ")) else . end
    )] | row' | table
  cells '.instances // [] | .[] | "instance \(tojson | clean)"'
}

# Prints the answer to an action, and ends with 4 when it says that something needs attention.
show() {
  if $as_json; then
    printf '%s' "$answer" | jq .
  else
    case $1 in
      status) show_status ;;
      doctor) show_findings ;;
      report) show_report ;;
      *) show_members ;;
    esac
  fi
  case $1 in
    verify)
      is_true '.verified' && return
      tell 'nothing could prove the value: no application is asked (TargetVerifyUrl)'
      ;;
    doctor) is_true '.healthy' && return ;;
    sweep)
      is_true '.complete and .failed == 0 and .overlapsExpired == 0
        and ([.overdue, .stuck, .unfinished, .keysMissing, .problems, .dueByHand,
          [.notDelivered[]? | select(.late)]] | all(length == 0))' && return
      tell 'something needs attention: infra/RUNBOOK.md'
      ;;
    put)
      is_true 'has("notRecorded") | not' && return
      tell 'the value is stored; the tag with its date was not set'
      ;;
    *) return ;;
  esac
  exit 4
}

is_true() {
  printf '%s' "$answer" | jq -e "$1" >/dev/null
}

# A line for people.
tell() {
  $as_json || printf '%s%s%s\n' "$yellow" "$1" "$plain" >&2
}

# When a secret was last rotated, by a function or by hand, its next rotation and its owner, from what describe-secret or
# list-secrets answers. The two versions of the AWS CLI write times differently.
# shellcheck disable=SC2016 # The variables are jq's.
secret_rows='
  def clean: tostring | gsub("[[:cntrl:]]"; "?");
  def time: if . == null then null elif type == "number" then floor | todate else .[0:19] + "Z" end;
  def tag($name): [.Tags // [] | .[] | select((.Key | ascii_downcase) == $name).Value][0];
  def rows: {
    secret: .Name,
    lastRotated: ([(.LastRotatedDate | time), (.Tags // [] | .[] | select(.Key | startswith("rotation:done")).Value)]
      | map(select(. != null)) | max),
    nextRotation: (if .RotationEnabled then (.NextRotationDate | time) // "on demand"
      elif .Name | endswith("/key-archive") then "archive of keys" else "by hand" end),
    owner: (tag("owner") // tag("contact"))
  };'

# The table of all secrets.
fleet() {
  local filter=()
  if [ -n "$name_prefix" ]; then filter=(--filters "Key=name,Values=$name_prefix"); fi
  aws_json secretsmanager list-secrets ${filter[@]+"${filter[@]}"}
  show_fleet "$(printf '%s' "$captured_out" | jq -c '.SecretList')"
}

show_fleet() {
  answer=$(printf '%s' "$1" | jq -c "$secret_rows {secrets: (map(rows) | sort_by(.secret))}")
  if $as_json; then
    printf '%s' "$answer" | jq .
  else
    cells '["SECRET", "LAST ROTATED", "NEXT ROTATION", "OWNER"], (.secrets[] | [.secret, .lastRotated, .nextRotation, .owner]) | row' |
      table
  fi
}
