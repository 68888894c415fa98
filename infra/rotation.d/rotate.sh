# shellcheck shell=bash
# rotate: begins a rotation, and follows its four steps.

# Begins a rotation of $1, or takes up an open one. Sets $version, and $known: how many lines of its log are of earlier
# attempts.
begin_rotation() {
  local name=$1
  describe "$name"
  function_arn=$(printf '%s' "$description" | jq -r '.RotationLambdaARN // ""')
  last_rotated=$(printf '%s' "$description" | jq -r '.LastRotatedDate // ""')
  [ -n "$function_arn" ] || fail 1 "no function rotates $name: adopt it (infra/ADOPT.md), or store a value with put"
  version=$(printf '%s' "$description" | jq -r '[.VersionIdsToStages // {} | to_entries[]
    | select(.value | index("AWSPENDING") and (index("AWSCURRENT") | not)).key][0] // ""')
  known=0
  failed_before=''
  if [ -n "$version" ]; then
    if read_steps; then
      known=$(printf '%s' "$steps" | jq length)
    else
      read_failure "$name"
      failed_before=$(printf '%s' "$answer" | jq -r '.lastFailure.at? // ""')
    fi
  fi
  if capture aws_cli secretsmanager rotate-secret --secret-id "$name"; then
    version=$(printf '%s' "$captured_out" | jq -r .VersionId)
    known=0
    return
  fi
  case $captured_err in
    *"A previous rotation isn't complete"*) tell 'a rotation was open: it is continued' ;;
    *) complain ;;
  esac
  [ -n "$version" ] || fail 1 'another rotation is open, and shows no version yet: try again'
}

# The steps of $version in the rotation function's log, in $steps; fails when the log cannot be read.
read_steps() {
  capture aws_cli logs filter-log-events --log-group-name "$(log_of "$function_arn")" --start-time "$log_start" \
    --filter-pattern "{ \$.version = \"$version\" }" --query 'events[].message' || return 1
  steps=$(printf '%s' "$captured_out" | jq -c '
    [.[] | fromjson? | select(.message == "step done" or .message == "step failed")
      | {step, ok: (.message == "step done"), errorType: .error_type, error, durationMs: .duration_ms, previousAcceptedUntil: .previous_accepted_until}]')
}

# The same from the answer of operate, which tells of a failure only. One of an earlier attempt does not count.
read_failure() {
  invoke "$operate" "$(request_of status "$1")"
  steps=$(printf '%s' "$answer" | jq -c --arg version "$version" --arg before "$failed_before" '
    [.lastFailure? | objects | select(.version == $version and .at != $before) | {step, ok: false, errorType: .error, error: .message}]')
}

is_current() {
  describe "$1"
  printf '%s' "$description" | jq -e --arg version "$version" --arg last "$last_rotated" '
    (.VersionIdsToStages[$version] // [] | index("AWSCURRENT")) and ((.LastRotatedDate // "") | tostring) != $last' >/dev/null
}

# Prints the steps that are new since the last time; what fails again in the same way, once.
print_steps() {
  local line before=''
  while [ "$shown" -lt "$(printf '%s' "$steps" | jq length)" ]; do
    line=$(printf '%s' "$steps" | jq -r --argjson n "$shown" '
      def clean: tostring | gsub("[[:cntrl:]]"; "?");
      .[$n] | (.step + "             " | .[0:13]) + (if .ok then "done" else "FAILED  \(.errorType): \(.error | clean)" end)')
    if ! $as_json && [ "$line" != "$before" ]; then printf '  %4s s  %s\n' "$((SECONDS - began))" "$line"; fi
    before=$line
    shown=$((shown + 1))
  done
}

has_failed() {
  printf '%s' "$steps" | jq -e --argjson known "$known" '.[$known:] | any(.ok | not)' >/dev/null
}

has_finished() {
  printf '%s' "$steps" | jq -e --argjson known "$known" '.[$known:] | any(.ok and .step == "finishSecret")' >/dev/null
}

# Follows the rotation to its end. Sets $state: succeeded, failed or unfinished.
follow() {
  local name=$1 late=0
  shown=$known
  steps='[]'
  state=unfinished
  while [ $((SECONDS - began)) -le "$timeout" ]; do
    read_steps || read_failure "$name"
    if [ "$known" -gt "$(printf '%s' "$steps" | jq length)" ]; then known=0 shown=0; fi
    print_steps
    if has_finished; then
      state=succeeded
      return
    fi
    if has_failed; then
      state=failed
      return
    fi
    # The log may show a step later than the secret.
    if is_current "$name"; then
      late=$((late + 1))
      if [ "$late" -gt 3 ]; then
        state=succeeded
        return
      fi
    fi
    sleep 1
  done
}

# What doctor finds, after a step has failed.
repairs() {
  invoke "$operate" "$(request_of doctor "$1")"
  printf '%s' "$answer" | jq -c '[.findings? // [] | .[] | select(.ok | not) | {check, detail, repair}]' 2>/dev/null || printf '[]'
}

# Rotates $1 and follows it. The result is in $answer.
rotate_and_follow() {
  local name=$1 findings='[]'
  began=$SECONDS
  begin_rotation "$name"
  if ! $as_json; then printf '%s: rotation to version %s\n' "$name" "$version"; fi
  goes_on="The rotation goes on: rotation status $name shows its end"
  follow "$name"
  goes_on=''
  if [ "$state" = failed ]; then findings=$(repairs "$name"); fi
  [ -n "$findings" ] || findings='[]'
  answer=$(printf '%s' "$steps" | jq -c --arg secret "$name" --arg version "$version" --arg state "$state" \
    --argjson findings "$findings" --argjson seconds "$((SECONDS - began))" --argjson known "$known" '
    {action: "rotate", $secret, $version, $state, $seconds, steps: (.[$known:] | map(with_entries(select(.value != null))))}
    + (if $state == "failed" then {$findings} else {} end)')
}

# The last lines for people, and the exit code.
conclude() {
  local code=0
  case $state in
    failed) code=1 ;;
    unfinished) code=5 ;;
  esac
  if $as_json; then
    printf '%s' "$answer" | jq .
    return "$code"
  fi
  case $state in
    succeeded)
      printf '%srotated%s' "$green" "$plain"
      cells '[.steps[].previousAcceptedUntil // empty][-1] // empty | "; the previous value is accepted until \(.)"' | tr -d '\n'
      printf '\n'
      ;;
    failed)
      printf '%sfailed%s: Secrets Manager tries again by itself; AWSCURRENT has not moved, or was put back\n' "$red" "$plain"
      cells '.findings[] | "  \(.check): \(.detail | clean)\n  repair: \(.repair | clean)"'
      ;;
    unfinished)
      printf '%snot finished%s after %s s: rotation status %s\n' "$yellow" "$plain" "$timeout" "$name"
      ;;
  esac
  return "$code"
}

# The same of a secret with consumers: a rotation is at its end when all have the value.
conclude_with_delivery() {
  local rotation=$answer
  if ! $as_json; then conclude; fi
  deliver_and_follow "$1"
  if $as_json; then
    printf '%s' "$answer" | jq --argjson rotation "$rotation" '$rotation + {delivery: .secrets[0]}'
  fi
  end_delivery
}

rotate() {
  local name
  name=$(full_name "${arguments[0]}")
  confirm "Rotate $name now" "$name"
  log_start=$(($(date +%s) - 3600))000
  if $wait; then
    rotate_and_follow "$name"
    if [ "$state" != succeeded ]; then
      conclude
      exit
    fi
    goes_on="The rotation has succeeded; rotation deliver $name --dry-run shows its delivery"
    if has_consumers "$name"; then conclude_with_delivery "$name"; fi
    conclude
    exit
  fi
  begin_rotation "$name"
  answer=$(jq -nc --arg secret "$name" --arg version "$version" '{action: "rotate", $secret, $version, state: "begun"}')
  if $as_json; then
    printf '%s' "$answer" | jq .
  else
    printf '%s: rotation to version %s has begun; rotation status %s shows its end\n' "$name" "$version" "$name"
  fi
}
