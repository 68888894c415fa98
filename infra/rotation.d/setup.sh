# shellcheck shell=bash
# setup: a stack's first day.

# The secrets that setup is about, as list-secrets describes them, in $secrets.
find_secrets() {
  local name filter=()
  if [ ${#arguments[@]} -gt 0 ]; then
    describe_each "${arguments[@]}"
    return
  fi
  if [ -n "$name_prefix" ]; then filter=(--filters "Key=name,Values=$name_prefix"); fi
  if capture aws_cli secretsmanager list-secrets ${filter[@]+"${filter[@]}"}; then
    secrets=$(printf '%s' "$captured_out" | jq -c .SecretList)
    return
  fi
  # A role without ListSecrets. The stack names the secrets of its own.
  case $captured_err in
    *AccessDenied*) ;;
    *) complain ;;
  esac
  describe_each "$(output AdminTokenSecret)" "$(output EncryptionKeySecret)" "$(output IssuedCredentialSecret)"
  [ "$secrets" != '[]' ] || fail 3 'your role may not list secrets, and no stack names them: name the secrets, or --stack'
}

describe_each() {
  local name all=''
  for name in "$@"; do
    [ -n "$name" ] || continue
    describe "$(full_name "$name")"
    all=$all$description
  done
  secrets=$(printf '%s' "$all" | jq -sc .)
}

# The names of the secrets that a function rotates, a line each.
managed_secrets() {
  printf '%s' "$secrets" | jq -r '.[] | select(.RotationEnabled).Name'
}

heading() {
  if ! $as_json; then printf '%s%s%s\n' "$bold" "$1" "$plain"; fi
}

# A line of the result: what became of a secret or of a variable.
note() {
  results+=("$(jq -nc --arg name "$1" --arg result "$2" '{$name, $result}')")
  if ! $as_json; then printf '  %s: %s\n' "$1" "$2"; fi
}

# The same for what is left to do.
note_left() {
  left=4
  note "$1" "$2"
}

# The first rotation of secrets that have no value yet.
fill_empty() {
  local name
  for name in $(managed_secrets); do
    invoke "$operate" "$(request_of status "$name")"
    if is_error; then
      note_left "$name" "$(error_told)"
    elif is_true '.problem.error == "EmptyValue"'; then
      rotate_and_follow "$name"
      if $as_json; then is_true '.state == "succeeded"' || left=4; else conclude || left=4; fi
      note "$name" "$state"
    elif is_true '.problem'; then
      note_left "$name" "$(printf '%s' "$answer" | jq -r '"\(.problem.error): \(.problem.message)"')"
    else
      note "$name" 'has a value'
    fi
  done
}

# What a function rotates in the secret is not stored: the members of its tags, and what the function keeps beside it.
skip_rotated() {
  local fields field i
  describe "$1"
  fields=$(printf '%s' "$description" | jq -r '.Tags // [] | .[] | select(.Key | . == "rotation:field" or . == "rotation:fields").Value | splits(" +")')
  for field in $fields; do
    for ((i = 0; i < ${#env_names[@]}; i++)); do
      case ${env_names[i]} in
        "$field" | "$field"_*) env_skipped[i]="a function rotates it" ;;
      esac
    done
  done
}

note_skipped() {
  case ${env_skipped[$1]} in
    *' has it again' | *'rotates it') note "${env_names[$1]}" "skipped: ${env_skipped[$1]}" ;;
    *) note_left "${env_names[$1]}" "skipped, line ${env_lines[$1]}: ${env_skipped[$1]}" ;;
  esac
}

# All variables into one secret, in one request.
import_into() {
  local name=$1 i result
  skip_rotated "$name"
  if members_of_file; then
    send_put "$name" "$members"
    members=''
    result="stored in $name"
    if is_error; then
      result=$(error_told)
      left=4
    fi
  fi
  for ((i = 0; i < ${#env_names[@]}; i++)); do
    if [ -n "${env_skipped[i]}" ]; then note_skipped "$i"; else note "${env_names[i]}" "$result"; fi
  done
}

# Each variable into the secret of its name.
import_each() {
  local i name
  for ((i = 0; i < ${#env_names[@]}; i++)); do
    name=$name_prefix$(printf '%s' "${env_names[i]}" | tr '[:upper:]_' '[:lower:]-')
    if [ -n "${env_skipped[i]}" ]; then
      note_skipped "$i"
    elif ! capture aws_cli secretsmanager describe-secret --secret-id "$name"; then
      case $captured_err in
        *ResourceNotFound*) ;;
        *) complain ;;
      esac
      note_left "${env_names[i]}" "there is no secret for it: aws secretsmanager create-secret --name $name --secret-string '{}'"
    elif printf '%s' "$captured_out" | jq -e .RotationEnabled >/dev/null; then
      note "${env_names[i]}" "skipped: a function rotates $name"
    else
      json_string "${env_values[i]}"
      send_put "$name" "\"value\":$json"
      json=''
      if is_error; then
        note_left "${env_names[i]}" "$(error_told)"
      else
        note "${env_names[i]}" "stored in $name"
      fi
    fi
  done
}

verify_all() {
  local name
  for name in $(managed_secrets); do
    invoke "$operate" "$(request_of verify "$name")"
    if is_error; then
      note_left "$name" "$(error_told)"
    elif is_true .verified; then
      note "$name" "verified by $(printf '%s' "$answer" | jq -r '.by | join(", ")')"
    else
      note "$name" 'not proven: no application is asked (TargetVerifyUrl)'
    fi
  done
}

setup() {
  local name what
  left=0
  results=()
  log_start=$(($(date +%s) - 3600))000
  if [ -n "$env_file" ]; then
    [ -n "$into$name_prefix" ] || fail 3 'setup --env needs --into NAME, or the prefix of the secrets (--stack, --name-prefix)'
    read_dotenv "$env_file"
    refuse_history
  fi
  find_secrets
  what=${stack:-${name_prefix:-setup}}
  confirm "Rotate the empty ones of $(printf '%s' "$secrets" | jq length) secrets${env_file:+, and import $env_file}" "$what"
  [ -z "$env_file" ] || ask_reason
  heading 'First values'
  fill_empty
  if [ -n "$env_file" ]; then
    heading "$env_file"
    if [ -n "$into" ]; then import_into "$(full_name "$into")"; else import_each; fi
    env_values=()
  fi
  heading 'Verification'
  verify_all
  heading 'Secrets'
  find_secrets
  if $as_json; then
    answer=$(printf '%s' "$secrets" | jq -c "$secret_rows {secrets: (map(rows) | sort_by(.secret))}")
    # By the pipe: an argument takes no more than 128 KB.
    printf '%s\n' "$answer" ${results[@]+"${results[@]}"} | jq -s --argjson left "$left" \
      '{action: "setup", complete: ($left == 0), results: .[1:], secrets: .[0].secrets}'
  else
    show_fleet "$secrets"
  fi
  exit "$left"
}
